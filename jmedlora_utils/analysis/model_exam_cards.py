"""Evaluated models as candidates of the national examination: their answers, marked as an exam card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from jmedlora_utils.analysis import exam_card, exam_errors, studies
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import Record, load_records, write_text
from jmedlora_utils.data import exam_files, fetch, igakuqa
from jmedlora_utils.data.questions import Question, read_exam
from jmedlora_utils.evaluation import exam_prompts, results

EXAM = "igakuqa"
SAT = (EXAM, *exam_files.RECENT)
"""Examinations that have an exam card."""
COLUMNS = (*exam_card.COLUMNS, "asked", "reachable")
FLIP_COLUMNS = ["first", "second", "cut", "group", *exam_errors.FLIPS.values()]
SAME = ("base", "exam", "shots", "template", "quantisation")
"""What a model before and after tuning must share for a pair."""


def cards(preset: str) -> pd.DataFrame:
    """The exam card of every model of a preset that was asked an examination of `SAT`, and of the majority of students below them.

    A question that a model was not asked, one with an image for example, counts as wrong: an examination has no
    questions left out. So `asked` and `reachable` say how many items and points the model had a chance of.

    Args:
        preset: Name of the preset; a run that has not been made gives no rows.

    Returns:
        Columns `COLUMNS`: those of `exam_card.card`, then the items asked and their points. One row per model and year;
        `system` is run, step and shots, and the seed where the preset has several. Empty where no model was asked.

    Raises:
        JmedloraError: An answers file does not match its exam.
    """
    found, sat = [], {}
    for workspace, _, asked_of, seed in _asked(preset, SAT):
        for record in asked_of:
            asked, responses = results.asked_questions(record, workspace)
            answers = dict(zip((q.id for q in asked), responses, strict=True))
            questions = whole_examination(record.config["exam"], workspace)
            sat |= {(q.year, q.id): q for q in questions if record.config["exam"].split("_")[0] == EXAM}
            # Choices in the order in which they were asked.
            posed = {q.id: q for q in asked}
            questions = [posed.get(q.id, q) for q in questions]
            found.append(_card(questions, exam_card.mark_responses(questions, answers), _name(record) + seed, set(answers)))
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    if everyone := list(sat.values()):
        found.append(_card(everyone, exam_card.students(everyone), "student-majority", {q.id for q in everyone}))
    return pd.concat(found, ignore_index=True)


def flips(preset: str) -> pd.DataFrame:
    """How IgakuQA's questions go from each base to its tuned models, by kind of question; answers read by the `strict` scorer.

    Each run is shown at its last step that was asked, with the fewest worked examples. Its base is its own step 0, else
    that of another run that asked the same base the same exam in the same way, never one after continued pretraining.

    Args:
        preset: Name of the preset; a run that has not been made gives no rows.

    Returns:
        Columns `first, second` and those of `exam_errors.flip_counts`; empty where no model was asked before and after.

    Raises:
        JmedloraError: An answers file does not match its exam.
    """
    found = []
    for workspace, every, records, seed in _asked(preset):
        for after in _last(records):
            if (before := _base_of(after, records, every)) is None:
                continue
            (_, first), (asked, second) = (_marked(record, workspace) for record in (before, after))
            both = [q for q in asked if q.id in first]
            found.append(exam_errors.flip_counts(both, first, second).assign(first=after.config["base"], second=_name(after) + seed))
    return pd.concat(found, ignore_index=True)[FLIP_COLUMNS] if found else pd.DataFrame(columns=FLIP_COLUMNS)


def _asked(preset: str, exams: Sequence[str] = (EXAM,)) -> Iterator[tuple[paths.Workspace, list[Record], list[Record], str]]:
    """Of each seed the workspace, all records, the evaluations on the exams, and what names the seed where there are several.

    Variants, and what the preset named once and names no more, are no candidates.
    """
    asked_for = load_preset(preset)
    seeds, planned = asked_for.seeds, studies.evaluations(asked_for)
    for seed in seeds:
        workspace = paths.Workspace(preset, seed)
        records = load_records(workspace.root, allow_smoke=True) if any(workspace.records.glob("*.json")) else []
        named = [r for r in records if r.kind == "evaluate" and studies.evaluation_of(r) in planned]
        asked = [r for r in named if r.config["exam"].split("_")[0] in exams]
        yield workspace, records, asked, f", seed {seed}" if len(seeds) > 1 else ""


def _name(record: Record) -> str:
    return "{run_name}, step {step}, {shots}-shot".format(**record.config)


def _last(records: Sequence[Record]) -> list[Record]:
    """Of each tuned run and exam the last step, with the fewest worked examples."""
    last: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: (r.config["step"], -r.config["shots"])):
        if record.config["step"] > 0:
            last[record.config["run_name"], record.config["exam"]] = record
    return list(last.values())


def _base_of(after: Record, records: Sequence[Record], every: Sequence[Record]) -> Record | None:
    """The record of a run's base before tuning, asked the same exam with as many worked examples."""
    same = [
        r
        for r in records
        if r.config["step"] == 0
        and all(r.config.get(name) == after.config.get(name) for name in SAME)
        and not studies.method_of(every, r.config["run_name"]).startswith("cpt")
    ]
    return min(same, key=lambda r: (r.config["run_name"] != after.config["run_name"], r.name), default=None)


def _marked(record: Record, workspace: paths.Workspace) -> tuple[list[Question], dict[str, exam_card.Marked]]:
    asked, responses = results.asked_questions(record, workspace)
    return asked, exam_card.mark_responses(asked, dict(zip((q.id for q in asked), responses, strict=True)))


def write(folder: Path, table: pd.DataFrame) -> list[Path]:
    """Writes the cards as `candidates.csv`; an empty table leaves no file."""
    return [write_text(folder / "candidates.csv", table.to_csv(index=False, lineterminator="\n"))] if len(table) else []


def whole_examination(exam: str, workspace: paths.Workspace) -> list[Question]:
    """All questions of the years that an evaluation's exam covers, those with images included.

    Args:
        exam: `igakuqa` as notebook 11 prepared it, or `igakuqa_<year>`, `igakuqa_<first>_<last>`, or one of `exam_files.RECENT`.
        workspace: Where notebook 11 wrote `data/exams/<exam>_full.jsonl`.

    Raises:
        JmedloraError: The file is malformed, or a published file is missing or was changed.
    """
    prepared = workspace.data / "exams" / f"{exam}_full.jsonl"
    if prepared.is_file():
        return read_exam(prepared)
    if exam in exam_files.RECENT:
        return exam_files.load_published_exam(exam, fetch.verified(fetch.source_of(exam).parts(answers=False)))
    years = sorted({q.year for q in exam_prompts.load_exam(exam, workspace)[0] if q.year is not None})
    return igakuqa.load_igakuqa(fetch.verified(f"IgakuQA/data/{year}/" for year in years), years)


def _card(questions: Sequence[Question], marked: Mapping[str, exam_card.Marked], system: str, asked: set[str]) -> pd.DataFrame:
    table = exam_card.card(questions, marked, system)
    of_year = [[q for q in questions if exam_card.year_of(q) == year and q.id in asked] for year in table["year"]]
    return table.assign(asked=[len(group) for group in of_year], reachable=[int(sum(q.points for q in group)) for group in of_year])
