"""What is evaluated: a base and its tuned steps, found without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading, registry
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import run_folder


@dataclass(frozen=True)
class Checkpoints:
    """A base model and the steps of one adapter, or of one wholly tuned model."""

    base: ModelEntry  #: The base model; of a run with continued pretraining, the base that it made
    base_key: str  #: Fingerprint of the base
    method: str  #: `lora`, `qlora` or `full`; empty for a base alone
    weights: dict[int, str]  #: Step to adapter (or whole model for `full`); one of the hub with its commit
    keys: dict[int, str]  #: Step to what identifies base and weights

    @classmethod
    def find(cls, settings: EvalSettings, workspace: paths.Workspace) -> Checkpoints:
        """Finds base and checkpoints, and refuses a step without one or an adapter of another base."""
        base = loading.find_base(settings.base, workspace)
        method, weights = "", {}
        run = workspace.adapters / settings.adapter
        steps = [s for s in settings.steps if s]
        if settings.adapter and (run / "run.json").is_file():
            method, base, weights = _of_run(run, settings, base)
        elif settings.adapter:
            if len(steps) > 1:
                raise JmedloraError(
                    f"{settings.adapter!r} is one adapter, not a run of this workspace: steps {steps} must name one step and 0"
                )
            entry = loading.find_adapter(settings.adapter)
            _check_base(entry, base)
            method, weights = "lora", {s: entry.pinned for s in steps}
        if method == "full" and (settings.adapter_mode == "merged" or settings.backend == "vllm"):
            raise JmedloraError(
                f"run {settings.adapter!r} tuned the whole model, so there is no adapter to merge or to hand to vLLM; "
                "use adapter_mode='unmerged' and backend='transformers', or give a checkpoint's folder as base"
            )
        base_key, keys = loading.fingerprint(base), {}
        for step, location in weights.items():  # a folder by a hash of its files, an adapter of the hub by its id
            keys[step] = f"{base_key}+{run_folder.weights_sha256(Path(location)) if Path(location).is_dir() else location}"
        return cls(base, base_key, method, weights, {0: base_key} | keys)

    def context(self, tokenizer: Any) -> int:
        """Tokens the base can read and write in all."""
        return self.base.context_length or tokenizer.model_max_length


def _of_run(run: Path, settings: EvalSettings, base: ModelEntry) -> tuple[str, ModelEntry, dict[int, str]]:
    """Method, base and checkpoints of a tuning run of the workspace."""
    try:
        tuned = read_json(run / "run.json")["settings"]
        method, tuned_on = tuned["method"], tuned["base"]
    except (ValueError, KeyError, TypeError) as error:
        raise JmedloraError(f"{paths.relative(run / 'run.json')}: it is damaged ({error!r}); run notebook 20 of this run again") from error
    if tuned_on != settings.base:
        raise JmedloraError(f"run {settings.adapter!r} was tuned on base {tuned_on!r}, not on {settings.base!r}; set base to it")
    there = run_folder.kept_checkpoints(run)
    if missing := [s for s in settings.steps if s and s not in there]:
        raise JmedloraError(
            f"run {settings.adapter!r} has no checkpoint for step {missing[0]}; it has {', '.join(map(str, there)) or 'none'}"
        )
    if (run / "base" / "config.json").is_file():
        base = loading.find_base(str(run / "base"))
    return method, base, {s: str(there[s]) for s in settings.steps if s}


def _check_base(adapter: ModelEntry, base: ModelEntry) -> None:
    """Refuses an adapter on a base that it was not tuned on, whose layers may have the same shapes.

    What the registry does not know, such as an adapter of the hub that it does not list, is not refused.
    """
    if adapter.base != base.name and {adapter.base, base.name} <= set(registry.entries()):
        raise JmedloraError(f"adapter {adapter.name!r} was tuned on base {adapter.base!r}, not on {base.name!r}; set base to it")
