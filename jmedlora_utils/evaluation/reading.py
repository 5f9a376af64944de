"""What a response says: which choices it names in letters, texts or both, or which number it states."""

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache

from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.questions import LETTERS, Question, answer_mask, fill_mask

_OPENING = re.compile(r"^(?:(?:the)?(?:correct)?answer|答え|こたえ|解答|回答|正解|正答|応答)(?:(?:は|is|are)[:、,]?|:)", re.IGNORECASE)
_CLOSING = re.compile(r"(?:です|である|だ|が正しい|が正解)$")
_BETWEEN = re.compile(r"(?:[、,，､・/;&+と]|および|及び|and)+")
_LABEL = re.compile(r"[(\[「【]?([a-j])[)\]」】.:、,]?")
_LONE_LABEL = re.compile(r"[(\[「【]?[a-j](?:[)\]」】.:、,]|$)")
_RUN = re.compile(r"[a-j]{2,}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@lru_cache(maxsize=1 << 16)
def plain(text: str) -> str:
    """NFKC, lower case, no blanks, no closing stops; line breaks become `、`."""
    text = nfkc(text).casefold().strip()
    text = re.sub(r"\s*\n\s*", "、", text)
    return "".join(text.split()).rstrip("。.、,")


def read_choices(question: Question, response: str) -> frozenset[str]:
    """Letters of the choices that a response names in letters, texts or both, and nothing else; empty if unreadable.

    A response that can be read in several ways is read as the one with as many choices as the stem asks for; if
    several remain, or a letter contradicts the text beside it, it is unreadable.
    """
    choices = tuple(plain(c) for c in question.choices)
    whole = plain(response)
    for candidate in dict.fromkeys((whole, _CLOSING.sub("", _OPENING.sub("", whole)).rstrip("。.、,"))):
        readings = {s for s in _readings(candidate, choices) if s}
        asked = {s for s in readings if len(s) == question.n_select}
        for found in (asked, readings):
            ordered = sorted(found, key=sorted)
            if ordered and all(same_texts(choices, ordered[0], other) for other in ordered[1:]):
                return ordered[0]
        if not readings and _RUN.fullmatch(candidate) and list(candidate) == sorted(set(candidate)) and len(candidate) == question.n_select:
            return frozenset(candidate) if set(candidate) <= set(question.letters) else frozenset()
    return frozenset()


def _readings(text: str, choices: tuple[str, ...]) -> set[frozenset[str]]:
    """Every set of letters that the whole text can be read as."""
    done: dict[int, set[frozenset[str]]] = {len(text): {frozenset()}}
    for start in range(len(text) - 1, -1, -1):
        found: set[frozenset[str]] = set()
        for letter, end in _units(text, start, choices):
            gap = _BETWEEN.match(text, end)
            for following in {end, gap.end() if gap else end}:
                found |= {rest | {letter} for rest in done.get(following, ())}
        if found:
            done[start] = found
    return done.get(0, set())


def _units(text: str, start: int, choices: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """`(letter, end)` of every choice that the text names at `start`: its text, its letter, or the letter and its text."""
    for letter, choice in zip(LETTERS, choices, strict=False):
        if text.startswith(choice, start):
            yield from ((letter, end) for end in {start + len(choice), _skip_stop(text, start + len(choice))})
    label = _LABEL.match(text, start)
    if not label or label[1] not in LETTERS[: len(choices)]:
        return
    choice, ends = choices[LETTERS.index(label[1])], {label.end(1), label.end()}
    for end in ends:
        for opened in {end, end + 1 if text[end : end + 1] == "(" else end}:
            if text.startswith(choice, opened):
                after = opened + len(choice) + (opened > end and text.startswith(")", opened + len(choice)))
                yield from ((label[1], stop) for stop in {after, _skip_stop(text, after)})
        if end == len(text) or text[end - 1] in "、," or _BETWEEN.match(text, end) or _LONE_LABEL.match(text, end):
            yield label[1], end


def _skip_stop(text: str, at: int) -> int:
    while at < len(text) and text[at] in "。.":
        at += 1
    return at


def read_number(question: Question, response: str) -> Decimal | None:
    """The one number a response states, None where it states none or several."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", nfkc(response))
    mask = answer_mask(question.text)
    if "." in mask and text.strip().isdigit() and (filled := fill_mask(mask, text.strip())):
        return Decimal(filled)
    found = {Decimal(n) for n in _NUMBER.findall(text)}
    return found.pop() if len(found) == 1 else None


def same_texts(choices: Sequence[str], picked: Iterable[str], gold: Iterable[str]) -> bool:
    """Whether both name the same choices, where choices of equal text are one and the same."""
    texts = [sorted(choices[LETTERS.index(letter)] for letter in letters) for letters in (picked, gold)]
    return texts[0] == texts[1]
