"""Whether training records share text with exam questions: character n-grams, without splitting at whitespace.

Japanese has no blanks between words, so word n-grams find nothing there. Every text is normalised (NFKC, lower case, no
whitespace at all), and windows of 13 characters (reported) and 30 characters (enforced) are compared. Windows never cross
from one text into the next. A stem shorter than the window counts as one window of its own length, from 13 characters on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from jmedlora_utils.data.questions import Question

REPORTED = 13
ENFORCED = 30

Document = Sequence[str]
"""Texts that belong together; no window crosses from one into the next."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BREAK = 0x110000  # no character: beyond the last code point of Unicode
_CHUNK = 5_000  # records compared at a time, which bounds the memory
_FILTER_BITS = 22


@dataclass(frozen=True)
class Overlap:
    """A record that shares text with an exam.

    Attributes:
        record: Id of the record.
        exam: Name of the exam.
        n: Window length in characters.
        windows: How many windows of the record occur in the exam.
        question: Id of the first question that holds the first of them.
    """

    record: str
    exam: str
    n: int
    windows: int
    question: str


@dataclass
class Report:
    """What `check` found.

    Attributes:
        records: How many records were compared.
        questions: Name of the exam to its number of questions.
        overlaps: One per record, exam and window length that share anything.
        touched: (exam, window length) to the ids of the questions that share anything.
    """

    records: int
    questions: dict[str, int]
    overlaps: list[Overlap]
    touched: dict[tuple[str, int], set[str]]

    def contaminated(self, n: int = ENFORCED) -> set[str]:
        """Ids of the records that share a window of `n` characters with any question."""
        return {o.record for o in self.overlaps if o.n == n}

    def table(self) -> pd.DataFrame:
        """One row per exam and window length: records and questions that overlap, of how many."""
        import pandas as pd

        rows = [
            {
                "exam": exam,
                "window": n,
                "records": sum(o.exam == exam and o.n == n for o in self.overlaps),
                "of records": self.records,
                "questions": len(self.touched[exam, n]),
                "of questions": total,
            }
            for exam, total in self.questions.items()
            for n in (REPORTED, ENFORCED)
        ]
        return pd.DataFrame(rows, columns=["exam", "window", "records", "of records", "questions", "of questions"])


@dataclass
class Shared:
    """Windows that documents share with indexed documents, by position in the lists given.

    Attributes:
        windows: Document to the number of its windows that occur in any indexed document.
        example: Document to the first indexed document that holds the first of them.
        touched: Indexed documents that hold any of them.
    """

    windows: dict[int, int] = field(default_factory=dict)
    example: dict[int, int] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)


def check(records: Sequence[Mapping[str, Any]], exams: Mapping[str, Sequence[Question]]) -> Report:
    """Compares every record with every question of every exam.

    Args:
        records: Instruction records with `id`, `instruction`, `input` (may be missing) and `output`.
        exams: Name of the exam to its questions.

    Returns:
        The overlaps at 13 and at 30 characters. `enforce` drops the records with the latter.
    """
    indexed = {name: _Codes([[q.text, *q.choices] for q in questions]) for name, questions in exams.items()}
    touched: dict[tuple[str, int], set[str]] = {(name, n): set() for name in exams for n in (REPORTED, ENFORCED)}
    overlaps: list[Overlap] = []
    for first in range(0, len(records), _CHUNK):
        part = records[first : first + _CHUNK]
        query = _Codes([[r["instruction"], r.get("input", ""), r["output"]] for r in part])
        for (name, n), ids in touched.items():
            found = _shared(query, indexed[name], n, REPORTED)
            ids.update(exams[name][j].id for j in found.touched)
            for i, windows in sorted(found.windows.items()):
                overlaps.append(Overlap(str(part[i]["id"]), name, n, windows, exams[name][found.example[i]].id))
    return Report(len(records), {name: len(questions) for name, questions in exams.items()}, overlaps, touched)


def enforce(records: Sequence[dict[str, Any]], report: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits the records into those without a shared 30-character window and those with one, in order."""
    bad = report.contaminated(ENFORCED)
    return [r for r in records if str(r["id"]) not in bad], [r for r in records if str(r["id"]) in bad]


def shared_windows(documents: Sequence[Document], indexed: Sequence[Document], n: int, short: int | None = None) -> Shared:
    """Finds the windows of `n` characters that documents share with indexed documents.

    Exact: windows are found by a 64-bit hash and then compared character by character.

    Args:
        documents: Texts looked up.
        indexed: Texts looked up in.
        n: Window length in characters after normalisation.
        short: Where given, the first text of an indexed document that is shorter than `n` but has at least this many
            characters counts as one window of its own length.
    """
    return _shared(_Codes(documents), _Codes(indexed), n, short)


def normalise(text: str) -> str:
    """NFKC, lower case, every kind of whitespace removed."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


class _Codes:
    """All texts of a list of documents as one array of code points, a break after each text."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = [[normalise(text) for text in document] for document in documents]
        owners = np.array([i for i, document in enumerate(self.documents) for _ in document], dtype=np.int64)
        lengths = np.array([len(text) for document in self.documents for text in document], dtype=np.int64)
        self.text = "".join(f"{text}\x00" for document in self.documents for text in document)
        self.codes = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        ends = np.cumsum(lengths + 1) - 1
        self.codes[ends] = _BREAK
        self.owner = np.repeat(owners, lengths + 1)
        self._left = np.repeat(ends, lengths + 1) - np.arange(len(self.owner))
        self._hashes: dict[int, np.ndarray] = {}

    def windows(self, n: int) -> np.ndarray:
        """Starts of all windows of `n` characters, shape (windows,)."""
        return np.flatnonzero(self._left >= n)

    def hashes(self, n: int) -> np.ndarray:
        """Polynomial hash modulo 2**64 of the `n` codes from every position on, shape (codes - n + 1,)."""
        if n not in self._hashes:
            count = max(len(self.codes) - n + 1, 0)
            found = np.zeros(count, dtype=np.uint64)
            for offset in range(n):
                found *= _FACTOR
                found += self.codes[offset : offset + count]
            self._hashes[n] = found
        return self._hashes[n]


def _shared(query: _Codes, target: _Codes, n: int, short: int | None) -> Shared:
    shared = Shared()
    here, there, touched = _matches(query, target, n)
    shared.touched.update(np.unique(target.owner[touched]).tolist())
    documents, first, counts = np.unique(query.owner[here], return_index=True, return_counts=True)
    shared.windows = dict(zip(documents.tolist(), counts.tolist(), strict=True))
    shared.example = dict(zip(documents.tolist(), target.owner[there[first]].tolist(), strict=True))
    if short is not None:
        for i, j in _whole_first_texts(query, target, short, n):
            shared.touched.add(j)
            shared.windows[i] = shared.windows.get(i, 0) + 1
            shared.example.setdefault(i, j)
    return shared


def _matches(query: _Codes, target: _Codes, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of `n` characters of the query that occur in the target.

    Returns:
        Where they start in the query, shape (found,); the first place in the target that holds each, shape (found,); and
        every place in the target that holds any of them, shape (places,).
    """
    here, there = query.windows(n), target.windows(n)
    if not len(here) or not len(there):
        return here[:0], there[:0], there[:0]
    hashes, first, group = np.unique(target.hashes(n)[there], return_index=True, return_inverse=True)
    wanted = query.hashes(n)[here]
    shift = np.uint64(64 - _FILTER_BITS)
    likely = np.zeros(1 << _FILTER_BITS, dtype=bool)  # most windows match nothing: a small table says so at once
    likely[hashes >> shift] = True
    candidates = likely[wanted >> shift]
    here, wanted = here[candidates], wanted[candidates]
    at = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    place = there[first[at]]
    same = hashes[at] == wanted
    for offset in range(n):
        same &= query.codes[here + offset] == target.codes[place + offset]
    matched = np.zeros(len(hashes), dtype=bool)
    matched[at[same]] = True
    return here[same], place[same], there[matched[group]]


def _whole_first_texts(query: _Codes, target: _Codes, shortest: int, below: int) -> Iterator[tuple[int, int]]:
    """Yields (query document, target document) for each place where the target's whole first text stands in the query.

    Only first texts with `shortest` to `below` - 1 characters are looked up, by their first `shortest` characters.
    """
    stems: dict[str, list[tuple[str, int]]] = {}
    for j, document in enumerate(target.documents):
        if document and shortest <= len(document[0]) < below:
            stems.setdefault(document[0][:shortest], []).append((document[0], j))
    if not stems:
        return
    here = query.windows(shortest)
    beginnings = _Codes([[beginning] for beginning in stems])
    wanted = beginnings.hashes(shortest)[beginnings.windows(shortest)]
    for start in here[np.isin(query.hashes(shortest)[here], wanted)].tolist():
        for stem, j in stems.get(query.text[start : start + shortest], []):
            if query.text.startswith(stem, start):
                yield int(query.owner[start]), j
