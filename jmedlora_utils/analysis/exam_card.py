"""The examination as an examination: points, must-pass blocks, prohibited choices, pass or fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_text
from jmedlora_utils.core.statistics import wilson
from jmedlora_utils.data import fetch
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published, misprinted_prohibited, published_systems
from jmedlora_utils.data.questions import LETTERS, Question, exclusion
from jmedlora_utils.evaluation.metrics import BASELINES, baselines, score

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("system", "year", "points", "max_points", "required", "general", "items_correct", "items", "prohibited", "passed")
REQUIRED_SECTIONS = ("B", "E")


@dataclass(frozen=True)
class Marked:
    """One answer, marked.

    Attributes:
        right: Whether it earns the item's points.
        picked: Letters chosen, for prohibited choices.
    """

    right: bool
    picked: frozenset[str]


def pass_marks() -> pd.DataFrame:
    """Marks of the examination by year, from `data/pass_marks.csv`, each with its source.

    Returns:
        Index `year`; columns `exam, required_mark, general_mark, prohibited_limit, required_max, general_max, source`.
    """
    import pandas as pd

    return pd.read_csv(paths.PACKAGE_DATA / "pass_marks.csv").set_index("year")


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


def card(
    questions: Sequence[Question], marked: Mapping[str, Marked], system: str, misprinted: frozenset[str] = frozenset()
) -> pd.DataFrame:
    """One row per year of the questions, columns `COLUMNS`.

    `required` and `general` are the points of blocks B and E and of the rest; `prohibited` counts the questions on which
    a prohibited choice was made. Passed: both marks reached and no more prohibited choices than the limit, which fails
    at four; empty where `cannot_decide` gives a reason.

    Args:
        questions: A whole examination, image questions included; all of them are the denominator.
        marked: Every question's id to its marked answer.
        system: Name in the first column.
        misprinted: Ids whose prohibited choices do not count (`exams.misprinted_prohibited`), to give the published counts.

    Raises:
        JmedloraError: A question has no year.
    """
    import pandas as pd

    marks = pass_marks()
    rows = []
    for year in sorted({_year(q) for q in questions}):
        of_year = [q for q in questions if q.year == year]
        right = [q for q in of_year if marked[q.id].right]
        required, general = _points(right, True), _points(right, False)
        prohibited = sum(q.id not in misprinted and bool(marked[q.id].picked & q.prohibited) for q in of_year)
        passed = None if cannot_decide(of_year, year) else _passed(required, general, prohibited, marks.loc[year])
        total = _points(of_year, True) + _points(of_year, False)
        rows.append((system, year, required + general, total, required, general, len(right), len(of_year), prohibited, passed))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"passed": "boolean"})


def _year(question: Question) -> int:
    if question.year is None:
        raise JmedloraError(f"question {question.id} of {question.exam} has no year; an exam card needs a whole examination")
    return question.year


def _points(questions: Iterable[Question], required: bool) -> int:
    return int(sum(q.points for q in questions if (q.section in REQUIRED_SECTIONS) == required))


def cannot_decide(questions: Sequence[Question], year: int) -> str:
    """Why the year's questions allow no verdict; empty where they do.

    Either the year has no line in `pass_marks.csv`, or its points are not the maxima of the official notice: then some
    of its questions are missing or were changed, and no mark applies.
    """
    marks = pass_marks()
    if year not in marks.index:
        return f"{year} has no pass marks; add a line with its source to jmedlora_utils/data/pass_marks.csv"
    of_year = [q for q in questions if q.year == year]
    for block, required in (("required", True), ("general", False)):
        found, official = _points(of_year, required), int(marks.loc[year, f"{block}_max"])
        if found != official:
            return (
                f"{year}: the {block} block adds up to {found} points, the official notice says {official}; the examination is incomplete"
            )
    if not any(q.prohibited for q in of_year):
        return f"{year} names no prohibited choice; its _metadata files are missing"
    return ""


def _passed(required: int, general: int, prohibited: int, row: pd.Series) -> bool:
    return bool(required >= row.required_mark and general >= row.general_mark and prohibited <= row.prohibited_limit)


def sit(questions: Sequence[Question], responses: Mapping[str, str], system: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An evaluated model sits the examination, beside the majority of students.

    Args:
        questions: The whole examination (`<exam>_full.jsonl`); a question the model was not asked counts as wrong.
        responses: Question id to what the model wrote.
        system: Name of the model.

    Returns:
        The exam card (`card`) and the shares per medical field (`by_category`), model and `student-majority` in both.
    """
    import pandas as pd

    marked = {system: mark_responses(questions, responses), "student-majority": students(questions)}
    cards = [card(questions, of_system, name) for name, of_system in marked.items()]
    return pd.concat(cards, ignore_index=True), by_category(questions, marked)


@dataclass(frozen=True)
class Published:
    """The published systems, scored.

    Attributes:
        card: The exam card, columns `COLUMNS`, marked as the published figures are (`mark_published`).
        strict: The same with answers read by the `strict` scorer and every prohibited letter counted.
        text_five: Accuracy on the text-only five-choice questions (`text_five`), and of the baselines (`text_five_baselines`).
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
    import pandas as pd

    if not years:
        raise JmedloraError("parameter years is empty; name at least one year, for example [2018]")
    cards, stricts, accuracies, notices = [], [], [], []
    everything: list[Question] = []
    marked_all: dict[str, dict[str, Marked]] = {}
    for year in years:
        questions = load_igakuqa(data_dir, [year])
        everything += [replace(q, id=f"{year} {q.id}") for q in questions]
        if reason := cannot_decide(questions, year):
            notices.append(reason)
        systems = published_systems(data_dir, year)
        notices += [f"{year} has no answers of {system}" for system in SYSTEMS if system not in systems]
        for system in systems:
            answers = load_published(data_dir, [year], system)
            if absent := len(questions) - len(answers):
                notices.append(f"{year}: {system} leaves {absent} of {len(questions)} questions without an answer; they count as wrong")
            marked = mark_published(questions, answers)
            marked_all.setdefault(system, {}).update({f"{year} {name}": m for name, m in marked.items()})
            cards.append(card(questions, marked, system, misprinted_prohibited(data_dir, year)))
            stricts.append(card(questions, mark_responses(questions, answers), system))
            accuracies.append(text_five(questions, marked, system))
        if systems:
            accuracies.append(text_five_baselines(questions))
    if not cards:
        raise JmedloraError(f"{Path(data_dir)}: no published answers (IgakuQA/baseline_results/YEAR) for {', '.join(map(str, years))}")
    order = {system: i for i, system in enumerate((*SYSTEMS, *BASELINES))}
    together = [pd.concat(found, ignore_index=True) for found in (cards, stricts, accuracies)]
    tables = [table.sort_values(["system", "year"], key=_rank(order), ignore_index=True) for table in together]
    complete = {s: m for s, m in marked_all.items() if len(m) == len(everything)}
    return Published(*tables, by_category(everything, {s: complete[s] for s in SYSTEMS if s in complete}), tuple(notices))


def published_or_committed(data_dir: str, years: Sequence[int], on_missing: str) -> Published:
    """Scores the published systems, from files that are fetched and verified first.

    Args:
        data_dir: Folder that holds `IgakuQA/`, used as it is (verified, nothing is downloaded); empty takes
            `paths.exam_data_dir()` and downloads what is missing there.
        years: Years to score.
        on_missing: `error`, or `committed`: no download, and the committed tables where the folder lacks the examination.

    Raises:
        JmedloraError: `on_missing` is neither, or `score_published` refuses.
        JmedloraError: A file was changed, or is missing and cannot be downloaded.
    """
    if (there := examination(data_dir, years, on_missing)) is None:
        return read_published(paths.RESULTS / "published", years)
    folder, notice = there
    published = score_published(folder, years)
    return replace(published, notices=(notice, *published.notices))


def examination(data_dir: str, years: Sequence[int], on_missing: str) -> tuple[Path, str] | None:
    """The folder of the examination and its published answers, verified, with a notice; None where committed tables stand in.

    Args:
        data_dir: See `published_or_committed`, and so for the others.
        years: Years that are needed.
        on_missing: `error` or `committed`.

    Raises:
        JmedloraError: `on_missing` is neither.
        JmedloraError: A file was changed, or is missing and cannot be downloaded.
    """
    if on_missing not in ("error", "committed"):
        raise JmedloraError(f"parameter on_missing is {on_missing!r}; it takes 'error' or 'committed'")
    folder = Path(data_dir) if data_dir else paths.exam_data_dir()
    if on_missing == "committed" and not data_dir:
        there = fetch.available(["igakuqa"], years, folder) and all(published_systems(folder, year) for year in years)
        if not there:
            return None
    fetched = fetch.ensure(["igakuqa"], years, folder, download=not data_dir and on_missing == "error")
    return folder, fetched.notice()


def _rank(order: Mapping[str, int]) -> Callable[[pd.Series], pd.Series]:
    return lambda column: column.map(order) if column.name == "system" else column


def write_card(path: Path, table: pd.DataFrame) -> Path:
    """Writes the card as CSV with exactly `COLUMNS`; `passed` is True, False or empty."""
    return write_text(path, table[list(COLUMNS)].to_csv(index=False, lineterminator="\n"))


def read_card(path: Path) -> pd.DataFrame:
    """Reads what `write_card` wrote.

    Raises:
        JmedloraError: The columns are not `COLUMNS`.
    """
    import pandas as pd

    table = pd.read_csv(path, dtype={"passed": "boolean"})
    if tuple(table.columns) != COLUMNS:
        raise JmedloraError(f"{path}: columns {', '.join(table.columns)}; an exam card has {', '.join(COLUMNS)}")
    return table


def text_five(questions: Sequence[Question], marked: Mapping[str, Marked], system: str) -> pd.DataFrame:
    """Accuracy per year on the text-only five-choice questions, with its 95 % Wilson interval.

    Returns:
        Columns `system, year, right, n, accuracy, low, high`; shares 0 to 1.
    """
    import pandas as pd

    rows = []
    for year in sorted({_year(q) for q in questions}):
        asked = [q for q in questions if q.year == year and exclusion(q) is None]
        if not asked:
            raise JmedloraError(f"{year}: no text-only five-choice question; accuracy on them has no denominator")
        right = sum(marked[q.id].right for q in asked)
        interval = wilson(right, len(asked))
        rows.append((system, year, right, len(asked), right / len(asked), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["system", "year", "right", "n", "accuracy", "low", "high"])


def text_five_baselines(questions: Sequence[Question]) -> pd.DataFrame:
    """What no skill and full knowledge earn on the questions of `text_five`; its columns, the baseline as system.

    The baselines write choices, so the `strict` scorer reads them. `random choice` is an expectation: its `right` is
    rounded, and its interval is that of one blind candidate.
    """
    import pandas as pd

    rows = []
    for year in sorted({_year(q) for q in questions}):
        found = baselines([q for q in questions if q.year == year and exclusion(q) is None], ("strict",))
        for name, n, share in found[["baseline", "n", "accuracy"]].itertuples(index=False):
            interval = wilson(share * n, n)
            rows.append((name, year, round(share * n), n, share, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["system", "year", "right", "n", "accuracy", "low", "high"])


def by_category(questions: Sequence[Question], marked: Mapping[str, Mapping[str, Marked]]) -> pd.DataFrame:
    """Share of items right per medical field, one column a system beside the number of items, largest fields first.

    Args:
        questions: Questions with a category.
        marked: System name to its marked answers.
    """
    import pandas as pd

    rows = []
    for field in sorted({q.category for q in questions if q.category}):
        of_field = [q for q in questions if q.category == field]
        shares = {system: sum(m[q.id].right for q in of_field) / len(of_field) for system, m in marked.items()}
        rows.append({"category": field, "items": len(of_field), **shares})
    table = pd.DataFrame(rows, columns=["category", "items", *marked])
    return table.sort_values(["items", "category"], ascending=[False, True], ignore_index=True)


def students(questions: Iterable[Question]) -> dict[str, Marked]:
    """What the majority of students chose, from the published shares of each choice: as many as the stem asks for.

    Upstream's `student-majority` answers are made the same way. Without shares there is no answer.
    """
    marked = {}
    for q in questions:
        order = sorted(range(len(q.breakdown)), key=lambda i: -q.breakdown[i])[: q.n_select]
        picked = frozenset(LETTERS[i] for i in order)
        right = q.rule == "always" or (len(picked) == 1 and picked <= q.gold if q.rule == "any" else bool(picked) and picked == q.gold)
        marked[q.id] = Marked(right, picked)
    return marked


# --- committed evidence -------------------------------------------------------------------------------------------

TABLES = {"card": "exam_card.csv", "strict": "exam_card_strict.csv", "text_five": "text_five.csv", "categories": "by_category.csv"}


def write_published(folder: Path, published: Published) -> list[Path]:
    """Writes the four tables as CSV; `exam_card.csv` has exactly `COLUMNS`."""
    written = []
    for name, file in TABLES.items():
        table = getattr(published, name)
        written.append(write_card(folder / file, table) if name in ("card", "strict") else write_text(folder / file, _csv(table)))
    return written


def read_published(folder: Path, years: Sequence[int]) -> Published:
    """Reads what `write_published` wrote, for the years asked for.

    Raises:
        JmedloraError: A year is not in the tables.
    """
    import pandas as pd

    card_, strict = read_card(folder / TABLES["card"]), read_card(folder / TABLES["strict"])
    known = sorted(set(card_["year"]))
    if absent := sorted(set(years) - set(known)):
        raise JmedloraError(
            f"the committed figures have no year {absent[0]}, only {', '.join(map(str, known))}; bring the examination itself"
        )
    text_five_, categories = (pd.read_csv(folder / TABLES[name]) for name in ("text_five", "categories"))
    note = f"these are the committed figures ({paths.relative(folder)}), not computed now; fields are pooled over {known[0]}-{known[-1]}"
    of_years = [t[t["year"].isin(list(years))].reset_index(drop=True) for t in (card_, strict, text_five_)]
    return Published(*of_years, categories, (note,))


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6f")


# --- what the page shows ------------------------------------------------------------------------------------------


def readings(published: Published) -> pd.DataFrame:
    """What reading the same answers strictly changes: points and prohibited choices, as published and strict."""
    both = published.card.merge(published.strict, on=["system", "year"], suffixes=("", "_strict"))
    changed = both[(both["points"] != both["points_strict"]) | (both["prohibited"] != both["prohibited_strict"])]
    return changed[["system", "year", "points", "points_strict", "prohibited", "prohibited_strict"]].reset_index(drop=True)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """The card as a reader sees it: one row a system, one column a year, points and verdict."""
    shown = table.assign(cell=[f"{p} {_verdict(v)}" for p, v in zip(table["points"], table["passed"], strict=True)])
    wide = shown.pivot(index="system", columns="year", values="cell")
    wide = wide.reindex([s for s in SYSTEMS if s in wide.index] + [s for s in wide.index if s not in SYSTEMS])
    return wide.fillna("not answered").rename(columns=str).rename_axis(columns=None).reset_index()


def _verdict(passed: object) -> str:
    import pandas as pd

    return "(no mark)" if pd.isna(passed) else "passed" if passed else "failed"


def margins(table: pd.DataFrame) -> pd.DataFrame:
    """Points above the mark in each block, and prohibited choices to spare; years without marks are left out.

    Returns:
        Columns `system, year, required_margin, general_margin, prohibited_to_spare`; negative is a failure.
    """
    known = table[table["passed"].notna()]
    joined = known.join(pass_marks(), on="year")
    return joined.assign(
        required_margin=joined["required"] - joined["required_mark"],
        general_margin=joined["general"] - joined["general_mark"],
        prohibited_to_spare=joined["prohibited_limit"] - joined["prohibited"],
    )[["system", "year", "required_margin", "general_margin", "prohibited_to_spare"]].reset_index(drop=True)
