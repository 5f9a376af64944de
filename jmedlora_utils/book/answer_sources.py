"""What can be looked at, question by question: the answers of a run, of the committed evidence, and those published with IgakuQA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.analysis import tables
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, declared_parameters
from jmedlora_utils.core.records import Record, load_records, read_jsonl
from jmedlora_utils.data import exams, fetch, prompts
from jmedlora_utils.data.exams import Question
from jmedlora_utils.evaluation import evaluator, shuffling

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sheet:
    """What one model, at one step, answered to one exam with a number of worked examples in the prompt.

    Attributes:
        exam: Name of the exam.
        run: Run, or published system.
        base: What identifies the base model; step 0 of a run on the same base is what it is compared with.
        step: Tuning steps; 0 is the base.
        shots: Worked examples in the prompt.
        template: Prompt template; empty where others asked.
        shot_ids: Ids of the worked examples.
        shuffle: Seed of the order of the choices; 0 is the printed one.
        source: Where the answers lie, for the reader.
        load: Reads the answers: question id to a row with `response`, and `finish` and `prompt_sha256` where known.
    """

    exam: str
    run: str
    base: str
    step: int
    shots: int
    template: str
    shot_ids: tuple[str, ...]
    shuffle: int
    source: str
    load: Callable[[], dict[str, dict[str, Any]]] = field(repr=False, compare=False)

    @cached_property
    def answers(self) -> dict[str, dict[str, Any]]:
        return self.load()

    @property
    def condition(self) -> str:
        if not self.template:
            return "as published"
        return f"step {self.step}, {self.shots}-shot" if self.step else f"base (step 0), {self.shots}-shot"

    @property
    def label(self) -> str:
        return self.run if not self.template else f"{self.run}, {self.condition}"


@dataclass(frozen=True)
class Shelf:
    """Everything that can be looked at.

    Attributes:
        preset: Preset that the answers come from; empty for published ones alone.
        where: The folder, for the reader.
        sheets: What was answered.
        read_questions: Exam name to its questions by id, choices as printed.
        read_shots: The worked examples of a sheet.
    """

    preset: str
    where: str
    sheets: tuple[Sheet, ...]
    read_questions: Callable[[str], dict[str, Question]] = field(repr=False)
    read_shots: Callable[[Sheet], Sequence[Question]] = field(repr=False)

    def questions(self, sheet: Sheet) -> dict[str, Question]:
        """The questions of a sheet by id, their choices in the order in which they were asked."""
        printed = self.read_questions(sheet.exam)
        return {key: shuffling.shuffle_choices(q, sheet.shuffle) for key, q in printed.items()} if sheet.shuffle else printed

    @property
    def exams(self) -> list[str]:
        return list(dict.fromkeys(s.exam for s in self.sheets))

    def banner(self) -> str:
        """A Markdown warning where the answers are no evidence; empty otherwise."""
        return f":::{{warning}}\n{tables.BANNERS[self.preset]}\n:::\n" if self.preset in tables.BANNERS else ""

    def contents(self) -> pd.DataFrame:
        """What is at hand: one row an exam and model, with its steps, numbers of worked examples and questions."""
        import pandas as pd

        rows: dict[tuple[str, str], list[Sheet]] = {}
        for sheet in self.sheets:
            rows.setdefault((sheet.exam, sheet.run), []).append(sheet)
        return pd.DataFrame(
            {
                "exam": exam,
                "model": run,
                "steps": _numbers(s.step for s in found) if found[0].template else "as published",
                "shots": _numbers(s.shots for s in found) if found[0].template else "",
                "questions": len(found[0].answers),
            }
            for (exam, run), found in rows.items()
        )


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


# --- where answers come from --------------------------------------------------------------------------------------


def open_shelf(preset: str, seed: int, source: str = "run", folder: str = "") -> Shelf:
    """Finds the answers of a run.

    Args:
        preset: A preset.
        seed: Seed of the workspace.
        source: `run` (`runs/<preset>/seed<seed>/`), `committed` (the answers kept in `book/results/`), or `auto`:
            committed where it exists.
        folder: A folder laid out like a workspace, wherever it lies; it goes before the rest.

    Raises:
        JmedloraError: There are no answers.
        JmedloraError: `source` is unknown, or there is no committed evidence.
    """
    if not folder and tables.is_committed(preset, source):
        return from_evidence(preset)
    workspace = Folder(preset, seed, Path(folder).expanduser().resolve()) if folder else paths.Workspace(preset, seed)
    if not any(workspace.records.glob("30_evaluate__*.json")):
        mend = f"run `make reproduce PRESET={preset}`, or name another folder"
        raise JmedloraError(f"{paths.relative(workspace.records)} holds no record of notebook 30; {mend}")
    return from_records(workspace)


@dataclass(frozen=True)
class Folder(paths.Workspace):
    """A workspace that lies elsewhere, such as one copied from a cluster."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder


def from_records(workspace: paths.Workspace) -> Shelf:
    """The answers that a workspace's records of notebook 30 tell of; each file is read when first looked at."""
    records = load_records(workspace.root, kind="evaluate", allow_smoke=True)

    @cache
    def questions(exam: str) -> dict[str, Question]:
        return {q.id: q for q in evaluator.load_exam(exam, workspace)[0]}

    def shots(sheet: Sheet) -> list[Question]:
        if not sheet.shot_ids:
            return []
        first = next(iter(questions(sheet.exam).values()))
        pool = {q.id: q for q in evaluator.shot_pool(sheet.exam, workspace, first.language)}
        return [pool[name] for name in sheet.shot_ids]

    sheets = tuple(_sheet(record, workspace) for record in records)
    return Shelf(records[0].preset, paths.relative(workspace.root), sheets, questions, shots)


def _sheet(record: Record, workspace: paths.Workspace) -> Sheet:
    config, stem = record.config, record.name.removeprefix("30_evaluate__")
    return Sheet(
        exam=config["exam"],
        run=config["run_name"],
        base=record.model.get("fingerprint") or config["base"],
        step=int(config["step"]),
        shots=int(config["shots"]),
        template=config["template"],
        shot_ids=tuple(config.get("shot_ids", ())),
        shuffle=int(config.get("settings", {}).get("shuffle_choices", 0)),
        source=record.name,
        load=lambda: {row["id"]: row for row in read_jsonl(workspace.answers / f"{stem}.jsonl")},
    )


def from_evidence(preset: str) -> Shelf:
    """The answers kept with the committed evidence: those of the shown run, first seed, before tuning and at the late step."""
    folder = tables.evidence_folder(preset)
    study = tables.read_evidence(folder)
    seed = study.seeds[0]
    asked = study.questions[study.questions["seed"] == seed].dropna(subset=["text"])
    by_exam: dict[str, dict[str, Question]] = {}
    for row in asked.to_dict("records"):
        known = {"section": str(row["facts"]).replace("_", " "), "category": row["category"], "n_select": int(row["n_select"])}
        question = Question(row["id"], row["exam"], "ja", row["text"], tuple(row["choices"]), frozenset(row["gold"]), **known)
        by_exam.setdefault(row["exam"], {})[row["id"]] = question
    template = declared_parameters(EVALUATE_NOTEBOOK)["template"]
    where = f"{paths.relative(folder)}/seed{seed}/examples.jsonl"
    sheets = []
    for (exam, run, step), kept in study.examples[study.examples["seed"] == seed].groupby(["exam", "run", "steps"], observed=True):
        rows = {row["id"]: {"response": row["response"]} for row in kept.to_dict("records")}
        sheets.append(Sheet(str(exam), str(run), str(run), int(step), 0, template, (), 0, where, lambda rows=rows: rows))
    return Shelf(preset, paths.relative(folder), tuple(sheets), by_exam.__getitem__, lambda _: [])


def from_published(years: Sequence[int]) -> Shelf | None:
    """The answers published with IgakuQA, and the choice of most students; None where the examination is not at hand.

    Published answers are letters; they are looked at as the texts of those choices.

    Raises:
        JmedloraError: A file is not the published one.
    """
    if not years or not fetch.available(["igakuqa"], years):
        return None
    data_dir = fetch.verified(f"IgakuQA/{part}/{year}/" for part in ("data", "baseline_results") for year in years)
    name = f"igakuqa_{min(years)}_{max(years)}"

    @cache
    def questions(_: str) -> dict[str, Question]:
        return {q.id: q for q in exams.select_text_five(exams.load_igakuqa(data_dir, years))[0]}

    def answers(system: str) -> dict[str, dict[str, Any]]:
        there = [year for year in years if system in exams.published_systems(data_dir, year)]
        printed = exams.load_published(data_dir, there, system)
        return {key: {"response": _in_words(q, printed[key])} for key, q in questions(name).items() if key in printed}

    systems = [s for s in exams.SYSTEMS if any(s in exams.published_systems(data_dir, year) for year in years)]
    where = "IgakuQA/baseline_results"
    sheets = tuple(Sheet(name, s, s, 0, 0, "", (), 0, where, lambda s=s: answers(s)) for s in reversed(systems))
    return Shelf("", where, sheets, questions, lambda _: [])


def _in_words(question: Question, printed: str) -> str:
    """`a,c` as the texts of these choices; anything that is not letters stays as it is."""
    letters = [part.strip() for part in printed.split(",")]
    if not all(len(letter) == 1 and letter in question.letters for letter in letters):
        return printed
    return prompts.SEPARATOR.join(question.choice(letter) for letter in letters)
