"""What produced a result: the package's own code and the installed libraries, so that old results never pass for those of new code."""

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from jmedlora_utils.core import paths

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def produced_by(*modules: str) -> dict[str, str]:
    """The part of an identity that says which libraries and which code of this package a result depends on.

    Args:
        modules: Modules of the package that make the result, without its name: `tuning.training`. What they import, lazily or not and
            at any depth, counts too. Name every module that is started as a process of its own.

    Returns:
        The version of each of `LIBRARIES`, or "not installed"; and `code`, see `code_sha256`.
    """
    starts = "\n".join(f"import {paths.PACKAGE.name}.{module}" for module in modules)
    return {name: installed_version(name) for name in LIBRARIES} | {"code": code_sha256(files_reached(starts))}


def installed_version(distribution: str) -> str:
    """The version of an installed package, or "not installed"; imports nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def files_reached(code: str) -> set[Path]:
    """Every file of this package that a piece of code imports, directly or through what it imports."""
    reached: set[Path] = set()
    waiting = _imports(code)
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting |= _imports_of(path, path.stat().st_mtime_ns) - reached
    return reached


def code_sha256(files: Iterable[Path]) -> str:
    """SHA-256 over the syntax trees of the files: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(paths.PACKAGE).as_posix()
        digest.update(f"{name}\n{_syntax(path, path.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _imports(code: str) -> set[Path]:
    """Files of this package that the code itself imports, in functions too: the modules and the `__init__` of each folder above them."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= _files_of(alias.name, required=True)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= _files_of(node.module, required=True)
            for alias in node.names:  # a module, or a name inside one
                found |= _files_of(f"{node.module}.{alias.name}", required=False)
    return found


def _files_of(module: str, required: bool) -> set[Path]:
    first, *parts = module.split(".")
    if first != paths.PACKAGE.name:
        return set()
    folders = [paths.PACKAGE.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    own = [path for path in (folders[-1].with_suffix(".py"), folders[-1] / "__init__.py") if path.is_file()]
    if required and not own:
        raise ModuleNotFoundError(f"{module}: no such module in {paths.PACKAGE.name}; correct the import")
    return {*own, *(init for folder in folders[:-1] if (init := folder / "__init__.py").is_file())}


@cache
def _imports_of(path: Path, changed: int) -> frozenset[Path]:
    return frozenset(_imports(path.read_text(encoding="utf-8")))


@cache
def _syntax(path: Path, changed: int) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
