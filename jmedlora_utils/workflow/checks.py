"""What a plan can know of a preset before anything runs: settings of tuning and evaluation, names of bases, exams and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, Preset, Run, declared_parameters, load_preset
from jmedlora_utils.data import exam_files, invented_world
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import planner, pretraining, registry
from jmedlora_utils.tuning.settings import TuneSettings

PREPARE_EXAMS = "11_prepare_exams"


def load_checked(name: str) -> Preset:
    """A preset whose runs can start: refuses what would fail only after the first notebooks have run.

    Raises:
        JmedloraError: See `load_preset`; names the preset, the run and the parameter.
    """
    preset = load_preset(name)
    for entry, given in preset.prepare.items():
        _check_preparation(entry, declared_parameters(entry.split("__")[0]) | given, f"preset {preset.name!r}, {entry}")
    for run in preset.runs:
        where = f"preset {preset.name!r}, run {run.name!r}"
        tuned = _tune_settings(run.tune, f"{where}, tune") if run.tune is not None else None
        asked = EvalSettings.of_parameters(declared_parameters(EVALUATE_NOTEBOOK) | run.evaluate, f"{where}, evaluate")
        for settings in filter(None, (tuned, asked)):
            _check_base(settings.base, preset, where)
        for exam in asked.exams:
            _check_exam(exam, preset, where)
        _check_adapter(run, tuned, asked, preset, where)
    return preset


def _check_preparation(entry: str, given: dict[str, Any], where: str) -> None:
    unknown = set(given.get("exams", ())) - set(exam_files.EXAMS)
    if entry.startswith(PREPARE_EXAMS) and unknown:
        raise JmedloraError(f"{where}: exams names {min(unknown)!r}; known: {', '.join(exam_files.EXAMS)}")
    if "source" in given:
        _named(lambda: invented_world.require_source(given["source"]), where)
    if "ladder" in given:
        for base in given["bases"]:
            _named(lambda base=base: pretraining.base_settings(given["ladder"], base), where)


def _tune_settings(given: dict[str, Any], where: str) -> TuneSettings:
    return TuneSettings.of_parameters(declared_parameters(TUNE_NOTEBOOK) | given, where)


def _named(make: Callable[[], Any], where: str) -> Any:
    """Calls `make`; an error gets the place in front."""
    try:
        return make()
    except JmedloraError as error:
        raise JmedloraError(f"{where}: {error}") from error


def _check_base(name: str, preset: Preset, where: str) -> None:
    if name in preset.bases_made() or (paths.Workspace(preset.name, preset.seeds[0]).bases / name / "config.json").is_file():
        return
    try:
        registry.resolve(name)
    except JmedloraError as error:
        made = ", ".join(sorted(preset.bases_made())) or "none"
        raise JmedloraError(f"{where}: no base {name!r}: {error}; bases that this preset trains: {made}") from error


def _check_exam(exam: str, preset: Preset, where: str) -> None:
    """Exams that notebooks 10 and 11 of the preset write, that lie in the workspace, or that the examinations themselves hold."""
    there = {path.stem for seed in preset.seeds for path in (paths.Workspace(preset.name, seed).data / "exams").glob("*.jsonl")}
    prepared = {exam for entry, given in preset.prepare.items() if entry.startswith(PREPARE_EXAMS) for exam in given.get("exams", ())}
    if exam in there | prepared:
        return
    _named(lambda: planner.exam_questions(exam), f"{where}, exams")


def _check_adapter(run: Run, tuned: TuneSettings | None, asked: EvalSettings, preset: Preset, where: str) -> None:
    """A run that asks its own adapter, or another run's of the preset, asks only steps that are kept."""
    owner = next((other for other in preset.runs if other.name == asked.adapter and other.tune is not None), None)
    if owner is None:
        if asked.adapter:
            _named(lambda: registry.resolve(asked.adapter), f"{where}, evaluate: adapter")
        return
    settings = tuned if owner is run else _tune_settings(owner.tune or {}, where)
    kept = {0, *settings.kept_steps()}
    if missing := sorted(set(asked.steps) - kept):
        raise JmedloraError(
            f"{where}, evaluate: steps names {missing[0]}, and tuning keeps {', '.join(map(str, sorted(kept)))}; add it to save_steps"
        )
