"""Answers to look at one by one: those of a run, of the committed evidence, and those published with IgakuQA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.analysis import evidence, studies
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, declared_parameters
from jmedlora_utils.core.records import Record, load_records, read_jsonl
from jmedlora_utils.data import fetch, igakuqa, prompts
from jmedlora_utils.data.questions import Question, select_text_five
from jmedlora_utils.evaluation import exam_prompts, shuffling

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class AnswerSet:
    """What one model, at one step, answered to one exam with a number of worked examples in the prompt."""

    exam: str  #: Name of the exam
    run: str  #: Run, or published system
    source: str  #: Where the answers are, for the reader
    #: Reads the answers: question id to a row with `response`, and `finish` and `prompt_sha256` where known
    load: Callable[[], Rows] = field(repr=False, compare=False)
    base: str = ""  #: Name or fingerprint of the base model; step 0 of a run on the same base is what it is compared with
    step: int = 0  #: Tuning steps; 0 is the base
    shots: int = 0  #: Worked examples in the prompt
    template: str = ""  #: Prompt template; empty for published answers
    shot_ids: tuple[str, ...] = ()  #: Ids of the worked examples
    shuffle: int = 0  #: Seed of the order of the choices; 0 is the printed one

    @cached_property
    def answers(self) -> Rows:
        return self.load()

    @property
    def condition(self) -> str:
        if not self.template:
            return "as published"
        return f"step {self.step}, {self.shots}-shot" if self.step else f"base (step 0), {self.shots}-shot"

    @property
    def label(self) -> str:
        return f"{self.run}, {self.condition}" if self.template else self.run


@dataclass(frozen=True)
class AnswerSource:
    """Everything that can be looked at.

    Attributes:
        preset: Preset that the answers come from; empty for published ones.
        where: The folder, for the reader.
        sets: What was answered.
        read_questions: Exam name to its questions by id, choices as printed.
        read_shots: The worked examples of a set.
    """

    preset: str
    where: str
    sets: tuple[AnswerSet, ...]
    read_questions: Callable[[str], dict[str, Question]] = field(repr=False)
    read_shots: Callable[[AnswerSet], Sequence[Question]] = field(repr=False, default=lambda _: [])

    def questions(self, answers: AnswerSet) -> dict[str, Question]:
        """The questions of a set by id, their choices in the order in which they were asked."""
        printed = self.read_questions(answers.exam)
        return {key: shuffling.shuffle_choices(q, answers.shuffle) for key, q in printed.items()} if answers.shuffle else printed

    def banner(self) -> str:
        """A Markdown warning where the answers are no evidence; empty otherwise."""
        return studies.smoke_warning() if self.preset == "smoke" else ""

    def contents(self) -> pd.DataFrame:
        """One row per exam and model, with its steps, numbers of worked examples and questions."""

        def listed(values: pd.Series) -> str:
            return ", ".join(map(str, sorted(set(values))))

        rows = [(s.exam, s.run, s.step, s.shots, bool(s.template), s) for s in self.sets]
        frame = pd.DataFrame(rows, columns=["exam", "model", "steps", "shots", "asked", "questions"])
        how = {"steps": listed, "shots": listed, "asked": "first", "questions": lambda found: len(found.iloc[0].answers)}
        shown = frame.groupby(["exam", "model"], sort=False, as_index=False).agg(how)
        shown["steps"] = shown["steps"].where(shown["asked"], "as published")
        shown["shots"] = shown["shots"].where(shown["asked"], "")
        return shown.drop(columns="asked")


def open_answers(preset: str, seed: int, source: str = "run", folder: str = "") -> AnswerSource:
    """Finds the answers of a run: its own (`run`), those kept in `book/results/` (`committed`), or with `auto` the latter where they exist.

    `folder`, laid out like a workspace and wherever it is, goes before the rest.

    Raises:
        JmedloraError: There are no answers, `source` is unknown, or there is no committed evidence.
    """
    if not folder and evidence.is_committed(preset, source):
        return from_evidence(preset)
    workspace = Folder(preset, seed, Path(folder).expanduser().resolve()) if folder else paths.Workspace(preset, seed)
    if not any(workspace.records.glob("30_evaluate__*.json")):
        where = paths.relative(workspace.records)
        raise JmedloraError(f"{where}: holds no record of notebook 30; run `make reproduce PRESET={preset}`, or name another folder")
    return from_records(workspace)


@dataclass(frozen=True)
class Folder(paths.Workspace):
    """A workspace elsewhere, such as one copied from a cluster."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder


def from_records(workspace: paths.Workspace) -> AnswerSource:
    """The answers that a workspace's records of notebook 30 name; each file is read when first looked at."""
    records = load_records(workspace.root, kind="evaluate", allow_smoke=True)

    @cache
    def questions(exam: str) -> dict[str, Question]:
        return {q.id: q for q in exam_prompts.load_exam(exam, workspace)[0]}

    def shots(asked: AnswerSet) -> list[Question]:
        first = next(iter(questions(asked.exam).values()))
        pool = {q.id: q for q in exam_prompts.shot_pool(asked.exam, workspace, first.language)} if asked.shot_ids else {}
        return [pool[name] for name in asked.shot_ids]

    sets = tuple(_answer_set(record, workspace) for record in records)
    return AnswerSource(records[0].preset, paths.relative(workspace.root), sets, questions, shots)


def _answer_set(record: Record, workspace: paths.Workspace) -> AnswerSet:
    config, file = record.config, workspace.answers / f"{record.name.removeprefix('30_evaluate__')}.jsonl"
    return AnswerSet(
        exam=config["exam"],
        run=config["run_name"],
        source=record.name,
        load=lambda: {row["id"]: row for row in read_jsonl(file)},
        base=record.model.get("fingerprint") or config["base"],
        step=int(config["step"]),
        shots=int(config["shots"]),
        template=config["template"],
        shot_ids=tuple(config.get("shot_ids", ())),
        shuffle=int(config.get("settings", {}).get("shuffle_choices", 0)),
    )


def from_evidence(preset: str) -> AnswerSource:
    """The answers kept with the committed evidence: those of the shown run, first seed, before tuning and at the late step."""
    folder = evidence.evidence_folder(preset)
    study = evidence.read_evidence(folder)
    seed = study.seeds[0]
    by_exam: dict[str, dict[str, Question]] = {}
    for row in study.questions[study.questions["seed"] == seed].dropna(subset=["text"]).to_dict("records"):
        question = studies.question_of(row, section=str(row["facts"]).replace("_", " "), category=row["category"])
        by_exam.setdefault(row["exam"], {})[row["id"]] = question
    template = declared_parameters(EVALUATE_NOTEBOOK)["template"]
    where = f"{paths.relative(folder)}/seed{seed}/examples.jsonl"
    sets = []
    for (exam, run, step), kept in study.examples[study.examples["seed"] == seed].groupby(["exam", "run", "steps"], observed=True):
        rows = {row["id"]: {"response": row["response"]} for row in kept.to_dict("records")}
        sets.append(AnswerSet(str(exam), str(run), where, lambda rows=rows: rows, base=str(run), step=int(step), template=template))
    return AnswerSource(preset, paths.relative(folder), tuple(sets), by_exam.__getitem__)


def from_published(years: Sequence[int]) -> AnswerSource | None:
    """The answers published with IgakuQA, and the choice of most students; None where the examination is not at hand.

    Published answers are letters; they are shown as the texts of those choices.

    Raises:
        JmedloraError: A file is not the published one.
    """
    if not years or not fetch.available(["igakuqa"], years):
        return None
    data_dir = fetch.verified(f"IgakuQA/{part}/{year}/" for part in ("data", "baseline_results") for year in years)

    @cache
    def questions(_: str) -> dict[str, Question]:
        return {q.id: q for q in select_text_five(igakuqa.load_igakuqa(data_dir, years))[0]}

    def answers(system: str) -> Rows:
        there = [year for year in years if system in igakuqa.published_systems(data_dir, year)]
        printed = igakuqa.load_published(data_dir, there, system)
        return {key: {"response": _in_words(q, printed[key])} for key, q in questions("").items() if key in printed}

    systems = [s for s in igakuqa.SYSTEMS if any(s in igakuqa.published_systems(data_dir, year) for year in years)]
    name, where = f"igakuqa_{min(years)}_{max(years)}", "IgakuQA/baseline_results"
    sets = tuple(AnswerSet(name, s, where, lambda s=s: answers(s), base=s) for s in reversed(systems))
    return AnswerSource("", where, sets, questions)


def _in_words(question: Question, printed: str) -> str:
    """`a,c` as the texts of these choices; anything that is not letters stays as it is."""
    letters = [part.strip() for part in printed.split(",")]
    if not all(len(letter) == 1 and letter in question.letters for letter in letters):
        return printed
    return prompts.SEPARATOR.join(question.choice(letter) for letter in letters)
