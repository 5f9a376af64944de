"""Presets: which notebooks run, with which parameters, checked before anything runs."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.paths import check_name
from jmedlora_utils.core.records import read_json, read_yaml
from jmedlora_utils.core.settings import Checked, near, with_expert

TUNE_NOTEBOOK = "20_tune_lora"
EVALUATE_NOTEBOOK = "30_evaluate_exam"


def _empty(value: Any) -> Any:
    """An empty block of YAML is None."""
    return {} if value is None else value


Block = Annotated[dict[str, Any], BeforeValidator(_empty)]


class _Blocks(Checked):
    tune: dict[str, Any] | None = Field(default_factory=dict)
    evaluate: Block = Field(default_factory=dict)


class _File(Checked):
    """What a preset's YAML file may hold."""

    extends: str = ""
    about: str = ""
    device: Literal["any", "cuda"] = "any"
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[1], min_length=1)
    prepare: dict[str, Block] = Field(default_factory=dict)
    defaults: Annotated[_Blocks, BeforeValidator(_empty)] = Field(default_factory=_Blocks)
    runs: dict[str, Annotated[_Blocks, BeforeValidator(_empty)]] = Field(default_factory=dict)
    analyse: dict[str, Block] = Field(default_factory=dict)
    show: str = ""
    teaches_exam: bool = False


@dataclass(frozen=True)
class Run:
    """One tuned model of a preset, or one that is only evaluated."""

    name: str  #: Name of the run; its adapter, records and notebooks carry it
    tune: dict[str, Any] | None  #: Parameters of notebook 20, or None for a run that is only evaluated
    evaluate: dict[str, Any]  #: Parameters of notebook 30

    def all_tuning(self) -> dict[str, Any]:
        """Every parameter of notebook 20, defaults and those of its `expert` list included."""
        return with_expert(declared_parameters(TUNE_NOTEBOOK) | (self.tune or {}), self.name)

    def all_evaluation(self) -> dict[str, Any]:
        """Every parameter of notebook 30, likewise."""
        return with_expert(declared_parameters(EVALUATE_NOTEBOOK) | self.evaluate, self.name)


@dataclass(frozen=True)
class Job:
    """One papermill run."""

    notebook: str  #: Stem of the notebook in `notebooks/`
    output: str  #: Stem of the executed copy
    seed: int | None  #: Seed of its workspace, or None for analysis over all seeds
    parameters: dict[str, Any]  #: What papermill injects
    after: tuple[str, ...] = ()  #: Output stems of the jobs of the same seed that must be done before


@dataclass(frozen=True)
class Preset:
    """A validated preset file; see `load_preset`."""

    name: str
    about: str
    device: str  #: `any`, or `cuda` where every run needs a GPU
    seeds: tuple[int, ...]
    #: Notebook stem to parameters, in order; each runs once per seed. An entry `stem__part` runs the same notebook for one part (one base),
    #: so that parts run side by side; `stem` alone then sums them up.
    prepare: dict[str, dict[str, Any]]
    runs: tuple[Run, ...]
    analyse: dict[str, dict[str, Any]]  #: Notebook stem to parameters; each runs once over all seeds
    show: str  #: Run whose executed notebooks 20 and 30 stand in the book
    teaches_exam: bool = False  #: Whether it may train on examination questions: deliberate contamination, refused everywhere else

    def jobs(self) -> list[Job]:
        """Every papermill run of the preset, in an order that respects `after`."""
        jobs: list[Job] = []
        tuned = {run.name for run in self.runs if run.tune is not None}
        for seed in self.seeds:
            common = {"preset": self.name, "seed": seed}
            for entry, parameters in self.prepare.items():
                jobs.append(Job(_stem(entry), entry, seed, common | parameters, self._before(entry)))
            for run in self.runs:
                named = common | {"run_name": run.name}
                ready = self._ready_for((run.tune or run.evaluate).get("base", ""))
                owner = run.evaluate.get("adapter", "")  # a run may ask the adapter of another one
                asked = () if owner == run.name or owner not in tuned else (f"{TUNE_NOTEBOOK}__{owner}",)
                if run.tune is not None:
                    output = f"{TUNE_NOTEBOOK}__{run.name}"
                    jobs.append(Job(TUNE_NOTEBOOK, output, seed, named | run.tune, ready))
                    ready = (*ready, output)
                jobs.append(Job(EVALUATE_NOTEBOOK, f"{EVALUATE_NOTEBOOK}__{run.name}", seed, named | run.evaluate, (*ready, *asked)))
        jobs.extend(Job(stem, stem, None, {"preset": self.name} | parameters) for stem, parameters in sorted(self.analyse.items()))
        return jobs

    def bases_made(self) -> set[str]:
        """Names of the bases that its own notebooks train."""
        return {base for entry, given in self.prepare.items() for base in (declared_parameters(_stem(entry)) | given).get("bases", [])}

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
    """Reads `notebooks/presets/<name>.yaml` and checks every key, name and parameter in it.

    A preset may extend another: mappings merge, anything else replaces.
    """
    where = f"preset {name!r}"
    file = _File.read(_read_preset(name), where)
    if len(set(file.seeds)) != len(file.seeds):
        raise JmedloraError(f"{where}: seeds must differ, found {file.seeds}")
    runs = []
    for run_name, run in file.runs.items():
        check_name(run_name, f"{where}, run")
        tune = None if run.tune is None else _with_defaults(file.defaults.tune or {}, run.tune)
        runs.append(Run(run_name, tune, _with_defaults(file.defaults.evaluate, run.evaluate)))
        for notebook, block in ((TUNE_NOTEBOOK, tune or {}), (EVALUATE_NOTEBOOK, runs[-1].evaluate)):
            _refuse_reserved(f"{where}, {notebook}__{run_name}", block, ("preset", "seed", "run_name"))
    for entry, block in file.prepare.items():
        _refuse_reserved(f"{where}, {entry}", block, ("preset", "seed"))
        for part in entry.split("__")[1:]:
            check_name(part, f"{where}, {entry}")
    preset = Preset(
        name=name,
        about=file.about,
        device=file.device,
        seeds=tuple(file.seeds),
        prepare=dict(sorted(file.prepare.items(), key=lambda item: (_stem(item[0]), item[0] == _stem(item[0]), item[0]))),
        runs=tuple(runs),
        analyse=file.analyse,
        show=file.show or (runs[0].name if runs else ""),
        teaches_exam=file.teaches_exam,
    )
    if preset.show and preset.show not in file.runs:
        raise JmedloraError(f"{where}: show names the run {preset.show!r}, which it does not have")
    for job in preset.jobs():
        check_parameters(job.notebook, job.parameters, where=f"{where}, {job.output}")
    for base in sorted(preset.bases_made()):
        check_name(base, f"{where}, bases")
    return preset


def check_parameters(stem: str, parameters: Mapping[str, Any], where: str = "papermill") -> None:
    """Refuses a parameter that the notebook does not declare, or whose type differs from its default; see `compare_parameters`."""
    compare_parameters(f"notebook {stem}", declared_parameters(stem), parameters, where)


def compare_parameters(notebook: str, declared: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Refuses what papermill accepts in silence: a misspelt parameter, or one of another type."""
    for key, value in given.items():
        if key not in declared:
            expert = f"; a setting that is rarely needed goes into expert: [{key}=...]" if "expert" in declared else ""
            raise JmedloraError(f"{where}: {notebook} has no parameter {key!r}{near(key, declared)}{expert}")
        default = declared[key]
        kinds = {type(item) for item in default} or {str} if isinstance(default, list) else set()
        taken = kinds | ({int} if float in kinds else set())
        fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if not fits or (len(kinds) == 1 and any(type(item) not in taken for item in value)):
            kind = f"list of {kinds.pop().__name__}" if len(kinds) == 1 else type(default).__name__
            raise JmedloraError(f"{where}: parameter {key!r} of {notebook} takes {kind} (default {default!r}), got {value!r}")


@cache
def declared_parameters(stem: str) -> dict[str, Any]:
    """Names and default values in the notebook's `parameters` cell."""
    where = paths.relative(paths.NOTEBOOKS / f"{stem}.ipynb")
    cells = [source for source, tags in notebook_cells(stem) if "parameters" in tags]
    if len(cells) != 1:
        raise JmedloraError(f"{where}: {len(cells)} cells are tagged 'parameters', exactly one must be")
    return assignments(cells[0], where)


def assignments(source: str, where: str) -> dict[str, Any]:
    """Names and values of a cell that holds nothing but assignments of literals."""
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not isinstance(target, ast.Name) or value is None:
            raise JmedloraError(f"{where}: the parameters cell holds more than assignments: {ast.unparse(node)!r}")
        try:
            found[target.id] = ast.literal_eval(value)
        except ValueError as error:
            raise JmedloraError(f"{where}: parameter {target.id!r} is no literal; papermill cannot replace it") from error
    return found


def notebook_cells(stem: str) -> list[tuple[str, list[str]]]:
    """Source and tags of the code cells of `notebooks/<stem>.ipynb`.

    Read as plain JSON: importing nbformat takes two seconds, and every notebook passes here when it starts.
    """
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    if not path.is_file():
        raise JmedloraError(f"no notebook {stem!r}{near(stem, (p.stem for p in paths.NOTEBOOKS.glob('*.ipynb')))}")
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in read_json(path)["cells"] if c["cell_type"] == "code"]


def require_device(device: str) -> None:
    """Refuses a preset that needs a GPU on a machine without one."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise JmedloraError(
                "this preset needs a CUDA GPU and torch sees none; use PRESET=mini, run it on the machine with the card, or write a preset "
                "of your own without 'device: cuda' (book/own_articles.md prints one)"
            )


def _read_preset(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = paths.PRESETS / f"{check_name(name, 'preset')}.yaml"
    if not path.is_file():
        raise JmedloraError(f"no preset {name!r}{near(name, preset_names())}")
    if name in seen:
        raise JmedloraError(f"preset {name!r} extends itself: {' -> '.join((*seen, name))}")
    raw = read_yaml(path)
    _File.read(raw, paths.relative(path))
    if parent := raw.pop("extends", None):
        raw = _merge(_read_preset(parent, (*seen, name)), raw)
    return raw


def _refuse_reserved(where: str, block: Mapping[str, Any], reserved: tuple[str, ...]) -> None:
    if found := [key for key in reserved if key in block]:
        raise JmedloraError(f"{where}: {found[0]!r} comes from the preset itself; remove the line")


def _with_defaults(defaults: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """A run's parameters over the defaults; its `expert` list goes on where theirs ends, so that its settings win."""
    lists = [given["expert"] for given in (defaults, block) if isinstance(given.get("expert"), list)]
    return defaults | block | ({"expert": [*lists[0], *lists[1]]} if len(lists) == 2 else {})


def _stem(entry: str) -> str:
    return entry.split("__", maxsplit=1)[0]


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
