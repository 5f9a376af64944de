"""One's own articles: read from a folder or a JSONL file, and cut into texts that fit into a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import iter_jsonl, read_text
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.data.curation import normalise

SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Article:
    """One article; `id` is unique, the title may be empty."""

    id: str
    text: str
    title: str = ""


class _Line(Checked, extra="ignore"):
    id: Annotated[str, Field(pattern=r"\S")] | int
    text: str
    title: str = ""


def load_articles(path: Path | str) -> tuple[list[Article], dict[str, int]]:
    """Reads a folder of .txt and .md files (with subfolders), or a JSONL file with `id`, `text` and perhaps `title`.

    Returns:
        The articles in the order of their ids (folder) or lines (JSONL), and counts: `read`, `empty` (left out), and
        `same text` (left out: copies of an article under another id, which would end on both sides of the split).
    """
    if not str(path):
        raise JmedloraError("parameter articles_path is empty; name a folder of .txt or .md files or a JSONL (book/own_articles.md)")
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            found = list(_read_folder(path))
        elif path.is_file():
            found = list(_read_lines(path))
        else:
            looked = "" if path.is_absolute() else f" (looked for below {paths.relative(Path.cwd())}/; write the whole path)"
            raise JmedloraError(f"{path} is neither a folder nor a file{looked}; give a folder of .txt or .md files or a JSONL")
    except JmedloraError as error:
        raise JmedloraError(f"parameter articles_path: {error}") from error
    kept: dict[str, Article] = {}
    for article in found:
        if article.text.strip():
            kept.setdefault(normalise(article.text), article)
    empty = sum(not a.text.strip() for a in found)
    if not kept:
        raise JmedloraError(f"parameter articles_path: {path} holds no text; {empty} articles in it are empty")
    return list(kept.values()), {"read": len(found), "empty": empty, "same text": len(found) - empty - len(kept)}


def visible(folder: Path) -> list[Path]:
    """Files and folders below a folder, in order, without the hidden ones."""
    return sorted(p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _read_folder(folder: Path) -> Iterator[Article]:
    inside = visible(folder)
    for path in inside:
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise JmedloraError(f"{path} is a link to {path.resolve()}, outside the folder; remove it, or put a copy in its place")
    files = [p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not files:
        other = sorted({p.suffix or p.name for p in inside if p.is_file()})
        seen = f"; it holds {', '.join(other[:5])}: convert them to plain text" if other else "; it is empty"
        raise JmedloraError(f"no .txt or .md file below {folder}{seen}")
    for path in files:
        yield Article(path.relative_to(folder).as_posix(), read_text(path))


def _read_lines(path: Path) -> Iterator[Article]:
    lines: dict[str, int] = {}
    for number, row in iter_jsonl(path):
        where = f"{path}:{number}"
        line = _Line.read(row, where)
        article = Article(str(line.id), line.text, line.title)
        if article.id in lines:
            raise JmedloraError(f"{where}: id {article.id!r} is already used in line {lines[article.id]}; ids must differ")
        lines[article.id] = number
        yield article


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters: cut between paragraphs, else lines, else sentences, else anywhere.

    Joined, the parts are the text again; nothing is left out.
    """
    parts: list[str] = []
    while len(text) > limit:
        head = text[:limit]
        cuts = [[m.end() for m in re.finditer(pattern, head)] for pattern in (r"\n\s*\n", r"\n", r"[。．！？!?]|\.\s")]
        cut = next((ends[-1] for ends in cuts if ends and ends[-1] >= limit // 2), limit)
        parts.append(text[:cut])
        text = text[cut:]
    return [*parts, text] if text.strip() or not parts else [*parts[:-1], parts[-1] + text]
