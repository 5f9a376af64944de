"""Errors in the national examination: paired flips between two systems by kind of question, and prohibited choices.

Tables hold counts alone and so no text of the examination; shares, intervals and tests follow from the counts when a page shows them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.analysis.exam_card import Marked
from jmedlora_utils.core import formatting, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_text
from jmedlora_utils.core.statistics import chances, wilson
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published, published_systems
from jmedlora_utils.data.questions import Question, select_text_five

if TYPE_CHECKING:
    import pandas as pd

FLIPS = {(False, True): "fixed", (True, False): "broken", (True, True): "right twice", (False, False): "wrong twice"}
PAIRS = (("gpt3", "chatgpt"), ("chatgpt", "translate_chatgpt-en"), ("chatgpt", "gpt4"))
"""Steps of the published systems: a better model, the same model asked in English, a better model again."""
CUTS = ("all", "students", "answers", "length", "block", "field")
STUDENTS = {0.0: "under 50 %", 0.5: "50 to 70 %", 0.7: "70 to 90 %", 0.9: "90 % and more"}
UNKNOWN = "not published"
SMALL = 30
TABLES = {"groups": "error_groups.csv", "flips": "error_flips.csv", "prohibited": "error_prohibited.csv"}


@dataclass(frozen=True)
class Errors:
    """Counts on the published answers, read by the `strict` scorer.

    Attributes:
        groups: Columns `system, cut, group, right, n`, on the text-only five-choice questions.
        flips: Columns `first, second, cut, group` and the values of `FLIPS`, on the same questions.
        prohibited: See `prohibited_counts`; on the whole examination, images included.
        notice: Where the counts come from.
    """

    groups: pd.DataFrame
    flips: pd.DataFrame
    prohibited: pd.DataFrame
    notice: str


# --- counting -----------------------------------------------------------------------------------------------------


def kinds(questions: Sequence[Question]) -> pd.DataFrame:
    """The group of each question in every cut: index id, columns `CUTS`, each an ordered category.

    `students` is the share of students who were right, `answers` how many choices the stem asks for, `length` the characters
    of stem and choices in three groups of about equal size.
    """
    import pandas as pd

    from jmedlora_utils.analysis import views

    table = pd.DataFrame(
        {
            "all": ["all questions"] * len(questions),
            "students": [_band(q.student_accuracy) for q in questions],
            "answers": [str(q.n_select) for q in questions],
            "block": [q.section for q in questions],
            "field": [q.category or "not named" for q in questions],
        },
        index=[q.id for q in questions],
    )
    orders = {c: sorted(set(table[c])) for c in ("all", "answers", "block")}
    orders["students"] = [*reversed(STUDENTS.values()), UNKNOWN]
    fields = table["field"].value_counts()
    orders["field"] = sorted(fields.index, key=lambda field: (-fields[field], field))
    for cut, order in orders.items():
        table[cut] = pd.Categorical(table[cut], order, ordered=True)
    characters = [len(q.text) + sum(map(len, q.choices)) for q in questions]
    return table.assign(length=views.thirds(pd.Series(characters, table.index)))[list(CUTS)]


def _band(share: float | None) -> str:
    return UNKNOWN if share is None else next(name for edge, name in reversed(STUDENTS.items()) if share >= edge)


def group_counts(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """Right answers of each system in every group of every cut; columns `system, cut, group, right, n`."""
    import pandas as pd

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
    import pandas as pd

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
    import pandas as pd

    risky = [q for q in questions if q.prohibited]
    rows = []
    for system, of_system in marked.items():
        for year in sorted({q.year for q in questions if q.year is not None}):
            of_year = [q for q in risky if q.year == year]
            wrong = sum(not of_system[q.id].right for q in of_year)
            picked = sum(bool(of_system[q.id].picked & q.prohibited) for q in of_year)
            blind = float((1 - chances(of_year)).sum()), sum(_blind_prohibited(q) for q in of_year)
            rows.append((system, year, len(of_year), wrong, picked, *blind))
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
    import pandas as pd

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


def measured_or_committed(years: Sequence[int], on_missing: str) -> Errors:
    """Counts from the examination where it is at hand, verified, else the committed counts; see `exam_card.published_or_committed`.

    Raises:
        JmedloraError: `on_missing` is neither `error` nor `committed`, or a year is missing.
        JmedloraError: A file was changed, or is missing and cannot be downloaded.
    """
    if (there := exam_card.examination("", years, on_missing)) is None:
        return read(paths.RESULTS / "published", years)
    folder, notice = there
    return replace(measure(folder, years), notice=notice)


# --- committed evidence -------------------------------------------------------------------------------------------


def write(folder: Path, errors: Errors) -> list[Path]:
    """Writes the three tables as CSV."""
    found = {name: getattr(errors, name) for name in TABLES}
    return [write_text(folder / TABLES[n], t.to_csv(index=False, lineterminator="\n", float_format="%.6f")) for n, t in found.items()]


def read(folder: Path, years: Sequence[int]) -> Errors:
    """Reads what `write` wrote; groups and flips are pooled over all years that were counted.

    Raises:
        JmedloraError: A year was not counted.
    """
    import pandas as pd

    groups, flips, prohibited = (pd.read_csv(folder / name, dtype={"group": str}) for name in TABLES.values())
    known = sorted(set(prohibited["year"]))
    if absent := sorted(set(years) - set(known)):
        raise JmedloraError(
            f"the committed counts have no year {absent[0]}, only {', '.join(map(str, known))}; bring the examination itself"
        )
    of_years = prohibited[prohibited["year"].isin(list(years))].reset_index(drop=True)
    note = f"these are the committed counts ({paths.relative(folder)}), not made now; flips are pooled over {known[0]}-{known[-1]}"
    return Errors(groups, flips, of_years, note)


# --- what the page shows ------------------------------------------------------------------------------------------


def flips_table(flips: pd.DataFrame, cut: str, heading: str, least: int = SMALL) -> pd.DataFrame:
    """Flips of each pair in the groups of one cut, with the paired gain, its 95 % interval and McNemar's p (`views.flips_table`).

    Args:
        flips: Columns `first, second, cut, group` and the flips.
        cut: One of `CUTS`.
        heading: Heading of the groups.
        least: Groups of fewer questions are left out.

    Returns:
        One row a pair and group; empty where there is none.
    """
    import pandas as pd

    from jmedlora_utils.analysis import views

    shown = []
    of_cut = flips[(flips["cut"] == cut) & (flips[list(FLIPS.values())].sum(axis=1) >= least)]
    for (first, second), counts in of_cut.groupby(["first", "second"], sort=False):
        table = views.flips_table(_questions(counts), "group")
        table.insert(0, "from and to", [f"{first} → {second}", *[""] * (len(table) - 1)])
        shown.append(table)
    return pd.concat(shown, ignore_index=True).rename(columns={"group": heading}) if shown else pd.DataFrame()


def _questions(counts: pd.DataFrame) -> pd.DataFrame:
    """One row a question, as `views.flips_table` takes them."""
    import pandas as pd

    rows = [
        (group, flip, int(before), int(after))
        for group, *numbers in counts[["group", *FLIPS.values()]].itertuples(index=False, name=None)
        for ((before, after), flip), n in zip(FLIPS.items(), numbers, strict=True)
        for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["group", "flip", "before", "after"]).assign(seed=1)


def shares(groups: pd.DataFrame, cut: str) -> pd.DataFrame:
    """Accuracy of each system in the groups of one cut with its Wilson interval: `groups` and `accuracy, low, high`, shares 0 to 1."""
    of_cut = groups[(groups["cut"] == cut) & (groups["group"] != UNKNOWN)].reset_index(drop=True)
    found = [wilson(right, n) for right, n in zip(of_cut["right"], of_cut["n"], strict=True)]
    return of_cut.assign(accuracy=[f.value for f in found], low=[f.low for f in found], high=[f.high for f in found])


def students_sentence(groups: pd.DataFrame) -> str:
    """How far each system falls from the questions that students found easiest to those they found hardest."""

    table = shares(groups, "students").set_index(["system", "group"])
    bands = [name for name in reversed(STUDENTS.values()) if name in table.index.get_level_values("group")]
    said = []
    for system in dict.fromkeys(table.index.get_level_values("system")):
        easy, hard = (formatting.percent(*table.loc[(system, band), ["accuracy", "low", "high"]]) for band in (bands[0], bands[-1]))
        said.append(f"{system} from {easy} to {hard}")
    return f"From questions that {bands[0]} of the students had right to those that {bands[-1]} had right, in percent: {'; '.join(said)}."


def prohibited_table(prohibited: pd.DataFrame) -> pd.DataFrame:
    """Prohibited choices by system and year, and over all years as a share of the questions and of the wrong answers.

    The last row is what blind picks would do on the same questions: expected counts, so without intervals.
    """
    import pandas as pd

    rows = []
    for system, counts in prohibited.groupby("system", sort=False):
        total = counts[["items", "wrong", "picked"]].sum()
        by_year = {str(year): str(picked) for year, picked in zip(counts["year"], counts["picked"], strict=True)}
        of_wrong = f"{total['picked']} of {total['wrong']}"
        of_wrong += f": {formatting.percent(*wilson(total['picked'], total['wrong']))}" if total["wrong"] else ""
        rows.append({"system": system, **by_year, "all": f"{total['picked']} of {total['items']}"})
        rows[-1] |= {"share": formatting.percent(*wilson(total["picked"], total["items"])), "of_wrong": of_wrong}
    one = prohibited[prohibited["system"] == prohibited["system"].iloc[0]]
    expected = one[["items", "blind_wrong", "blind_picked"]].sum()
    by_year = {str(year): f"{picked:.1f}" for year, picked in zip(one["year"], one["blind_picked"], strict=True)}
    blind = {"system": "blind picks", **by_year, "all": f"{expected['blind_picked']:.1f} of {expected['items']:.0f}"}
    blind |= {"share": formatting.percent(expected["blind_picked"] / expected["items"])}
    blind |= {"of_wrong": formatting.percent(expected["blind_picked"] / expected["blind_wrong"])}
    heads = {"all": "all years", "share": "% of questions [95 %]", "of_wrong": "of the wrong answers, % [95 %]"}
    return pd.DataFrame([*rows, blind]).rename(columns=heads)


def prohibited_sentence(prohibited: pd.DataFrame) -> str:
    """Whether the wrong answers of each system are prohibited as often as those of blind picks, by the Wilson intervals."""

    total = prohibited.groupby("system", sort=False)[["wrong", "picked", "blind_wrong", "blind_picked"]].sum()
    total = total[total["wrong"] > 0]
    blind = total["blind_picked"].iloc[0] / total["blind_wrong"].iloc[0]
    groups: dict[str, list[str]] = {"as often, within the interval": [], "less often": [], "more often": []}
    for system, row in total.iterrows():
        share = wilson(row["picked"], int(row["wrong"]))
        name = "as often, within the interval" if share.covers(blind) else "less often" if share.high < blind else "more often"
        groups[name].append(str(system))
    said = "; ".join(f"{name}: {', '.join(systems)}" for name, systems in groups.items() if systems)
    return (
        f"Of the wrong answers that blind picks would give to these questions, {formatting.percent(blind)} % are prohibited. "
        f"Beside that, {said}."
    )
