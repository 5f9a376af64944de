"""A quiz from one's own records: questions with five choices, to see what tuning on one's own articles has taught.

Each question is on one of two sides. `taught`: its article was trained on, and the same fact too, but in other words than the question's.
`untaught`: nothing of its article was trained on; only retrieval can read it. The distractors are answers of the same kind to other facts
of the same side: were they from the other one, a tuned model could tell the answer by having seen it, without knowing the fact.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.core.records import iter_jsonl, sha256_text
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.data import prompts
from jmedlora_utils.data.curation import Row, normalise
from jmedlora_utils.data.questions import LETTERS, Question

CHOICES = 5
LONGEST = 20  # characters of an answer that can stand as a choice; a longer one is a sentence
_ENDING = re.compile(r"(?:です|である)?[。.．]?\s*$")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


class _Line(Checked, extra="allow"):
    article: Annotated[str, Field(pattern=r"\S")]
    instruction: Annotated[str, Field(pattern=r"\S")]
    output: Annotated[str, Field(pattern=r"\S")]
    kind: str = ""
    fact: str = ""


@dataclass(frozen=True)
class Fact:
    """What one or several records ask for in different words."""

    article: str  #: Id of its article
    kind: str  #: What the answer is: see `kind_of`
    answer: str  #: As it stands in the choices
    records: tuple[Row, ...]  #: One for each wording


@dataclass
class Quiz:
    """Questions, the records that may be trained on, and what could not be asked."""

    questions: list[Question] = field(default_factory=list)  #: Taught ones first; the side is the section, the kind the category
    records: list[Row] = field(default_factory=list)  #: Of the taught articles, without the wordings that the quiz uses
    left_out: Counter[str] = field(default_factory=Counter)  #: Facts that are not asked, by side and reason


def read_records(path: Path | str) -> list[Row]:
    """Reads records written by people or by notebook 10: JSON lines with `article`, `instruction`, `output`.

    A line may say of which `kind` its answer is, and name its `fact`: records with the same name ask the same thing in other words.
    """
    path = Path(path).expanduser()
    rows = [(number, row, _Line.read(row, f"{path}:{number}")) for number, row in iter_jsonl(path)]
    if not rows:
        raise JmedloraError(f"{path}: holds no record; write lines with article, instruction and output, or run notebook 10")
    return [{"id": f"{path.stem}-{number}", **row} for number, row, _ in rows]


def sides(folder: Path) -> tuple[Path, Path]:
    """The records of notebook 10 from one's own articles: of those that are trained on, and of those held out.

    Raises:
        JmedloraError: Notebook 10 has not made them.
    """
    found = folder / "train.jsonl", folder / "heldout.jsonl"
    if not (folder / "split.json").is_file():
        raise JmedloraError(f"{folder}: notebook 10 has made no records from articles here; run it, or name a file in records_path")
    return found


def term(output: str) -> str:
    """An answer as a choice: without a closing `です` and full stop."""
    return _ENDING.sub("", output.strip())


def kind_of(row: Row) -> str:
    """The kind of an answer: what the record says, else its form.

    An answer with digits is of the kind of all that differ from it in digits alone (`#分`, `内線#`). Any other one is of the kind of those
    with its last character (`室`, `班`), or its last word where it is written in Latin letters.
    """
    if row.get("kind"):
        return str(row["kind"])
    text = nfkc(term(row["output"])).casefold()
    if _NUMBER.search(text):
        return _NUMBER.sub("#", text)
    return text.split()[-1] if text.isascii() and text else text[-1:]


def facts_of(records: Sequence[Row]) -> list[Fact]:
    """The facts that records ask for, in their order: by the field `fact`, else all of an article with the same answer of the same kind."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in records:
        key = (row["fact"],) if row.get("fact") else (kind_of(row), *_same(term(row["output"])))
        groups.setdefault((row["article"], *key), []).append(row)
    return [Fact(rows[0]["article"], kind_of(rows[0]), term(rows[0]["output"]), tuple(rows)) for rows in groups.values()]


def make(
    train: Sequence[Row], heldout: Sequence[Row], seed: int, template: str, fewest: int = 10, language: Literal["ja", "en"] = "ja"
) -> Quiz:
    """Makes the quiz and the records to train on; the same records and seed give the same quiz.

    Of a taught fact, one wording is drawn for the quiz and leaves the records; of the others, all but the first list five choices too, so
    that tuning shows the form in which the quiz asks.

    Args:
        train: Records of the articles that are trained on.
        heldout: Records of the articles that are not.
        seed: Of wordings, distractors and the places of the right answers.
        template: Prompt template that the records list their choices in.
        fewest: Questions that each side must have.
        language: Of the records.

    Raises:
        JmedloraError: An article is on both sides, or a side has too few questions; says what is missing.
    """
    if both := sorted({r["article"] for r in train} & {r["article"] for r in heldout}):
        raise JmedloraError(f"article {both[0]!r} is on both sides of the split; a held-out article must not be trained on")
    quiz, rng = Quiz(), random.Random(f"{seed}/quiz")
    asked_in_training = {normalise(row["instruction"]) for row in train}
    for side, records in (("taught", train), ("untaught", heldout)):
        facts = facts_of(records)
        rivals = {kind: _different(f.answer for f in facts if f.kind == kind) for kind in {f.kind: None for f in facts}}
        asked: list[tuple[Fact, Row]] = []
        for fact in facts:
            words = sorted(fact.records, key=lambda row: sha256_text(f"{seed}\n{row['instruction']}"))
            reason = _unfit(fact, rivals[fact.kind], words, side, asked_in_training)
            quiz.left_out[f"{side}: {reason}"] += bool(reason)
            if not reason:
                asked.append((fact, words[-1]))
                words = [row for row in words if normalise(row["instruction"]) != normalise(words[-1]["instruction"])]
            if side == "taught":
                quiz.records += _training(words, fact, [] if reason else rivals[fact.kind], rng, template)
        places = [n % CHOICES for n in range(len(asked))]
        rng.shuffle(places)
        for number, ((fact, row), place) in enumerate(zip(asked, places, strict=True), start=1):
            choices = _choices(fact, rivals[fact.kind], rng, place)
            name = f"quiz-{side[0]}{number:03d}"
            gold = frozenset(LETTERS[place])
            text = row["instruction"]
            quiz.questions.append(Question(name, "quiz", language, text, choices, gold, section=side, category=fact.kind))
        _check_enough(side, len(asked), fewest, quiz.left_out, rivals)
    drawn = {normalise(q.text) for q in quiz.questions}  # the same question may stand in another article
    quiz.records = [row for row in quiz.records if normalise(row["instruction"]) not in drawn]
    quiz.left_out = +quiz.left_out
    return quiz


def _unfit(fact: Fact, rivals: Sequence[str], words: Sequence[Row], side: str, asked_in_training: set[str]) -> str:
    """Why a fact cannot be asked; empty where it can."""
    if len(fact.answer) > LONGEST or not fact.answer:
        return "the answer is a sentence"
    if len(rivals) < CHOICES:
        return f"fewer than {CHOICES} different answers of its kind"
    if side == "taught":
        return "asked in one wording only" if len({normalise(row["instruction"]) for row in words}) < 2 else ""
    return "asked in the same words in training" if {normalise(row["instruction"]) for row in words} & asked_in_training else ""


def _different(answers: Iterable[str]) -> list[str]:
    """The answers in order, each once: two that differ in width, case or punctuation alone are one."""
    return sorted({_same(answer): answer for answer in answers}.values())


def _same(answer: str) -> tuple[str, ...]:
    """What makes two answers one: all but width, case and punctuation, and the numbers with theirs, since `1.5mg` is not `15mg`."""
    return normalise(answer), *(number.replace(",", "") for number in _NUMBER.findall(nfkc(answer)))


def _choices(fact: Fact, rivals: Sequence[str], rng: random.Random, place: int) -> tuple[str, ...]:
    found = rng.sample([answer for answer in rivals if _same(answer) != _same(fact.answer)], CHOICES - 1)
    return (*found[:place], fact.answer, *found[place:])


def _training(rows: Sequence[Row], fact: Fact, rivals: Sequence[str], rng: random.Random, template: str) -> list[Row]:
    """The records of a fact; all but the first list five choices, where its kind has enough."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        listed = ""
        if kept and rivals:
            choices = _choices(fact, rivals, rng, rng.randrange(CHOICES))
            listed = prompts.choice_lines(Question("listed", "quiz", "ja", "-", choices, frozenset("a")), template)
        kept.append({**row, "input": listed, "output": fact.answer if listed else row["output"]})
    return kept


def _check_enough(side: str, asked: int, fewest: int, left_out: Counter[str], rivals: dict[str, list[str]]) -> None:
    if asked >= fewest:
        return
    why = "; ".join(f"{n} left out: {reason.partition(': ')[2]}" for reason, n in left_out.items() if n and reason.startswith(f"{side}:"))
    short = ", ".join(f"{kind} {len(answers)}" for kind, answers in sorted(rivals.items()) if len(answers) < CHOICES)[:200]
    raise JmedloraError(
        f"the quiz has {asked} {side} questions, at least {fewest} are wanted ({why or 'the side has no other fact'}). "
        + (f"Kinds with fewer than {CHOICES} different answers there: {short}. " if short else "")
        + "Write more records with short answers of the same kind, each fact in two wordings or more, or state 'kind' in them; "
        "for the untaught side, hold more articles out"
    )
