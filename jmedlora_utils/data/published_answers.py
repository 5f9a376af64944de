"""Answers that others published, question by question: one kind of record, a parser per source, facts on the models from one file."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json, read_yaml
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.data import fetch
from jmedlora_utils.data.answer_keys import csv_rows
from jmedlora_utils.data.questions import LETTERS, Question, need

NOT_STATED = "not stated"
MODELS_FILE = paths.PACKAGE_DATA / "published_models.yaml"
PASSED_OVER = (".png", ".md")
Number = Annotated[float, Field(strict=False)]  # PyYAML reads 32.8e9 as text


class ModelFacts(Checked):
    """What is known of a model; `sources` says from where. The default of everything is that nobody states it."""

    family: str = NOT_STATED
    base: str = ""  #: Name of the published model it is compared with, empty for none
    adaptation: Literal["none", "LoRA", "continued pretraining", "fine-tuning", "reinforcement"] = "none"
    domain: Literal["none", "medicine", "Japanese"] = "none"  #: What the adaptation was about
    parameters: Number | None = None
    active: Number | None = None  #: Parameters active per token; None for a dense model
    centricity: str = NOT_STATED
    default_effort: str = ""  #: Effort where a run states none
    quantisation: str = NOT_STATED
    serving: str = NOT_STATED  #: The program that ran the model
    licence: str = NOT_STATED  #: Of the outputs, as the model's own
    note: str = ""  #: What a reader of the pair with its base must know
    caveat: str = ""  #: The same in a few words, for beside a verdict
    sources: dict[str, str] = Field(default_factory=dict)


class Total(Checked):
    """Points that a table reports without answers by question."""

    exam: int
    family: str
    model: str
    parameters: Number
    points: int
    source: str


@dataclass(frozen=True)
class Answer:
    """One published answer: what its publisher read, and the text, where there is one."""

    letters: frozenset[str]  #: Empty where no letter was read
    number: str  #: What was read for a free number
    text: str | None
    right: bool | None  #: The publisher's own mark


@dataclass(frozen=True)
class PublishedRun:
    """One model on one examination, as its file of results states it."""

    system: str  #: Name that no other run of the folder has
    model: str
    exam: str  #: `igakuqa119` or `jmle2026`
    facts: ModelFacts
    thinking: bool | None  #: None where it is not stated
    effort: str  #: Reasoning effort, empty where the model has none
    decoding: str
    prompt: str
    vision: str  #: `vision`, `blind` or not stated
    whole_text: bool  #: Whether the texts are what the model wrote, or an answer already taken out of it
    file: str  #: Below the data folder
    commit: str
    answers: Mapping[str, Answer]

    def about(self) -> dict[str, Any]:
        """Everything but the answers, flat, as a row of a table."""
        facts = self.facts.model_dump(exclude={"default_effort", "sources"})
        own = ("system", "model", "exam", "effort", "decoding", "prompt", "vision", "file", "commit")
        thinking = {True: "yes", False: "no", None: NOT_STATED}[self.thinking]
        source = "; ".join(f"{fact}: {where}" for fact, where in self.facts.sources.items()) or NOT_STATED
        return {name: getattr(self, name) for name in own} | {"thinking": thinking, **facts, "fact_sources": source}


@cache
def known_models() -> tuple[dict[str, ModelFacts], tuple[Total, ...]]:
    """Facts by the model's name in its file of results, and the totals without answers."""
    raw, where = read_yaml(MODELS_FILE), MODELS_FILE.name
    models = {name: ModelFacts.read(row, f"{where}, {name}") for name, row in raw["models"].items()}
    if lost := sorted({facts.base for facts in models.values()} - {"", *models}):
        raise JmedloraError(f"{where}: base {lost[0]!r} is no model of the file; correct it")
    return models, tuple(Total.read(row, f"{where}, totals") for row in raw["totals"])


def facts_of(model: str) -> ModelFacts:
    """Facts of a model; all of them not stated where the file has no entry."""
    return known_models()[0].get(model, ModelFacts())


def read_runs(data_dir: Path, exam: str, questions: Iterable[Question]) -> list[PublishedRun]:
    """Every run whose file lies in the folder of results of an exam, by file name.

    A file that no parser knows is refused, and so is a second answer to a question, or one to a question of another examination. A question
    without an answer is left out of `answers`; whoever marks the run counts it as wrong.
    """
    place, parser = PARSERS[exam]
    folder, known = data_dir / place, {q.id for q in questions}
    source, found = fetch.source_of(exam), {}
    for path in sorted(folder.glob("*")):
        if path.suffix in PASSED_OVER or path.name.startswith("."):
            continue
        about, rows = parser(path)
        answers: dict[str, Answer] = {}
        for where, name, answer in rows:
            if (name := name.replace("-", "")) not in known:
                raise JmedloraError(f"{where}: {name} is no question of {exam}; this is a run of another examination, take the file away")
            if name in answers:
                raise JmedloraError(f"{where}: a second answer to {name}; keep one")
            answers[name] = answer
        facts = facts_of(about["model"])
        system = about["system"] if about["system"] not in found else f"{about['system']} ({path.stem})"
        name = path.relative_to(data_dir).as_posix()
        commit = source.commit if name in fetch.sums() else NOT_STATED
        about |= {"system": system, "effort": about["effort"] or facts.default_effort}
        found[system] = PublishedRun(**about, exam=exam, facts=facts, answers=answers, file=name, commit=commit)
    if not found:
        raise JmedloraError(f"{folder}: no file of results; fetch {source.folder} or correct data_dir")
    return list(found.values())


Parsed = tuple[dict[str, Any], list[tuple[str, str, Answer]]]


def parse_jmle2026(path: Path) -> Parsed:
    """A file of JMLE2026-Bench: `metadata`, `summary`, `results`; the texts are what the models wrote after their thinking."""
    raw = read_json(path) if path.suffix == ".json" else None
    if not isinstance(raw, dict) or not isinstance(raw.get("metadata"), dict) or not isinstance(raw.get("results"), list):
        raise JmedloraError(f"{path}: no results of JMLE2026-Bench (JSON with metadata and results); take the file away or fetch it again")
    run, rows = raw["metadata"], []
    need(run, ("model", "image_mode", "extra_body"), f"{path}, metadata")
    for n, row in enumerate(raw["results"], start=1):
        where = f"{path}, result {n}"
        need(row, ("question_id", "predicted", "correct", "raw_response"), where)
        said = row["predicted"]
        if not isinstance(said, list) or not all(isinstance(part, str) for part in said):
            raise JmedloraError(f"{where}: field 'predicted' is no list of letters: {said!r:.60}; fetch the file again")
        read = frozenset(said) if all(part in tuple(LETTERS) for part in said) else frozenset()
        rows.append((where, row["question_id"], Answer(read, said[0] if len(said) == 1 else "", row["raw_response"] or "", row["correct"])))
    body = dict(run["extra_body"] or {})
    thinks = body.pop("chat_template_kwargs", {}).get("enable_thinking", True) and any("reasoning" in row for row in raw["results"])
    about = {"system": run.get("display_name") or run["model"], "model": run["model"], "thinking": thinks}
    about |= {"effort": body.pop("reasoning_effort", ""), "vision": run["image_mode"], "whole_text": True}
    decoding = ", ".join(f"{name} {value}" for name, value in body.items()) or "defaults of the server"
    return about | {"decoding": decoding, "prompt": "benchmark.py of the repository: reason freely, end with 【回答】 and letters"}, rows


def parse_igakuqa119(path: Path) -> Parsed:
    """A file of IgakuQA119: one graded answer a row, already taken out of what the model wrote."""
    named = re.fullmatch(r"119_(.+)_grading_results\.csv", path.name)
    if not named:
        raise JmedloraError(f"{path}: no results of IgakuQA119 (119_MODEL_grading_results.csv); take the file away or rename it")
    rows, models = [], set()
    for where, row in csv_rows(path, ("question_number", "model", "model_answer", "is_correct")):
        models.add(row["model"])
        bare = re.sub(r"[,\s]", "", row["model_answer"].lower())
        read = frozenset(bare) if set(bare) <= set(LETTERS) and len(set(bare)) == len(bare) else frozenset()
        rows.append((where, row["question_number"], Answer(read, bare, row["model_answer"], row["is_correct"] == "True")))
    if len(models) != 1:
        raise JmedloraError(f"{path}: {len(models)} models in one file, {', '.join(sorted(models))}; keep one")
    about = {"system": named[1], "model": models.pop(), "thinking": None, "effort": "", "vision": NOT_STATED, "whole_text": False}
    return about | {"decoding": NOT_STATED, "prompt": "llm_solver.py of the repository: letters, confidence and a short explanation"}, rows


PARSERS: dict[str, tuple[str, Callable[[Path], Parsed]]] = {
    "igakuqa119": ("IgakuQA119/results/demo", parse_igakuqa119),
    "jmle2026": ("JMLE2026-Bench/results", parse_jmle2026),
}
