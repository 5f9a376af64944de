"""Exam questions: the one schema, its files, and what a Japanese stem says about the answer asked for.

Every source of questions has a module of its own (`igakuqa`, `jjsimqa`, ...) that reads its files into `Question`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.core.records import iter_jsonl, write_jsonl
from jmedlora_utils.core.settings import explain

LETTERS = "abcdefghij"
LANGUAGES = ("ja", "en")
EXCLUSIONS = ("image", "free number", "not five choices", "ambiguous gold", "misread")

AMBIGUOUS = {("jjsimqa", "107_64-4"): "four gold answers where the stem asks for one; its authors advise leaving it out"}
MISREAD = frozenset(("igakuqa119", name) for name in ("119A22", "119C5", "119C18", "119C19", "119E41", "119F42"))
"""Questions that lost a choice or their stem to character recognition, by exam and id; `igakuqa119.SLIPS` says what."""

_TRANSLATED_ALIKE = ("112C49", "112E42", "113A46", "113F7", "114C64", "114F41", "115B14", "115D60", "115E21")
SAME_CHOICE_TWICE = frozenset({("jjsimqa", "107_1514-57"), ("jjsimqa", "109_2149-269")} | {("igakuqa", name) for name in _TRANSLATED_ALIKE})
"""Questions published with two equal choices, by exam and id; of IgakuQA, in the English translation. Others are refused."""

Text = Annotated[str, Field(min_length=1, pattern=r"[^\s\u3000]")]
Letters = Annotated[frozenset[str], Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class Question:
    """One exam question."""

    id: Text  #: Unique within the exam, for example `112A1`
    exam: str  #: Name of the exam: `igakuqa`, `jjsimqa`, `mini_trained`
    language: Literal["ja", "en"]  #: `ja` or `en`
    text: Text  #: Stem of the question
    choices: Annotated[tuple[Text, ...], Field(strict=False, max_length=len(LETTERS))]  #: Choices in printed order
    gold: Letters  #: Letters of the right choices; empty for `number` questions
    year: int | None = None  #: Year of the examination, None where there is none
    section: str = ""  #: Block (A to F), volume of the journal, or in the mini exams the facts asked: `taught`, `untaught`, `general`
    rule: Literal["all", "any", "always", "number"] = "all"  #: How gold counts: `all` of it, `any` of it, `always` right, or `number`
    number: str | None = None  #: Gold of a `number` question, as a decimal string
    points: Annotated[float, Field(ge=0)] = 1.0  #: Points of the item; 0 for a withdrawn item
    text_only: bool = True  #: False where an image belongs to the question
    category: str = ""  #: Medical field, or the relation asked in the mini exams
    prohibited: Letters = frozenset()  #: Letters of prohibited choices (kinki)
    n_select: Annotated[int, Field(ge=1)] = 1  #: How many to choose, as said by the stem; 1 where it says nothing
    student_accuracy: Share | None = None  #: Share of students who were right, 0 to 1, where published
    breakdown: Annotated[tuple[Share, ...], Field(strict=False)] = ()  #: Share of students who chose each choice, 0 to 1, where published
    edition: int | None = None  #: Number of the national examination (112 in 2018), None elsewhere
    item: int | None = None  #: Number within the block, None where the exam has no blocks
    required: bool | None = None  #: True in a must-pass block, False in a general one, None where the exam makes no difference
    #: Whether the source says which choices are prohibited: without it, an empty `prohibited` says nothing
    prohibited_published: bool = False

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> Self:
        """Makes a question of what a file holds.

        Raises:
            JmedloraError: A field is unknown, missing or does not fit, or two choices are equal; names `where` and the field.
        """
        try:
            question = cls(**values)
        except ValidationError as error:
            raise JmedloraError(f"{where}: {explain(error, [f.name for f in fields(cls)])}") from error
        if len(set(question.choices)) < len(question.choices) and (question.exam, question.id) not in SAME_CHOICE_TWICE:
            twice = Counter(question.choices).most_common(1)[0][0]
            raise JmedloraError(f"{where}: choice {twice!r} stands twice; correct one, or list a question printed so in SAME_CHOICE_TWICE")
        return question

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = len(self.choices)
        if self.rule == "number":
            if n or self.gold or not _is_decimal(self.number):
                raise ValueError(f"a 'number' question has no choices, no gold and a decimal in field 'number', found {self.number!r}")
        else:
            if n < 2:
                raise ValueError(f"field 'choices' has {n}; a question has 2 to {len(LETTERS)}, or the rule 'number'")
            if not self.gold:
                raise ValueError("field 'gold' is empty; name the right letters")
            if self.number is not None:
                raise ValueError("field 'number' is only for questions with the rule 'number'")
        for name, given in (("gold", self.gold), ("prohibited", self.prohibited)):
            if beyond := sorted(given - set(self.letters)):
                raise ValueError(f"{name} letter {beyond[0]!r} is not one of the {n} choices ({self.letters}); correct it")
        if self.rule == "any" and self.n_select != 1:
            raise ValueError(f"rule 'any' takes one of the gold letters, and the stem asks for {self.n_select}; give the whole answer")
        if self.n_select > max(1, n):
            raise ValueError(f"field 'n_select' is {self.n_select}, with {n} choices")
        if self.breakdown and len(self.breakdown) != n:
            raise ValueError(f"field 'breakdown' has {len(self.breakdown)} shares for {n} choices")
        return self

    @property
    def letters(self) -> str:
        """Letters of the choices, in order."""
        return LETTERS[: len(self.choices)]

    def choice(self, letter: str) -> str:
        """Text of one choice."""
        return self.choices[LETTERS.index(letter)]

    def right_letters(self) -> tuple[str, ...]:
        """Letters a perfect candidate marks, in order: all of gold, or one of it where any will do."""
        ordered = tuple(sorted(self.gold))
        return ordered[:1] if self.rule == "any" else ordered


def read_exam(path: Path) -> list[Question]:
    """Reads an exam, one JSON object per line with the fields of `Question`.

    Raises:
        JmedloraError: The file is missing or empty, a line is not a question, or two questions share an id; names file and line.
    """
    return unique((Question.read(row, where), where) for where, row in source_rows(Path(path)))


def write_exam(path: Path, questions: Iterable[Question]) -> Path:
    """Writes an exam, whole or not at all; fields at their default are left out."""
    return write_jsonl(Path(path), [_to_row(q) for q in unique((q, f"question {q.id}") for q in questions)])


def source_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """`(file:line, object)` of every line of a JSONL file."""
    rows = [(f"{path}:{line}", row) for line, row in iter_jsonl(path)]
    if not rows:
        raise JmedloraError(f"{path}: no question in the file; fetch or write it again")
    return rows


def need(row: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuses a row of a published file that lacks one of the fields."""
    for name in names:
        if name not in row:
            raise JmedloraError(f"{where}: field {name!r} is missing; fetch the file again, or correct it if it is your own")


def unique(questions: Iterable[tuple[Question, str]]) -> list[Question]:
    """The questions of `(question, where)`, refused where two of an exam share an id."""
    seen: dict[tuple[str, str], str] = {}
    kept = []
    for question, where in questions:
        key = (question.exam, question.id)
        if key in seen:
            raise JmedloraError(f"{where}: id {question.id!r} is already used at {seen[key]}; ids must differ within an exam")
        seen[key] = where
        kept.append(question)
    return kept


def _to_row(question: Question) -> dict[str, Any]:
    row = {f.name: getattr(question, f.name) for f in fields(question)}
    row |= {"gold": sorted(question.gold), "prohibited": sorted(question.prohibited)}
    return {f.name: row[f.name] for f in fields(question) if f.default is MISSING or getattr(question, f.name) != f.default}


def _is_decimal(text: str | None) -> bool:
    try:
        return text is not None and Decimal(text).is_finite()
    except InvalidOperation:
        return False


def exclusion(question: Question) -> str | None:
    """Why the question is not asked of a text model, one of `EXCLUSIONS`; None where it is."""
    if not question.text_only:
        return "image"
    if question.rule == "number":
        return "free number"
    if len(question.choices) != 5:
        return "not five choices"
    if (question.exam, question.id) in AMBIGUOUS:
        return "ambiguous gold"
    return "misread" if (question.exam, question.id) in MISREAD else None


def select_text_five(questions: Iterable[Question]) -> tuple[list[Question], dict[str, int]]:
    """The text-only questions with exactly five choices, and how many were left out for which reason.

    Returns:
        The questions kept, and a count for each of `EXCLUSIONS` (the first reason that applies), 0 included.
    """
    reasons = [(question, exclusion(question)) for question in questions]
    counts = Counter(reason for _, reason in reasons)
    return [question for question, reason in reasons if reason is None], {reason: counts[reason] for reason in EXCLUSIONS}


def letters(parts: Iterable[str]) -> frozenset[str]:
    """Choice letters, one per character: sources run some together (`cde`), pad others (` e`) or print them full-width."""
    return frozenset(c for part in parts for c in nfkc(part).lower() if not c.isspace())


def wide(letter: str) -> str:
    """A choice letter as the examination prints it: `ａ`."""
    return chr(ord(letter) - ord("a") + ord("ａ"))


def number_to_select(stem: str) -> int:
    """How many choices a Japanese stem asks for (`2つ選べ`); 1 where it says nothing.

    Full-width digits and blanks inside the phrase are tolerated; gold is never looked at.
    """
    squeezed = "".join(nfkc(stem).split())
    found = re.findall(r"(\d)(?:つ|個)(?:を)?選べ", squeezed)
    return int(found[-1]) if found else 1


def number_through_mask(gold: str, stem: str, where: str) -> str:
    """Gold of a free-number question as a decimal, through the answer mask that closes the stem.

    The printed gold is uneven: some keep the point (`7.20`), some give only the digits for the slots: `100` through
    `①②.③` is 10.0, `130` through `1, ①②③` is 1130. Digits that do not fill the slots are kept, with a notice.
    """
    gold = nfkc(gold).strip()
    mask = answer_mask(stem)
    if not mask or not gold.isdigit():
        return gold
    if (filled := fill_mask(mask, gold)) is None:
        print(f"Notice: {paths.relative(where)}: gold {gold!r} does not fill the answer mask {mask!r}; kept as printed.")
    return filled or gold


def answer_mask(stem: str) -> str:
    """The mask after `解答：`, a `#` for each slot (`①②.③` is `##.#`); empty where the stem has none."""
    found = re.search(r"(?:解答|Answer)\s*[:：]([\d\s,.，．①-⑳]*[①-⑳])", stem)
    return re.sub(r"[\s,]", "", nfkc(re.sub(r"[①-⑳]", "#", found[1]))) if found else ""


def fill_mask(mask: str, digits: str) -> str | None:
    """Puts the digits into the slots; None where their number differs."""
    if len(digits) != mask.count("#"):
        return digits if len(digits) == len(mask) and "." not in mask else None
    rest = iter(digits)
    return "".join(next(rest) if c == "#" else c for c in mask)
