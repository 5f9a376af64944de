"""The national examination as it is marked: points, must-pass blocks, prohibited choices, pass or fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_text
from jmedlora_utils.core.statistics import wilson
from jmedlora_utils.data import fetch
from jmedlora_utils.data.igakuqa import REQUIRED_BLOCKS, SYSTEMS, load_igakuqa, load_published, misprinted_prohibited, published_systems
from jmedlora_utils.data.questions import LETTERS, Question, exclusion
from jmedlora_utils.evaluation.metrics import BASELINES, baselines, is_right, score

COLUMNS = ("system", "year", "points", "max_points", "required", "general", "items_correct", "items", "prohibited", "passed")
TABLES = {"card": "exam_card.csv", "strict": "exam_card_strict.csv", "text_five": "text_five.csv", "categories": "by_category.csv"}
FIRST_YEAR = 1906
"""The 112th examination was held in 2018: the year is the edition and this number."""


@dataclass(frozen=True)
class Marked:
    """One answer, marked: whether it earns the item's points, and the letters chosen, for prohibited choices."""

    right: bool
    picked: frozenset[str]


def pass_marks() -> pd.DataFrame:
    """Marks of the examination by year, each with its source.

    Returns:
        Index `year`; columns `exam` (the edition), `required_mark, general_mark, prohibited_limit, required_max, general_max, source`.
    """
    return pd.read_csv(paths.PACKAGE_DATA / "pass_marks.csv").set_index("year")


def year_of(question: Question) -> int:
    """The year in which the question was asked, from its edition where it carries no year.

    Raises:
        JmedloraError: It has neither.
    """
    if question.year is not None:
        return question.year
    if question.edition is None:
        raise JmedloraError(f"question {question.id} of {question.exam} has no year; an exam card needs a whole examination")
    return question.edition + FIRST_YEAR


def is_required(question: Question) -> bool:
    """Whether the question belongs to a must-pass block."""
    return question.section in REQUIRED_BLOCKS if question.required is None else question.required


# --- marking ------------------------------------------------------------------------------------------------------


def mark_published(questions: Iterable[Question], predictions: Mapping[str, str]) -> dict[str, Marked]:
    """Marks published answers as IgakuQA's own script does: the letters between the commas are the gold letters.

    Blanks are not stripped, so `a, d` is not `a,d`: that is how the published points came about; `strict` reads both.
    Prohibited choices do not depend on the spelling: each letter between commas counts, blanks or not. A free number is
    right when the answer is that number. No answer is wrong.

    Raises:
        JmedloraError: An answer belongs to none of the questions.
    """
    questions = list(questions)
    if strangers := sorted(set(predictions) - {q.id for q in questions}):
        raise JmedloraError(f"{len(strangers)} answers belong to no question, first {strangers[0]}; load the questions of the same years")
    return {q.id: _mark_as_published(q, predictions.get(q.id, "")) for q in questions}


def _mark_as_published(question: Question, prediction: str) -> Marked:
    parts = prediction.split(",")
    picked = frozenset(p.strip() for p in parts if p.strip() in tuple(question.letters))
    if question.rule == "always":
        right = True
    elif question.rule == "number":
        right = _same_number(prediction, question.number or "")
    elif question.rule == "any":
        right = len(parts) == 1 and parts[0] in question.gold
    else:
        right = sorted(parts) == sorted(question.gold)
    return Marked(right, picked)


def _same_number(text: str, gold: str) -> bool:
    try:
        return Decimal(text.strip()) == Decimal(gold)
    except InvalidOperation:
        return False


def mark_responses(questions: Iterable[Question], responses: Mapping[str, str], scorer: str = "strict") -> dict[str, Marked]:
    """Marks any model's responses: Accuracy and chosen letters of a scorer.

    A question without a response is wrong, and so stays in the denominator: an examination has no questions left out.
    """
    marked = {}
    for question in questions:
        if question.id in responses:
            found = score(question, responses[question.id], scorer)
            marked[question.id] = Marked(found.accuracy == 1, found.picked)
        else:
            marked[question.id] = Marked(question.rule == "always", frozenset())
    return marked


def students(questions: Iterable[Question]) -> dict[str, Marked]:
    """What the majority of students chose, from the published shares of each choice: as many as the stem asks for.

    Upstream's `student-majority` answers are made the same way. Without shares there is no answer.
    """
    marked = {}
    for q in questions:
        order = sorted(range(len(q.breakdown)), key=lambda i: -q.breakdown[i])[: q.n_select]
        picked = frozenset(LETTERS[i] for i in order)
        marked[q.id] = Marked(q.rule == "always" or (bool(picked) and is_right(q, picked)), picked)
    return marked


# --- the card -----------------------------------------------------------------------------------------------------


def card(
    questions: Sequence[Question], marked: Mapping[str, Marked], system: str, misprinted: frozenset[str] = frozenset()
) -> pd.DataFrame:
    """One row per year of the questions, columns `COLUMNS`.

    `required` and `general` are the points of the must-pass blocks and of the rest; `prohibited` counts the questions on which
    a prohibited choice was made, and is empty where nobody published which choices those are. Passed: both marks reached and
    no more prohibited choices than the limit, which fails at four; empty where `cannot_decide` gives a reason. Who misses a
    mark has failed, whether or not the prohibited choices are published.

    Args:
        questions: A whole examination, image questions included; all of them are the denominator.
        marked: Every question's id to its marked answer.
        system: Name in the first column.
        misprinted: Ids whose prohibited choices do not count (`igakuqa.misprinted_prohibited`), to give the published counts.

    Raises:
        JmedloraError: A question has neither year nor edition.
    """
    marks, rows = pass_marks(), []
    for year, of_year in _by_year(questions).items():
        right = [q for q in of_year if marked[q.id].right]
        required, general = _points(right, True), _points(right, False)
        published = any(q.prohibited_published for q in of_year)
        prohibited = sum(q.id not in misprinted and bool(marked[q.id].picked & q.prohibited) for q in of_year)
        passed = None
        if not _incomplete(of_year, year):
            limits = marks.loc[year]
            passed = required >= limits.required_mark and general >= limits.general_mark and prohibited <= limits.prohibited_limit
            passed = None if passed and not published else passed
        points = (required + general, _points(of_year, True) + _points(of_year, False), required, general)
        rows.append((system, year, *points, len(right), len(of_year), prohibited if published else None, passed))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"prohibited": "Int64", "passed": "boolean"})


def _by_year(questions: Iterable[Question]) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for question in questions:
        found.setdefault(year_of(question), []).append(question)
    return dict(sorted(found.items()))


def _points(questions: Iterable[Question], required: bool) -> int:
    return int(sum(q.points for q in questions if is_required(q) == required))


def cannot_decide(questions: Sequence[Question], year: int) -> str:
    """Why nobody can be said to have passed the year's questions; empty where that can be said.

    Either the year has no line in `pass_marks.csv`; or its points are not the maxima of the official notice, so that some
    questions are missing or were changed and no mark applies; or the prohibited choices are not published.
    """
    of_year = _by_year(questions).get(year, [])
    if reason := _incomplete(of_year, year):
        return reason
    if not any(q.prohibited_published for q in of_year):
        return f"{year}: prohibited choices not published, so the marks can show a failure and no pass"
    return ""


def _incomplete(of_year: Sequence[Question], year: int) -> str:
    marks = pass_marks()
    if year not in marks.index:
        return f"{year} has no pass marks; add a line with its source to {paths.relative(paths.PACKAGE_DATA / 'pass_marks.csv')}"
    for block, required in (("required", True), ("general", False)):
        found, official = _points(of_year, required), int(marks.loc[year, f"{block}_max"])
        if found != official:
            block_sum = f"the {block} block adds up to {found} points, the official notice says {official}"
            return f"{year}: {block_sum}; the examination is incomplete"
    return ""


def text_five(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """Accuracy per year on the text-only five-choice questions, with its 95 % Wilson interval: systems, then baselines.

    The baselines write choices, so the `strict` scorer reads them. `random choice` is an expectation: its `right` is
    rounded, and its interval is that of one blind candidate.

    Args:
        questions: Whole examinations.
        marked: System to its marked answers, of every year or of some.

    Returns:
        Columns `system, year, right, n, accuracy, low, high`; shares 0 to 1.
    """
    rows = []
    for year, of_year in _by_year(questions).items():
        asked = [q for q in of_year if exclusion(q) is None]
        if not asked:
            raise JmedloraError(f"{year}: no text-only five-choice question; accuracy on them has no denominator")
        there = {system: m for system, m in marked.items() if asked[0].id in m}
        shares = {system: sum(m[q.id].right for q in asked) / len(asked) for system, m in there.items()}
        for system, share in (shares | dict(baselines(asked, ("strict",)).set_index("baseline")["accuracy"])).items():
            interval = wilson(share * len(asked), len(asked))
            rows.append((system, year, round(share * len(asked)), len(asked), share, interval.low, interval.high))
    table = pd.DataFrame(rows, columns=["system", "year", "right", "n", "accuracy", "low", "high"])
    order = [*marked, *BASELINES]
    return table.sort_values("system", key=lambda systems: systems.map(order.index), kind="stable", ignore_index=True)


def by_category(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """Share of items right per medical field, one column per system beside the number of items, largest fields first.

    Args:
        questions: Questions with a category.
        marked: System name to its marked answers.
    """
    rows = []
    for field in sorted({q.category for q in questions if q.category}):
        of_field = [q for q in questions if q.category == field]
        shares = {system: sum(m[q.id].right for q in of_field) / len(of_field) for system, m in marked.items()}
        rows.append({"category": field, "items": len(of_field), **shares})
    table = pd.DataFrame(rows, columns=["category", "items", *marked])
    return table.sort_values(["items", "category"], ascending=[False, True], ignore_index=True)


# --- the published systems ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The published systems, scored.

    Attributes:
        card: The exam card, columns `COLUMNS`, marked as the published figures are (`mark_published`).
        strict: The same with answers read by the `strict` scorer and every prohibited letter counted.
        text_five: Accuracy on the text-only five-choice questions and of the baselines (`text_five`).
        categories: Share right per medical field and system over all years (`by_category`).
        notices: What a reader must know: unknown marks, absent answers.
    """

    card: pd.DataFrame
    strict: pd.DataFrame
    text_five: pd.DataFrame
    categories: pd.DataFrame
    notices: tuple[str, ...]


def score_published(data_dir: Path | str, years: Sequence[int]) -> Published:
    """Scores every published system on every year.

    Raises:
        JmedloraError: No year is given, a year has no questions, or no published answer is found at all.
    """
    if not years:
        raise JmedloraError("parameter years is empty; name at least one year, for example [2018]")
    by_year = {year: load_igakuqa(data_dir, [year]) for year in sorted(years)}
    notices, cards, stricts = [reason for year, of_year in by_year.items() if (reason := cannot_decide(of_year, year))], [], []
    marked: dict[str, dict[str, Marked]] = {}
    for system, (year, questions) in itertools.product(SYSTEMS, by_year.items()):
        if system not in published_systems(data_dir, year):
            notices.append(f"{year} has no answers of {system}")
            continue
        answers = load_published(data_dir, [year], system)
        if absent := len(questions) - len(answers):
            notices.append(f"{year}: {system} leaves {absent} of {len(questions)} questions without an answer; they count as wrong")
        as_published = mark_published(questions, answers)
        marked.setdefault(system, {}).update(as_published)
        cards.append(card(questions, as_published, system, misprinted_prohibited(data_dir, year)))
        stricts.append(card(questions, mark_responses(questions, answers), system))
    if not cards:
        raise JmedloraError(f"{Path(data_dir)}: no published answers (IgakuQA/baseline_results/YEAR) for {', '.join(map(str, years))}")
    answered = [q for year, of_year in by_year.items() if any(of_year[0].id in m for m in marked.values()) for q in of_year]
    everything = [q for of_year in by_year.values() for q in of_year]
    complete = {system: m for system, m in marked.items() if len(m) == len(everything)}
    together = (pd.concat(found, ignore_index=True) for found in (cards, stricts))
    return Published(*together, text_five(answered, marked), by_category(everything, complete), tuple(notices))


def published_or_committed(data_dir: str, years: Sequence[int], on_missing: str) -> Published:
    """Scores the published systems, from files that are fetched and verified first; see `examination` for what it takes.

    Raises:
        JmedloraError: `examination` or `score_published` refuses.
    """
    if (there := examination(data_dir, years, on_missing)) is None:
        return read_published(paths.RESULTS / "published", years)
    folder, notice = there
    published = score_published(folder, years)
    return replace(published, notices=(notice, *published.notices))


def examination(data_dir: str, years: Sequence[int], on_missing: str) -> tuple[Path, str] | None:
    """The folder of the examination and its published answers, verified, with a notice; None where committed tables stand in.

    Args:
        data_dir: Folder that holds `IgakuQA/`, used as it is (verified, nothing is downloaded); empty takes
            `paths.exam_data_dir()` and downloads what is missing there.
        years: Years that are needed.
        on_missing: `error`, or `committed`: no download, and None where the folder lacks the examination.

    Raises:
        JmedloraError: `on_missing` is neither, or a file was changed, or is missing and cannot be downloaded.
    """
    if on_missing not in ("error", "committed"):
        raise JmedloraError(f"parameter on_missing is {on_missing!r}; it takes 'error' or 'committed'")
    folder = Path(data_dir).expanduser() if data_dir else paths.exam_data_dir()
    if on_missing == "committed" and not data_dir:
        there = fetch.available(["igakuqa"], years, folder) and all(published_systems(folder, year) for year in years)
        if not there:
            return None
    fetched = fetch.ensure(["igakuqa"], years, folder, download=not data_dir and on_missing == "error")
    return folder, fetched.notice()


def write_tables(folder: Path, tables: Any, files: Mapping[str, str] = TABLES) -> list[Path]:
    """Writes the named attributes of `tables` as CSV; a truth value is True, False or empty."""
    return [
        write_text(folder / file, getattr(tables, name).to_csv(index=False, lineterminator="\n", float_format="%.6f"))
        for name, file in files.items()
    ]


def read_published(folder: Path, years: Sequence[int]) -> Published:
    """Reads what `write_tables` wrote, for the years asked for.

    Raises:
        JmedloraError: A year is not in the tables, or the columns of a card are not `COLUMNS`.
    """
    types = {"prohibited": "Int64", "passed": "boolean"}
    tables = {name: pd.read_csv(folder / file, dtype=types if "card" in file else None) for name, file in TABLES.items()}
    for name in ("card", "strict"):
        if tuple(tables[name].columns) != COLUMNS:
            found = ", ".join(tables[name].columns)
            raise JmedloraError(f"{folder / TABLES[name]}: columns {found}; an exam card has {', '.join(COLUMNS)}")
    known = check_years(tables["card"], years, "figures")
    note = f"these are the committed figures ({paths.relative(folder)}), not computed now; fields are pooled over {known}"
    of_years = {n: t[t["year"].isin(list(years))].reset_index(drop=True) if "year" in t else t for n, t in tables.items()}
    return Published(**of_years, notices=(note,))


def check_years(table: pd.DataFrame, years: Sequence[int], what: str) -> str:
    """The first and last year of a committed table, as `2018-2021`.

    Raises:
        JmedloraError: A year is not in the table.
    """
    known = sorted(set(table["year"]))
    if absent := sorted(set(years) - set(known)):
        years_there = ", ".join(map(str, known))
        raise JmedloraError(f"the committed {what} have no year {absent[0]}, only {years_there}; bring the examination itself")
    return f"{known[0]}-{known[-1]}"
