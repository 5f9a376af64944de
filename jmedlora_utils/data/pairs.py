"""Reads question-answer pairs out of what a language model wrote; nothing in a pair is altered.

Asked for one JSON object a line, models also write prose, numbering, code fences, arrays, typographic quotes or half an
object. What can be read without guessing is read; the rest is kept as a reject with its reason.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

KEYS = ("instruction", "output")
REASONS = (
    "empty answer",
    "outside text",
    "truncated",
    "broken object",
    "invalid escape",
    "key missing",
    "duplicate key",
    "not text",
    "empty text",
)

_QUOTES = {'"': '"', "＂": "＂", "“": "”", "”": "”", "„": "“", "'": "'", "‘": "’", "「": "」", "『": "』"}
_AFTER_STRING = re.compile(r"[^\S\n]*(?:$|[\n,，、:：}｝])")
_SPACE = re.compile(r"\s*")
_BARE_QUOTE = re.compile(r'((?:^|[^\\])(?:\\\\)*)"')
_NEXT_OBJECT = re.compile(r"(?:\n[\s\d.．、):）*•\-\[]*|[\[}｝]\s*[,，、]?\s*)(?=[{｛])")
_LAYOUT = re.compile(r"^\s*(?:```\s*\w*|[\[\]］［,，、;；\s]*|[\s\[,，]*(?:[-*•・]|[(（]?\d{1,3}[.．、):）]?)[\s\[]*)$")
# At a line's end or before an object: inside a value it belongs to the text.
_THINK_END = re.compile(r"</think>(?=[^\S\n]*[\n\[{｛`])")


@dataclass(frozen=True)
class Pair:
    """One question and its answer, as the model wrote them; `input` is empty where it wrote none."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True)
class Reject:
    """A piece of the answer that is no pair: the reason, one of `REASONS`, and the piece as it stood."""

    reason: str
    raw: str


@dataclass
class Parsed:
    """What one answer holds, in its order."""

    pairs: list[Pair] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


class _Object(list[tuple[str, object]]):
    """A JSON object as its (key, value) items, so that a key given twice stays visible."""


class _Unreadable(ValueError):
    """An object that cannot be read; the argument is the reason."""


def parse_pairs(text: str) -> Parsed:
    """Reads every object with the keys `instruction` and `output`, wherever it stands.

    Tolerated: prose around the objects, numbering, bullets, code fences, arrays, wrapping objects, typographic or
    single quotes, full-width punctuation, unescaped quotes inside a value, trailing commas, raw line breaks in a value,
    the case of the keys, further keys, and a `<think>` block before the answer. A piece that is cut off, or that can be
    read in two ways, is a reject.
    """
    parsed = Parsed()
    position = max((end.end() for end in _THINK_END.finditer(text)), default=0)
    if text.lstrip().startswith("<think>") and not position:
        finished = text.rstrip().endswith("</think>")
        parsed.rejects.append(Reject("empty answer" if finished else "truncated", text))
        return parsed
    if not text[position:].strip():
        parsed.rejects.append(Reject("empty answer", text))
        return parsed
    while True:
        opening = _find_opening(text, position)
        _note_outside(text[position:opening], parsed)
        if opening == len(text):
            return parsed
        try:
            found, position = _read_object(text, opening)
        except _Unreadable as problem:
            resume = _NEXT_OBJECT.search(text, opening + 1)
            position = resume.end() if resume else len(text)
            parsed.rejects.append(Reject(str(problem), text[opening:position].strip()))
        else:
            _collect(found, text[opening:position], parsed)


def _find_opening(text: str, position: int) -> int:
    found = [i for i in (text.find("{", position), text.find("｛", position)) if i >= 0]
    return min(found, default=len(text))


def _note_outside(between: str, parsed: Parsed) -> None:
    """Keeps the lines between objects that are more than layout: fences, brackets, commas, numbering."""
    parsed.rejects.extend(Reject("outside text", line.strip()) for line in between.split("\n") if not _LAYOUT.match(line))


def _read_object(text: str, start: int) -> tuple[_Object, int]:
    """Reads the object that opens at `start`, strictly and then leniently; returns it and the position after it."""
    if text[start] == "{":
        try:
            return _DECODER.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            pass  # the lenient reader has its own reasons
    return _read_lenient(text, start)


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_Object)


def _read_lenient(text: str, start: int) -> tuple[_Object, int]:
    """A flat object of texts with whatever quotes and separators."""
    items = _Object()
    position = _skip(text, start + 1)
    while True:
        if text[position] in "}｝":
            return items, position + 1
        key, position = _read_string(text, position)
        position = _skip(text, position)
        if text[position] not in ":：":
            raise _Unreadable("broken object")
        value, position = _read_string(text, _skip(text, position + 1))
        items.append((key, value))
        position = _skip(text, position)
        if text[position] in ",，、":
            position = _skip(text, position + 1)
        elif text[position] not in "}｝":
            raise _Unreadable("broken object")


def _skip(text: str, position: int) -> int:
    """The next position that is no blank; the end of the text inside an object means that it was cut off."""
    position = _SPACE.match(text, position).end()  # type: ignore[union-attr]  # the pattern also matches nothing
    if position == len(text):
        raise _Unreadable("truncated")
    return position


def _read_string(text: str, start: int) -> tuple[str, int]:
    """Reads a quoted text on one line; it ends at its closing quote before a separator, so bare quotes inside are kept."""
    closing = _QUOTES.get(text[start])
    if closing is None:
        raise _Unreadable("broken object")
    position = start + 1
    while position < len(text) and text[position] != "\n":
        if text[position] == "\\":
            position += 2
        elif text[position] == closing and _AFTER_STRING.match(text, position + 1):
            return _unescape(text[start + 1 : position]), position + 1
        else:
            position += 1
    raise _Unreadable("truncated")


def _unescape(body: str) -> str:
    """Undoes JSON escapes; quotes that the model forgot to escape stand for themselves."""
    while (escaped := _BARE_QUOTE.sub(r'\1\\"', body)) != body:
        body = escaped
    try:
        return json.loads(f'"{body}"', strict=False)
    except json.JSONDecodeError as error:
        raise _Unreadable("invalid escape") from error


def _collect(found: _Object, raw: str, parsed: Parsed) -> None:
    """Adds the pair that `found` is, those inside it, or the reason why it is none."""
    keys = [key.strip().lower() for key, _ in found]
    nested = [child for _, value in found for child in _objects_in(value)]
    if not set(KEYS) & set(keys) and nested:
        for child in nested:
            _collect(child, raw, parsed)
        return
    values = {key: value for key, (_, value) in zip(keys, found, strict=True)}
    wanted = [values.get(key) for key in KEYS]
    extra = values.get("input", "")
    if any(keys.count(key) > 1 for key in (*KEYS, "input")):
        parsed.rejects.append(Reject("duplicate key", raw))
    elif not set(KEYS) <= set(keys):
        parsed.rejects.append(Reject("key missing", raw))
    elif not all(isinstance(value, str) for value in (*wanted, extra)):
        parsed.rejects.append(Reject("not text", raw))
    elif not all(str(value).strip() for value in wanted):
        parsed.rejects.append(Reject("empty text", raw))
    else:
        parsed.pairs.append(Pair(str(wanted[0]), str(wanted[1]), str(extra)))


def _objects_in(value: object) -> list[_Object]:
    """The outermost objects in a value, in order."""
    if isinstance(value, _Object):
        return [value]
    if isinstance(value, list):
        return [child for item in value for child in _objects_in(item)]
    return []
