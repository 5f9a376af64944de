"""Reads question-answer pairs out of what a language model wrote; nothing in a pair is altered.

What can be read without guessing is read; the rest is kept as a reject with its reason. A general repairer of JSON (json-repair) is not
used: it closes what was cut off, drops what does not fit and moves quotes into the text.
"""

import json
import re
from dataclasses import dataclass, field

from jmedlora_utils.core.records import HALF

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
# A quoted text on one line: it ends at its closing quote before a separator, so bare quotes inside it are kept.
_STRING = re.compile(
    "|".join(rf"{left}((?:[^\n\\]|\\[\s\S])*?){right}(?=[^\S\n]*(?:$|[\n,，、:：}}｝]))" for left, right in _QUOTES.items())
)
_BARE_QUOTE = re.compile(r'(\\[\s\S])|"')
_COLON, _COMMA, _CLOSE = re.compile(r"\s*[:：]\s*"), re.compile(r"\s*[,，、]\s*"), re.compile(r"\s*[}｝]")
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


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_Object)


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
        return Parsed(rejects=[Reject("empty answer" if finished else "truncated", text)])
    if not text[position:].strip():
        return Parsed(rejects=[Reject("empty answer", text)])
    while True:
        found = re.compile("[{｛]").search(text, position)
        opening = found.start() if found else len(text)
        between = text[position:opening].split("\n")
        parsed.rejects += [Reject("outside text", line.strip()) for line in between if not _LAYOUT.match(line)]
        if not found:
            return parsed
        try:
            values, position = _read_object(text, opening)
        except _Unreadable as problem:
            resume = _NEXT_OBJECT.search(text, opening + 1)
            position = resume.end() if resume else len(text)
            parsed.rejects.append(Reject(str(problem), text[opening:position].strip()))
        else:
            _collect(values, text[opening:position], parsed)


def _read_object(text: str, start: int) -> tuple[_Object, int]:
    """Reads the object that opens at `start`, strictly and then leniently; returns it and the position after it."""
    if text[start] == "{":
        try:
            return _DECODER.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            pass  # the lenient reader has its own reasons
    items = _Object()
    position = start + 1
    while not (end := _CLOSE.match(text, position)):
        key, position = _read_string(text, position)
        position = _expect(_COLON, text, position)
        value, position = _read_string(text, position)
        items.append((key, value))
        if not _CLOSE.match(text, position):
            position = _expect(_COMMA, text, position)
    return items, end.end()


def _expect(separator: re.Pattern[str], text: str, position: int) -> int:
    """The position after a separator; the end of the text inside an object means that it was cut off."""
    if found := separator.match(text, position):
        return found.end()
    raise _Unreadable("broken object" if text[position:].strip() else "truncated")


def _read_string(text: str, start: int) -> tuple[str, int]:
    start = len(text) - len(text[start:].lstrip())
    if found := _STRING.match(text, start):
        return _unescape(found[found.lastindex or 0]), found.end()
    raise _Unreadable("truncated" if start == len(text) or text[start] in _QUOTES else "broken object")


def _unescape(body: str) -> str:
    """Undoes JSON escapes; quotes that the model forgot to escape stand for themselves."""
    try:
        return json.loads('"' + _BARE_QUOTE.sub(lambda quote: quote[1] or '\\"', body) + '"', strict=False)
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
    values = {"input": ""} | {key: value for key, (_, value) in zip(keys, found, strict=True)}
    texts = [values.get(key) for key in (*KEYS, "input")]
    if any(keys.count(key) > 1 for key in (*KEYS, "input")):
        parsed.rejects.append(Reject("duplicate key", raw))
    elif not set(KEYS) <= set(keys):
        parsed.rejects.append(Reject("key missing", raw))
    elif not all(isinstance(text, str) and not HALF.search(text) for text in texts):
        parsed.rejects.append(Reject("not text", raw))
    elif not all(str(text).strip() for text in texts[: len(KEYS)]):
        parsed.rejects.append(Reject("empty text", raw))
    else:
        parsed.pairs.append(Pair(*map(str, texts)))


def _objects_in(value: object) -> list[_Object]:
    """The outermost objects in a value, in order."""
    if isinstance(value, _Object):
        return [value]
    return [child for item in value for child in _objects_in(item)] if isinstance(value, list) else []
