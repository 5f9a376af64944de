"""Keys of examinations whose source is no ministry: gold as printed, points by block and number, and corrections from a file."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_text
from jmedlora_utils.data.questions import Question, letters, need, number_through_mask, wide

FIVE = "abcde"
COLUMNS = ("id", "answer", "source")


def letter_slots(printed: Mapping[str, str]) -> tuple[str, ...]:
    """The five choices by their letter; where the source lost one, its letter stands in its place, as the stem's own do in 114C11."""
    return tuple(printed.get(letter) or wide(letter) for letter in FIVE)


def corrected(questions: Iterable[Question], file: Path | str | None) -> list[Question]:
    """The questions with the gold of a file of corrections, such as a later official key.

    Args:
        questions: A whole examination.
        file: CSV with the columns `id,answer,source`; None or empty leaves the key as it is. `answer` is `b`, `ac` (all of them),
            `a or c` (any of them), a number, `always` (credited to everyone) or `withdrawn` (no points).
    """
    questions = list(questions)
    if not file:
        return questions
    changes: dict[str, tuple[str, str]] = {}
    known = {q.id for q in questions}
    for where, row in csv_rows(Path(file).expanduser(), COLUMNS):
        name = row["id"].replace("-", "")
        if name not in known:
            raise JmedloraError(f"{where}: {row['id']!r} is no question of this examination; correct the id or leave the line out")
        if name in changes:
            raise JmedloraError(f"{where}: {row['id']} is corrected twice; keep one line")
        changes[name] = (row["answer"].strip(), where)
    return [_corrected(q, *changes[q.id]) if q.id in changes else q for q in questions]


def _corrected(question: Question, answer: str, where: str) -> Question:
    if answer == "withdrawn":
        return replace(question, points=0.0)
    try:
        if answer == "always":
            return replace(question, rule="always")
        if question.rule == "number":
            return replace(question, number=number_through_mask(answer, question.text, where))
        parts = answer.split(" or ")
        if len(parts) > 1 and any(len(letters([part])) != 1 for part in parts):
            raise ValueError("each side of 'or' is one letter")
        return replace(question, gold=letters(parts), rule="any" if len(parts) > 1 else "all")
    except ValueError as error:
        takes = "letters such as b or ac, 'a or c' where one is asked for, a number where the question has one, 'always' or 'withdrawn'"
        raise JmedloraError(f"{where}: answer {answer!r} does not fit question {question.id}; it takes {takes}") from error


def csv_rows(path: Path, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """`(file:line, row)` of a CSV with a header, with or without a byte-order mark."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    found = [(f"{path}:{rows.line_num}", row) for row in rows]
    if not found:
        raise JmedloraError(f"{path}: no row in the file; fetch or write it again")
    for where, row in found:
        need({name: value for name, value in row.items() if value is not None}, columns, where)
    return found
