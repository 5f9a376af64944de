"""Exam questions: one validated schema."""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "abcdefghij"
RULES = ("all", "any", "always", "number")


class ExamError(ValueError):
    """A question or an exam file that does not fit the schema; names the file, the line and the mend."""


@dataclass(frozen=True)
class Question:
    """One exam question.

    Attributes:
        id: Unique within the exam, for example `112A1`.
        exam: Name of the exam: `igakuqa`, `jjsimqa`, `mini_trained` ...
        language: `ja` or `en`.
        year: Year of the examination, None where there is none.
        section: Block (A to F) or, in the mini exams, the facts asked: `taught`, `untaught`, `general`.
        text: Stem of the question.
        choices: Choices in printed order.
        gold: Letters of the right choices; empty for `number` questions.
        rule: How gold counts: `all` of it, `any` of it, `always` right, or `number`.
        number: Gold of a `number` question, as a decimal string.
        points: Points of the item; 0 for a withdrawn item.
        text_only: False where an image belongs to the question.
        category: Medical field, or the relation asked in the mini exams.
        prohibited: Letters of prohibited choices (kinki).
        n_select: How many to choose, as said by the stem; 1 where it says nothing.
        student_accuracy: Share of students who were right, 0 to 1, where published.
        breakdown: Share of students who chose each choice, 0 to 1, where published.
    """

    id: str
    exam: str
    language: str
    text: str
    choices: tuple[str, ...]
    gold: frozenset[str]
    year: int | None = None
    section: str = ""
    rule: str = "all"
    number: str | None = None
    points: float = 1.0
    text_only: bool = True
    category: str = ""
    prohibited: frozenset[str] = frozenset()
    n_select: int = 1
    student_accuracy: float | None = None
    breakdown: tuple[float, ...] = ()
