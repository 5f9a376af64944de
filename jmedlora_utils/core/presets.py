"""Presets: which notebooks run, with which parameters, checked before anything runs."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError

DEVICES = ("any", "cuda")
PRESET_KEYS = ("extends", "about", "device", "seeds", "prepare", "defaults", "runs", "analyse", "show")
GIVEN = ("preset", "seed", "run_name")
TUNE_NOTEBOOK = "20_tune_lora"
EVALUATE_NOTEBOOK = "30_evaluate_exam"


@dataclass(frozen=True)
class Run:
    """One tuned model of a preset, or one that is only evaluated.

    Attributes:
        name: Name of the run; its adapter, records and notebooks carry it.
        tune: Parameters of notebook 20, or None for a run that is only evaluated.
        evaluate: Parameters of notebook 30.
    """

    name: str
    tune: dict[str, Any] | None
    evaluate: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One papermill run.

    Attributes:
        notebook: Stem of the notebook in `notebooks/`.
        output: Stem of the executed copy.
        seed: Seed of its workspace, or None for analysis over all seeds.
        parameters: What papermill injects.
        after: Output stems of the jobs of the same seed that must be done before.
    """

    notebook: str
    output: str
    seed: int | None
    parameters: dict[str, Any]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A validated preset file; see `load_preset`.

    Attributes:
        device: `any`, or `cuda` where every run needs a GPU.
        prepare: Notebook stem to parameters, in order; each runs once a seed. An entry `stem__part` runs the same
            notebook for one part (one base), so that parts run side by side; `stem` alone then sums them up.
        analyse: Notebook stem to parameters; each runs once over all seeds.
        show: Run whose executed notebooks 20 and 30 stand in the book.
    """

    name: str
    about: str
    device: str
    seeds: tuple[int, ...]
    prepare: dict[str, dict[str, Any]]
    runs: tuple[Run, ...]
    analyse: dict[str, dict[str, Any]]
    show: str

    def jobs(self) -> list[Job]:
        """Every papermill run of the preset, in an order that respects `after`."""
        jobs: list[Job] = []
        for seed in self.seeds:
            common = {"preset": self.name, "seed": seed}
            for entry, parameters in self.prepare.items():
                jobs.append(Job(_stem(entry), entry, seed, common | parameters, self._before(entry)))
            for run in self.runs:
                named = common | {"run_name": run.name}
                ready = self._ready_for((run.tune or run.evaluate).get("base", ""))
                if run.tune is not None:
                    output = f"{TUNE_NOTEBOOK}__{run.name}"
                    jobs.append(Job(TUNE_NOTEBOOK, output, seed, named | run.tune, ready))
                    ready = (*ready, output)
                jobs += self._evaluations(run, seed, named, ready)
        jobs.extend(Job(stem, stem, None, {"preset": self.name} | parameters) for stem, parameters in sorted(self.analyse.items()))
        return jobs

    def bases_made(self) -> set[str]:
        """Names of the bases that its own notebooks train."""
        return {base for entry, given in self.prepare.items() for base in (declared_parameters(_stem(entry)) | given).get("bases", [])}

    def _evaluations(self, run: Run, seed: int, named: dict[str, Any], ready: tuple[str, ...]) -> list[Job]:
        """Notebook 30 of a run. With `num_shards`, one job a shard, and then the unsplit notebook, which finds all answers made."""
        output, parameters = f"{EVALUATE_NOTEBOOK}__{run.name}", named | run.evaluate
        shards = parameters.pop("num_shards", 1)
        split = {"num_shards": shards}
        parts = [
            Job(EVALUATE_NOTEBOOK, f"{output}__shard{i}", seed, parameters | split | {"shard_index": i}, ready)
            for i in range(shards if shards > 1 else 0)
        ]
        return [*parts, Job(EVALUATE_NOTEBOOK, output, seed, parameters, (*ready, *(part.output for part in parts)))]

    def _before(self, entry: str) -> tuple[str, ...]:
        """Prepare jobs that `entry` waits for: earlier notebooks, and its own parts (`stem__part`)."""
        stem = _stem(entry)
        return tuple(e for e in self.prepare if _stem(e) < stem or (entry == stem and e.startswith(f"{stem}__")))

    def _ready_for(self, base: str) -> tuple[str, ...]:
        """Prepare jobs that a run on `base` waits for: of a notebook split by base, only the part that makes it."""
        split = {_stem(e) for e in self.prepare if e == f"{_stem(e)}__{base}"}
        return tuple(e for e in self.prepare if (e.endswith(f"__{base}") if _stem(e) in split else True))


def preset_names() -> list[str]:
    """Names of the presets in `notebooks/presets/`."""
    return sorted(p.stem for p in paths.PRESETS.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """Reads `notebooks/presets/<name>.yaml` and checks every key and parameter in it.

    A preset may extend another: mappings merge, anything else replaces.

    Raises:
        JmedloraError: The preset, a key, a notebook or a parameter is unknown, or a value is not allowed.
    """
    raw = _read_preset(paths.check_name(name, "preset"))
    where = f"preset {name!r}"
    for key in ("prepare", "defaults", "runs", "analyse"):
        if not isinstance(raw.get(key) or {}, dict):
            raise JmedloraError(f"{where}: {key} must be a mapping, found {raw[key]!r:.60}")
    for key in ("about", "show"):
        if not isinstance(raw.get(key, ""), str):
            raise JmedloraError(f"{where}: {key} must be a text, found {raw[key]!r:.60}")
    if raw.get("device", "any") not in DEVICES:
        raise JmedloraError(f"{where}: device {raw['device']!r} is not one of {', '.join(DEVICES)}")
    seeds = raw.get("seeds", [1])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds) or len(set(seeds)) != len(seeds):
        raise JmedloraError(f"{where}: seeds must be a list of different whole numbers, found {seeds!r}")
    defaults = _blocks(raw.get("defaults") or {}, f"{where}, defaults")
    if unknown := set(defaults) - {"tune", "evaluate"}:
        raise JmedloraError(f"{where}: defaults has no key {sorted(unknown)[0]!r}; it knows tune and evaluate")
    runs = []
    for run_name, run in _blocks(raw.get("runs") or {}, f"{where}, runs").items():
        run = _blocks({} if run is None else run, f"{where}, run {run_name!r}")
        paths.check_name(run_name, f"{where}, run")
        if unknown := set(run) - {"tune", "evaluate"}:
            raise JmedloraError(f"{where}, run {run_name!r}: no key {sorted(unknown)[0]!r}; a run has tune and evaluate")
        tune = None if run.get("tune", {}) is None else (defaults.get("tune") or {}) | (run.get("tune") or {})
        runs.append(Run(run_name, tune, (defaults.get("evaluate") or {}) | (run.get("evaluate") or {})))
    prepare = _blocks({k: v or {} for k, v in (raw.get("prepare") or {}).items()}, f"{where}, prepare")
    analyse = _blocks({k: v or {} for k, v in (raw.get("analyse") or {}).items()}, f"{where}, analyse", given=("seed", "run_name"))
    preset = Preset(
        name=name,
        about=raw.get("about", ""),
        device=raw.get("device", "any"),
        seeds=tuple(seeds),
        prepare=dict(sorted(prepare.items(), key=lambda item: (_stem(item[0]), item[0] == _stem(item[0]), item[0]))),
        runs=tuple(runs),
        analyse=analyse,
        show=raw.get("show", runs[0].name if runs else ""),
    )
    if preset.show and preset.show not in {r.name for r in preset.runs}:
        raise JmedloraError(f"{where}: show names the run {preset.show!r}, which it does not have")
    for job in preset.jobs():
        check_parameters(job.notebook, job.parameters, where=f"{where}, {job.output}")
    return preset


def _blocks(blocks: Any, where: str, given: Sequence[str] = GIVEN) -> dict[str, dict[str, Any]]:
    """Mappings of parameters; those that the preset itself gives are refused inside them."""
    if not isinstance(blocks, dict):
        raise JmedloraError(f"{where}: it must be a mapping, found {blocks!r:.60}")
    for name, block in blocks.items():
        if not isinstance(name, str) or not isinstance(block or {}, dict):
            raise JmedloraError(f"{where}: {name!r} must be a name with a mapping of parameters, found {block!r:.60}")
        for key in block or {}:
            if key in given:
                raise JmedloraError(f"{where}, {name}: {key!r} comes from the preset itself; remove the line")
    return blocks


def check_parameters(stem: str, parameters: dict[str, Any], where: str = "papermill") -> None:
    """Refuses a parameter that the notebook does not declare, or whose type differs from its default.

    papermill accepts a misspelt parameter and exits 0, so this runs before it.

    Raises:
        JmedloraError: Names the parameter, the notebook and the nearest declared name.
    """
    declared = declared_parameters(stem)
    for key, value in parameters.items():
        if key not in declared:
            raise JmedloraError(f"{where}: notebook {stem} has no parameter {key!r}{_hint(key, declared)}")
        default = declared[key]
        number = isinstance(default, float) and type(value) is int
        if type(value) is not type(default) and not number:
            raise JmedloraError(
                f"{where}: parameter {key!r} of notebook {stem} takes {type(default).__name__} (default {default!r}), got {value!r}"
            )


@cache
def declared_parameters(stem: str) -> dict[str, Any]:
    """Names and default values in the notebook's `parameters` cell.

    Raises:
        JmedloraError: No such notebook, no parameters cell, or a default that is no flat literal.
    """
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    cells = [source for source, tags in notebook_cells(stem) if "parameters" in tags]
    if len(cells) != 1:
        raise JmedloraError(f"{paths.relative(path)}: {len(cells)} cells are tagged 'parameters', exactly one must be")
    found: dict[str, Any] = {}
    for node in ast.parse(cells[0]).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or value is None:
            raise JmedloraError(f"{paths.relative(path)}: the parameters cell holds more than assignments: {ast.unparse(node)!r}")
        try:
            found[target.id] = ast.literal_eval(value)
        except ValueError as error:
            raise JmedloraError(f"{paths.relative(path)}: parameter {target.id!r} is no literal; papermill cannot replace it") from error
    return found


def notebook_cells(stem: str) -> list[tuple[str, list[str]]]:
    """Source and tags of the code cells of `notebooks/<stem>.ipynb`.

    Read as plain JSON: importing nbformat takes two seconds, and every notebook passes here when it starts.

    Raises:
        JmedloraError: No such notebook, or not JSON.
    """
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    if not path.is_file():
        raise JmedloraError(f"no notebook {stem!r}{_hint(stem, (p.stem for p in paths.NOTEBOOKS.glob('*.ipynb')))}")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except json.JSONDecodeError as error:
        raise JmedloraError(f"{paths.relative(path)}:{error.lineno}: not valid JSON ({error.msg})") from error
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in cells if c["cell_type"] == "code"]


def require_device(device: str) -> None:
    """Refuses a preset that needs a GPU on a machine without one.

    Raises:
        JmedloraError: `device` is `cuda` and torch sees no GPU.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise JmedloraError(
                "this preset needs a CUDA GPU and torch sees none; use PRESET=mini, run it on the machine with the card, or write a preset "
                "of your own without 'device: cuda' (book/own_articles.md prints one)"
            )


def _read_preset(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = paths.PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise JmedloraError(f"no preset {name!r}{_hint(name, preset_names())}")
    if name in seen:
        raise JmedloraError(f"preset {name!r} extends itself: {' -> '.join((*seen, name))}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise JmedloraError(f"{paths.relative(path)}: not in UTF-8; save it in that encoding") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise JmedloraError(f"{paths.relative(path)}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(raw, dict):
        raise JmedloraError(f"{paths.relative(path)}: a preset is a mapping of {', '.join(PRESET_KEYS)}; found {raw!r:.60}")
    if unknown := set(raw) - set(PRESET_KEYS):
        key = sorted(map(str, unknown))[0]
        raise JmedloraError(f"{paths.relative(path)}: no key {key!r}{_hint(key, PRESET_KEYS)}")
    if parent := raw.pop("extends", None):
        paths.check_name(parent, f"{paths.relative(path)}: extends")
        raw = _merge(_read_preset(parent, (*seen, name)), raw)
    return raw


def _stem(entry: str) -> str:
    return entry.split("__", maxsplit=1)[0]


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _hint(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
