"""Errors in the national examination: paired flips between two systems by kind of question, and prohibited choices.

Tables hold counts alone and so no text of the examination; shares, intervals and tests follow from the counts when a page shows them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.analysis.exam_card import Marked
from jmedlora_utils.analysis.flips import FLIPS, thirds
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.statistics import chances
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published, published_systems
from jmedlora_utils.data.questions import Question, select_text_five

PAIRS = (("gpt3", "chatgpt"), ("chatgpt", "translate_chatgpt-en"), ("chatgpt", "gpt4"))
"""Steps of the published systems: a better model, the same model asked in English, a better model again."""
CUTS = ("all", "students", "answers", "length", "block", "field")
STUDENTS = {0.0: "under 50 %", 0.5: "50 to 70 %", 0.7: "70 to 90 %", 0.9: "90 % and more"}
UNKNOWN = "not published"
TABLES = {"groups": "error_groups.csv", "flips": "error_flips.csv", "prohibited": "error_prohibited.csv"}


@dataclass(frozen=True)
class Errors:
    """Counts on the published answers, read by the `strict` scorer."""

    groups: pd.DataFrame  #: Columns `system, cut, group, right, n`, on the text-only five-choice questions
    flips: pd.DataFrame  #: Columns `first, second, cut, group` and the values of `FLIPS`, on the same questions
    prohibited: pd.DataFrame  #: See `prohibited_counts`; on the whole examination, images included
    notice: str  #: Where the counts come from


def kinds(questions: Sequence[Question]) -> pd.DataFrame:
    """The group of each question in every cut: index id, columns `CUTS`, each an ordered category.

    `students` is the share of students who were right, `answers` how many choices the stem asks for, `length` the characters
    of stem and choices in three groups of about equal size.
    """
    groups = {
        "all": ["all questions"] * len(questions),
        "students": [_band(q.student_accuracy) for q in questions],
        "answers": [str(q.n_select) for q in questions],
        "block": [q.section for q in questions],
        "field": [q.category or "not named" for q in questions],
    }
    table = pd.DataFrame(groups, index=[q.id for q in questions])
    orders = {c: sorted(set(table[c])) for c in ("all", "answers", "block")}
    orders["students"] = [*reversed(STUDENTS.values()), UNKNOWN]
    fields = table["field"].value_counts()
    orders["field"] = sorted(fields.index, key=lambda field: (-fields[field], field))
    for cut, order in orders.items():
        table[cut] = pd.Categorical(table[cut], order, ordered=True)
    characters = [len(q.text) + sum(map(len, q.choices)) for q in questions]
    return table.assign(length=thirds(pd.Series(characters, table.index)))[list(CUTS)]


def _band(share: float | None) -> str:
    return UNKNOWN if share is None else next(name for edge, name in reversed(STUDENTS.items()) if share >= edge)


def group_counts(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """Right answers of each system in every group of every cut; columns `system, cut, group, right, n`."""
    table, found = kinds(questions), []
    for system, of_system in marked.items():
        right = pd.Series([of_system[q.id].right for q in questions], table.index)
        for cut in CUTS:
            counted = right.groupby(table[cut], observed=True).agg(["sum", "size"])
            counted = counted.set_axis(["right", "n"], axis=1).rename_axis("group").reset_index().astype({"group": str})
            found.append(counted.assign(system=system, cut=cut))
    return pd.concat(found, ignore_index=True)[["system", "cut", "group", "right", "n"]]


def flip_counts(questions: Sequence[Question], first: Mapping[str, Marked], second: Mapping[str, Marked]) -> pd.DataFrame:
    """How the questions go from one system to another, in every group of every cut; columns `cut, group` and the flips."""
    table, found = kinds(questions), []
    flip = pd.Series([FLIPS[first[q.id].right, second[q.id].right] for q in questions], table.index)
    for cut in CUTS:
        counted = flip.groupby(table[cut], observed=True).value_counts().unstack(fill_value=0)
        counted = counted.reindex(columns=list(FLIPS.values()), fill_value=0).rename_axis(columns=None).rename_axis("group")
        found.append(counted.reset_index().astype({"group": str}).assign(cut=cut))
    return pd.concat(found, ignore_index=True)[["cut", "group", *FLIPS.values()]]


def prohibited_counts(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """How often each system makes a prohibited choice, on the questions that have one.

    Returns:
        Columns `system, year, items, wrong, picked, blind_wrong, blind_picked`: questions with a prohibited choice, those
        answered wrong, those on which a prohibited choice was made, and the same two expected of blind picks.
    """
    rows = []
    for system, of_system in marked.items():
        for year in sorted({q.year for q in questions if q.year is not None}):
            risky = [q for q in questions if q.prohibited and q.year == year]
            wrong = sum(not of_system[q.id].right for q in risky)
            picked = sum(bool(of_system[q.id].picked & q.prohibited) for q in risky)
            blind = float((1 - chances(risky)).sum()), sum(_blind_prohibited(q) for q in risky)
            rows.append((system, year, len(risky), wrong, picked, *blind))
    return pd.DataFrame(rows, columns=["system", "year", "items", "wrong", "picked", "blind_wrong", "blind_picked"])


def _blind_prohibited(q: Question) -> float:
    """Probability that a blind pick of as many choices as asked for holds a prohibited one."""
    harmless = len(q.choices) - len(q.prohibited)
    return 1 - math.comb(harmless, q.n_select) / math.comb(len(q.choices), q.n_select)


def measure(data_dir: Path | str, years: Sequence[int]) -> Errors:
    """Counts the errors of every published system that answered all of the years.

    Raises:
        JmedloraError: A year has no questions, or no system answered them all.
    """
    questions = load_igakuqa(data_dir, years)
    systems = [s for s in SYSTEMS if all(s in published_systems(data_dir, year) for year in years)]
    if not systems:
        raise JmedloraError(f"{Path(data_dir)}: no published system answered all of {', '.join(map(str, years))}")
    marked = {s: exam_card.mark_responses(questions, load_published(data_dir, years, s)) for s in systems}
    asked, _ = select_text_five(questions)
    pairs = [(a, b) for a, b in PAIRS if a in marked and b in marked]
    flips = [flip_counts(asked, marked[a], marked[b]).assign(first=a, second=b) for a, b in pairs]
    columns = ["first", "second", "cut", "group", *FLIPS.values()]
    together = pd.concat(flips, ignore_index=True)[columns] if flips else pd.DataFrame(columns=columns)
    return Errors(group_counts(asked, marked), together, prohibited_counts(questions, marked), "counted from the published answers")


def measured_or_committed(data_dir: str, years: Sequence[int], on_missing: str) -> Errors:
    """Counts from the examination where it is at hand, verified, else the committed counts; see `exam_card.examination`.

    Raises:
        JmedloraError: `exam_card.examination` refuses, or a year is missing.
    """
    if (there := exam_card.examination(data_dir, years, on_missing)) is None:
        return read(paths.RESULTS / "published", years)
    folder, notice = there
    return replace(measure(folder, years), notice=notice)


def read(folder: Path, years: Sequence[int]) -> Errors:
    """Reads what `exam_card.write_tables` wrote; groups and flips are pooled over all years that were counted.

    Raises:
        JmedloraError: A year was not counted.
    """
    groups, flips, prohibited = (pd.read_csv(folder / name, dtype={"group": str}) for name in TABLES.values())
    known = exam_card.check_years(prohibited, years, "counts")
    note = f"these are the committed counts ({paths.relative(folder)}), not made now; flips are pooled over {known}"
    return Errors(groups, flips, prohibited[prohibited["year"].isin(list(years))].reset_index(drop=True), note)
