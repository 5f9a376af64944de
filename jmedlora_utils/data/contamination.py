"""Whether training records share text with exam questions: character n-grams, since Japanese has no blanks between words.

Texts are normalised (NFKC, lower case, no whitespace), and windows of 13 characters (reported) and 30 (enforced) are compared, within one
text at a time. A stem shorter than the window counts as one window of its own length, from 13 characters on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.questions import Question

REPORTED = 13
ENFORCED = 30

Document = Sequence[str]
"""Texts that belong together, normalised; no window crosses from one into the next."""


@dataclass(frozen=True)
class Overlap:
    """A record that shares text with an exam."""

    record: str  #: Id of the record
    exam: str  #: Name of the exam
    n: int  #: Window length in characters
    windows: int  #: How many windows of the record occur in the exam
    question: str  #: Id of the first question that holds the first of them


@dataclass
class Report:
    """What `check` found."""

    records: int  #: How many records were compared
    questions: dict[str, int]  #: Name of the exam to its number of questions
    overlaps: list[Overlap]  #: One per record, exam and window length that share anything
    touched: dict[tuple[str, int], set[str]]  #: (exam, window length) to the ids of the questions that share anything

    def contaminated(self, n: int = ENFORCED) -> set[str]:
        """Ids of the records that share a window of `n` characters with any question."""
        return {o.record for o in self.overlaps if o.n == n}

    def table(self) -> pd.DataFrame:
        """One row per exam and window length: records and questions that overlap, of how many."""
        rows = [
            (exam, n, sum(o.exam == exam and o.n == n for o in self.overlaps), self.records, len(ids), self.questions[exam])
            for (exam, n), ids in self.touched.items()
        ]
        return pd.DataFrame(rows, columns=["exam", "window", "records", "of records", "questions", "of questions"])


@dataclass
class Shared:
    """Windows that documents share with indexed documents, by position in the lists given."""

    windows: dict[int, int] = field(default_factory=dict)  #: Document to the number of its windows that occur in any indexed document
    example: dict[int, int] = field(default_factory=dict)  #: Document to the first indexed document that holds the first of them
    touched: set[int] = field(default_factory=set)  #: Indexed documents that hold any of them


def check(records: Sequence[Mapping[str, Any]], exams: Mapping[str, Sequence[Question]]) -> Report:
    """Compares every instruction record with every question of every exam, by windows of 13 and of 30 characters."""
    documents = [[*map(normalise, (r["instruction"], r.get("input", ""), r["output"]))] for r in records]
    report = Report(len(records), {name: len(questions) for name, questions in exams.items()}, [], {})
    for name, questions in exams.items():
        indexed = [[*map(normalise, (q.text, *q.choices))] for q in questions]
        for n in (REPORTED, ENFORCED):
            found = shared_windows(documents, indexed, n, REPORTED)
            report.touched[name, n] = {questions[j].id for j in found.touched}
            for i, windows in sorted(found.windows.items()):
                report.overlaps.append(Overlap(str(records[i]["id"]), name, n, windows, questions[found.example[i]].id))
    return report


def enforce(records: Sequence[dict[str, Any]], report: Report) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits the records into those without a shared 30-character window and those with one, in order."""
    bad = report.contaminated(ENFORCED)
    return [r for r in records if str(r["id"]) not in bad], [r for r in records if str(r["id"]) in bad]


def normalise(text: str) -> str:
    """NFKC, lower case, every kind of whitespace removed."""
    return "".join(nfkc(text).lower().split())


def shared_windows(documents: Sequence[Document], indexed: Sequence[Document], n: int, short: int | None = None) -> Shared:
    """Finds the windows of `n` characters that documents share with indexed documents."""
    there = {window for document in indexed for window in _windows(document, n)}
    hits = {i: found for i, document in enumerate(documents) if (found := [w for w in _windows(document, n) if w in there])}
    shared = Shared({i: len(found) for i, found in hits.items()})
    met, owner = {window for found in hits.values() for window in found}, dict[str, int]()
    for j, document in enumerate(indexed):
        for window in met.intersection(_windows(document, n)):
            owner.setdefault(window, j)
            shared.touched.add(j)
    shared.example = {i: owner[found[0]] for i, found in hits.items()}
    for i, j in _whole_first_texts(documents, indexed, short, n) if short else ():
        shared.touched.add(j)
        shared.windows[i] = shared.windows.get(i, 0) + 1
        shared.example.setdefault(i, j)
    return shared


def _windows(document: Document, n: int) -> Iterator[str]:
    return (text[i : i + n] for text in document for i in range(len(text) - n + 1))


def _whole_first_texts(documents: Sequence[Document], indexed: Sequence[Document], shortest: int, below: int) -> Iterator[tuple[int, int]]:
    """Yields (document, indexed document) for each place where an indexed first text of `shortest` to `below` - 1 characters stands."""
    stems: dict[str, list[tuple[str, int]]] = {}
    for j, document in enumerate(indexed):
        if document and shortest <= len(document[0]) < below:
            stems.setdefault(document[0][:shortest], []).append((document[0], j))
    for i, document in enumerate(documents if stems else ()):
        for text in document:
            for start in range(len(text) - shortest + 1):
                for stem, j in stems.get(text[start : start + shortest], ()):
                    if text.startswith(stem, start):
                        yield i, j
