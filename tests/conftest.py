"""Fixtures of all tests: where the project is, and a small project of dummy notebooks."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from jmedlora_utils.book import builder, provenance
from jmedlora_utils.core import paths, presets
from tests.servers import run_python

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("loaded", deadline=None)  # a busy machine is no failure
settings.load_profile("loaded")


def write_notebook(path: Path, parameters: str, *code: str) -> None:
    """A notebook of an H1, a parameters cell and code cells, as it would lie in git."""

    def cell(number: int, source: str, tags: list[str]) -> dict[str, Any]:
        metadata = {"tags": tags} if tags else {}
        return {"cell_type": "code", "id": f"c{number}", "metadata": metadata, "source": source, "outputs": [], "execution_count": None}

    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {path.stem}"}]
    cells.append(cell(0, parameters, ["parameters"]))
    cells += [cell(number, source, []) for number, source in enumerate(code, start=1)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


class Project:
    """A copy of the package and the Snakefile in a folder of its own, with dummy notebooks and a preset `mini`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notebooks = root / "notebooks"
        self.preset = self.notebooks / "presets" / "mini.yaml"
        self.preset.parent.mkdir(parents=True)
        shutil.copytree(paths.ROOT / "jmedlora_utils", root / "jmedlora_utils", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "constraints.txt", "_config.yml", "CITATION.cff"):
            shutil.copy(paths.ROOT / name, root)
        shutil.copytree(paths.BOOK / "_static", root / "book" / "_static")
        shutil.copytree(provenance.BENCHMARKS, root / "benchmarks" / "results")
        (root / "book" / "references.bib").touch()
        (root / "book" / "intro.md").write_text("# Title\n", encoding="utf-8")
        chapters = [{"file": f"notebooks/{stem}"} for stem in ("10_prepare_instructions", "20_tune_lora", "41_metrics")]
        toc = {"format": "jb-book", "root": "book/intro", "parts": [{"caption": "All", "chapters": chapters}]}
        (root / "_toc.yml").write_text(json.dumps(toc), encoding="utf-8")
        self.preset.write_text("seeds: [1]\nprepare: {10_prepare_instructions: {}}\nruns: {a: {tune: {rank: 8}}}\n", encoding="utf-8")
        common = 'preset = "mini"  # preset\nseed = 1  # seed\nbase = "en"  # base\n'
        write_notebook(
            self.notebooks / "10_prepare_instructions.ipynb", common + 'bases = ["en"]  # bases\n', "print('prepared', preset, seed)"
        )
        write_notebook(self.notebooks / "20_tune_lora.ipynb", common + 'run_name = ""  # run\nrank = 4  # rank\n', "print('rank', rank)")
        write_notebook(self.notebooks / "41_metrics.ipynb", 'preset = "mini"  # preset\n')
        write_notebook(self.notebooks / "30_evaluate_exam.ipynb", common + 'run_name = ""  # run\n', "print('evaluated', run_name)")

    def run(self, *arguments: str, runs: str = "") -> subprocess.CompletedProcess[str]:
        """Runs `python -m <arguments>` in the project, with its own copy of the package; `runs` is its `JMEDLORA_RUNS`."""
        return run_python("-m", *arguments, cwd=self.root, JMEDLORA_RUNS=runs)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The dummy project, for calls inside this process."""
    places = {"ROOT": project.root, "BOOK": project.root / "book", "PACKAGE": project.root / "jmedlora_utils"}
    for name, folder in (places | {"NOTEBOOKS": project.notebooks, "PRESETS": project.notebooks / "presets"}).items():
        monkeypatch.setattr(paths, name, folder)
    monkeypatch.setattr(builder, "STAGING", project.root / "_book")
    monkeypatch.setenv("JMEDLORA_RUNS", str(project.root / "runs"))
    presets.declared_parameters.cache_clear()
    yield project
    presets.declared_parameters.cache_clear()
