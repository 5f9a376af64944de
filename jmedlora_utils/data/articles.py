"""One's own articles: read from a folder or a JSONL file, and cut into texts that fit into a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import RecordError, iter_jsonl
from jmedlora_utils.data.curation import normalise

SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Article:
    """One article; `id` is unique, the title may be empty."""

    id: str
    text: str
    title: str = ""


def load_articles(path: Path | str) -> tuple[list[Article], dict[str, int]]:
    """Reads a folder of .txt and .md files (with subfolders), or a JSONL file with `id`, `text` and perhaps `title`.

    Returns:
        The articles in the order of their ids (folder) or lines (JSONL), and counts: `read`, `empty` (left out), and
        `same text` (left out: copies of an article under another id, which would end on both sides of the split).

    Raises:
        JmedloraError: Nothing to read, a file that is not UTF-8, a broken line, a missing field or an id used twice.
    """
    if not str(path):
        raise JmedloraError("parameter articles_path is empty; name a folder of .txt or .md files or a JSONL (book/own_articles.md)")
    path = Path(path).expanduser()
    if path.is_dir():
        found = list(_read_folder(path))
    elif path.is_file():
        found = list(_read_lines(path))
    else:
        looked = "" if path.is_absolute() else f" (looked for below {paths.relative(Path.cwd())}/; write the whole path)"
        mend = "give a folder of .txt or .md files or a JSONL"
        raise JmedloraError(f"parameter articles_path: {path} is neither a folder nor a file{looked}; {mend}")
    kept: dict[str, Article] = {}
    for article in found:
        if article.text.strip():
            kept.setdefault(normalise(article.text), article)
    empty = sum(not a.text.strip() for a in found)
    if not kept:
        raise JmedloraError(f"parameter articles_path: {path} holds no text; {empty} articles in it are empty")
    return list(kept.values()), {"read": len(found), "empty": empty, "same text": len(found) - empty - len(kept)}


def _read_folder(folder: Path) -> Iterator[Article]:
    inside = sorted(p for p in folder.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts))
    files = [p for p in inside if p.suffix.lower() in SUFFIXES]
    if not files:
        other = sorted({p.suffix or p.name for p in inside})
        seen = f"; it holds {', '.join(other[:5])}: convert them to plain text" if other else "; it is empty"
        raise JmedloraError(f"parameter articles_path: no .txt or .md file below {folder}{seen}")
    for path in files:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            mend = "save the file as UTF-8 (for Shift_JIS: iconv -f CP932 -t UTF-8)"
            raise JmedloraError(f"{path}: byte {error.start} is not UTF-8; {mend}") from error
        yield Article(path.relative_to(folder).as_posix(), text)


def _read_lines(path: Path) -> Iterator[Article]:
    lines: dict[str, int] = {}
    try:
        for number, row in iter_jsonl(path):
            where = f"{path}:{number}"
            for name in ("id", "text"):
                if name not in row:
                    raise JmedloraError(f'{where}: field {name!r} is missing; a line is {{"id": ..., "text": ..., "title": ...}}')
            if isinstance(row["id"], bool) or not isinstance(row["id"], str | int) or not str(row["id"]).strip():
                raise JmedloraError(f"{where}: field 'id' must be a text or a whole number, found {row['id']!r}")
            for name in ("text", "title"):
                if not isinstance(row.get(name, ""), str):
                    raise JmedloraError(f"{where}: field {name!r} must be a text, found {type(row[name]).__name__}")
            key = str(row["id"])
            if key in lines:
                raise JmedloraError(f"{where}: id {key!r} stands in line {lines[key]} too; ids must differ")
            lines[key] = number
            yield Article(key, row["text"], row.get("title", ""))
    except (RecordError, UnicodeDecodeError) as error:
        where = "" if isinstance(error, RecordError) else f"{path}: not UTF-8; "
        raise JmedloraError(f"parameter articles_path: {where}{error}") from error


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters: cut between paragraphs, else lines, else sentences, else anywhere.

    Joined, the parts are the text again; nothing is left out.
    """
    parts: list[str] = []
    while len(text) > limit:
        head = text[:limit]
        cuts = [[m.end() for m in re.finditer(pattern, head)] for pattern in (r"\n\s*\n", r"\n", r"[。．!?!?]|\.\s")]
        cut = next((ends[-1] for ends in cuts if ends and ends[-1] >= limit // 2), limit)
        parts.append(text[:cut])
        text = text[cut:]
    return [*parts, text] if text.strip() or not parts else [*parts[:-1], parts[-1] + text]
