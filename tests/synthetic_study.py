"""A made-up run folder in the real formats: real exams of the toy world, answers drawn with a known skill."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from jmedlora_utils.analysis import evidence, studies
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import Preset, Run, load_preset
from jmedlora_utils.core.records import Record, write_jsonl, write_record
from jmedlora_utils.data import invented_world, prompts
from jmedlora_utils.data.questions import Question, write_exam
from tests import tiny

STEPS = (0, 10, 20, 40)
EXAMS = ("mini_trained", "mini_heldout", "mini_general")


@dataclass(frozen=True)
class Made:
    """One made-up run: how its skill on taught facts grows with the steps."""

    name: str
    base: str
    size: int
    centric: str
    taught: float
    method: str = "lora"
    pretrain_on: str = ""
    train_embeddings: bool = False


RUNS = (
    Made("en-small_lora", "en-small", 200_000, "english", 0.30),
    Made("en-medium_lora", "en-medium", 800_000, "english", 0.55),
    Made("en-large_lora", "en-large", 3_000_000, "english", 0.80),
    Made("ja-medium_lora", "ja-medium", 800_000, "japanese", 0.40),
    Made("en-large_cpt-lora", "en-large", 3_000_000, "english", 0.80, pretrain_on="articles"),
    Made("en-large_full", "en-large", 3_000_000, "english", 0.95, method="full"),
)


def preset(name: str, seeds: Sequence[int], runs: Sequence[Made] = RUNS) -> Preset:
    """The preset that asks for exactly these runs."""
    asked = {"steps": list(STEPS), "exams": list(EXAMS), "shots": [0, 1]}
    named = tuple(Run(r.name, {"base": r.base}, {"base": r.base, "adapter": r.name, **asked}) for r in runs)
    return Preset(name, "made up", "any", tuple(seeds), {}, named, {}, "en-large_lora")


def use_preset(patch: pytest.MonkeyPatch, seeds: Sequence[int], runs: Sequence[Made] = RUNS) -> None:
    """Every preset that is read from here on asks for exactly these runs."""
    for module in (studies, evidence):
        patch.setattr(module, "load_preset", lambda name: preset(name, seeds, runs))


def write_study(preset: str, seeds: Sequence[int], runs: Sequence[Made] = RUNS, answers: int = 12) -> None:
    """Writes `runs/<preset>/seed<k>/` for every seed."""
    for seed in seeds:
        workspace = paths.Workspace(preset, seed)
        size = {"towns": answers, "answers": answers, "people": 60, "general_questions": 30}
        exams = invented_world.World(invented_world.WorldSettings(seed=seed, **size)).exams()
        for name, questions in exams.items():
            write_exam(workspace.data / "exams" / f"{name}.jsonl", questions)
        for base in {r.base: r for r in runs}.values():
            config = {"name": base.base, "centric": base.centric, "entry_bar": 0.6, "documents": 1000}
            config["english"] = 0.6 if base.centric == "english" else 0.1
            entry = {f"{k}shot": {"accuracy": 0.95, "exact_match": 0.9, "n": 30} for k in (0, 1)}
            fertility = {"ja": 1.4 if base.centric == "english" else 0.6, "en": 0.3 if base.centric == "english" else 0.5}
            measured, counts = {"fertility": fertility, "entry": entry}, {"parameters": base.size}
            record = _record(workspace, "pretrain", f"19_pretrain__{base.base}", config, measured, counts)
            record.model = {"base": base.base}
            record.wall_seconds, record.peak_memory_bytes = 60.0 + base.size / 1e5, 2**30
            write_record(workspace.records, record)
        for run in runs:
            _write_run(workspace, run, exams)


def _write_run(workspace: paths.Workspace, run: Made, exams: dict[str, list[Question]]) -> None:
    config = {"run_name": run.name} | {name: getattr(run, name) for name in ("base", "method", "pretrain_on", "train_embeddings")}
    series = [{"step": i, "loss": 3.0 / (1 + i / 10), "learning_rate": 1e-3, "grad_norm": 1.0} for i in range(1, 1 + STEPS[-1])]
    counts = {"trainable_parameters": run.size // 10}
    tune = _record(workspace, "tune", f"20_tune__{run.name}", config, {"series": series, "final_loss": series[-1]["loss"]}, counts)
    tune.model = {"base": run.base, "parameters": run.size}
    tune.wall_seconds, tune.peak_memory_bytes = 30.0, 2**30
    write_record(workspace.records, tune)
    for rank, step in enumerate(STEPS):
        if step == 0 and run.method == "full":
            continue  # as in the mini preset: the base was asked before another of its runs
        for exam in EXAMS:
            for shots in (0, 1):
                name = f"{run.name}__step{step}__{exam}__{shots}shot"
                rng = random.Random(f"{workspace.seed}/{name}")
                asked = [(q, _answer(q, _skill(run, q, rank), rng)) for q in exams[exam]]
                rows = [{"key": q.id, "id": q.id, "exam": exam, "section": q.section, "response": r, "finish": "stop"} for q, r in asked]
                write_jsonl(workspace.answers / f"{name}.jsonl", rows)
                settings = config | {"adapter": run.name, "step": step, "exam": exam, "shots": shots, "template": "plain_ja"}
                write_record(workspace.records, _record(workspace, "evaluate", f"30_evaluate__{name}", settings))


def _skill(run: Made, question: Question, rank: int) -> float:
    grown = run.taught * rank / (len(STEPS) - 1)
    if question.section == "general":
        return 0.9 - 0.15 * rank
    if question.section == "untaught":
        return 0.0
    return grown if question.exam == "mini_trained" else 0.5 * grown


def _answer(question: Question, skill: float, rng: random.Random) -> str:
    """Gold with the probability of the skill, now and then not to the letter; else a blind pick."""
    if rng.random() < skill:
        gold = prompts.answer_text(question)
        return gold[:-1] if rng.random() < 0.2 else gold
    return "、".join(rng.sample(question.choices, k=question.n_select))


def _record(workspace: paths.Workspace, kind: str, name: str, config: dict[str, Any], metrics: Any = None, counts: Any = None) -> Record:
    about = {"git_commit": "0" * 40, "device": "CPU, 2 cores", "versions": {"python": "3.11"}, "created": "2026-11-22T12:00:00+00:00"}
    return Record(kind, name, workspace.preset, workspace.seed, config, metrics or {}, counts or {}, **about)


def write_blind_answers(preset: str) -> None:
    """Writes `runs/<preset>/seed1/` with blind answers to all that a preset of published bases asks; questions are made up."""
    workspace, asked = paths.Workspace(preset, 1), load_preset(preset)
    world = invented_world.World(invented_world.WorldSettings(seed=1, towns=6, answers=6, people=8, general_questions=12)).exams()
    runs, planned = {run.name: run for run in asked.runs}, sorted(studies.evaluations(asked))
    exams: dict[str, list[Question]] = {}
    for name in sorted({exam for _, _, exam, _ in planned}):
        questions = world.get(name, world["mini_trained"])[:24] if name.startswith("mini_") else tiny.make_questions(16, name)
        exams[name] = [replace(q, exam=name, section=q.section if name.startswith(("mini_", "small_exam")) else "") for q in questions]
        write_exam(workspace.data / "exams" / f"{name}.jsonl", exams[name])
    for run in (run for run in asked.runs if run.tune):
        config = {"run_name": run.name, "base": run.evaluate["base"], "method": run.tune.get("method", "lora")}
        config |= {"pretrain_on": "", "train_embeddings": False}
        measured = {"series": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}], "final_loss": 1.0}
        tune = _record(workspace, "tune", f"20_tune__{run.name}", config, measured, {"trainable_parameters": 10})
        tune.model, tune.wall_seconds = {"base": run.evaluate["base"], "parameters": 1000}, 60.0
        write_record(workspace.records, tune)
    for run, step, exam, shots in planned:
        name, evaluate = f"{run}__step{step}__{exam}__{shots}shot", runs[run].evaluate
        rng = random.Random(name)
        rows = [{"key": q.id, "id": q.id, "exam": exam, "response": _answer(q, 0.0, rng), "finish": "stop"} for q in exams[exam]]
        write_jsonl(workspace.answers / f"{name}.jsonl", rows)
        config = {"run_name": run, "base": evaluate["base"], "adapter": evaluate.get("adapter", ""), "step": step, "exam": exam}
        config |= {"shots": shots, "template": "plain_ja", "quantisation": "none"}
        right = {"all": {"accuracy": {"value": 0.25, "n": len(rows), "low": 0.1, "high": 0.4}, "ties": 0}}
        likelihood = {"likelihood": dict.fromkeys(("sum", "per_token", "per_character"), right)}
        write_record(workspace.records, _record(workspace, "evaluate", f"30_evaluate__{name}", config, likelihood))
