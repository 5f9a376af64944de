"""What is evaluated: a base and its tuned steps, found without loading, and loaded one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.evaluation import generation
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading, registry
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import training

Writer = Callable[[Sequence[Sequence[int]], int], list[generation.Answer]]
"""Prompts as token ids and an answer budget in; answers out, in the same order."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        base: The base model; of a run with continued pretraining, the base that it made.
        base_key: Fingerprint of the base.
        method: `lora`, `qlora` or `full`; empty for a base alone.
        weights: Step to adapter (or whole model for `full`); one of the hub with its commit.
        keys: Step to what identifies base and weights.
    """

    base: ModelEntry
    base_key: str
    method: str
    weights: dict[int, str]
    keys: dict[int, str]

    @classmethod
    def find(cls, settings: EvalSettings, workspace: paths.Workspace) -> Subject:
        """Finds base and checkpoints, without loading anything.

        Raises:
            JmedloraError: A step has no checkpoint, the run was tuned on another base, or it has no adapter where one is needed.
        """
        base = loading.find_base(settings.base, workspace)
        method, weights = "", {}
        run = workspace.adapters / settings.adapter
        steps = [s for s in settings.steps if s]
        if settings.adapter and (run / "run.json").is_file():
            tuned = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
            if tuned["base"] != settings.base:
                raise JmedloraError(
                    f"run {settings.adapter!r} was tuned on base {tuned['base']!r}, not on {settings.base!r}; set base to it"
                )
            method = tuned["method"]
            there = training.kept_checkpoints(run)
            if missing := [s for s in steps if s not in there]:
                raise JmedloraError(
                    f"run {settings.adapter!r} has no checkpoint for step {missing[0]}; it has {', '.join(map(str, there))}"
                )
            weights = {s: str(there[s]) for s in steps}
            if (run / "base" / "config.json").is_file():
                base = loading.find_base(str(run / "base"))
        elif settings.adapter:
            if len(steps) > 1:
                raise JmedloraError(
                    f"{settings.adapter!r} is one adapter, not a run of this workspace: steps {steps} must name one step and 0"
                )
            entry = loading.find_adapter(settings.adapter)
            check_base(entry, base)
            method, weights = "lora", {s: entry.pinned for s in steps}
        if method == "full" and (settings.adapter_mode == "merged" or settings.backend == "vllm"):
            raise JmedloraError(
                f"run {settings.adapter!r} tuned the whole model, so there is no adapter to merge or to hand to vLLM; "
                "use adapter_mode='unmerged' and backend='transformers', or give a checkpoint's folder as base"
            )
        base_key = loading.fingerprint(base)
        keys = {0: base_key} | {s: f"{base_key}+{_weights_key(w)}" for s, w in weights.items()}
        return cls(base, base_key, method, weights, keys)

    def context(self, tokenizer: Any) -> int:
        """Tokens the base can read and write in all."""
        return self.base.context_length or tokenizer.model_max_length


class Source(Protocol):
    """Where answers come from: a subject's models, loaded when first needed."""

    def __enter__(self) -> Source: ...
    def __exit__(self, *args: Any) -> None: ...
    def load(self, step: int, probe: Sequence[int]) -> None: ...
    def writer(self, rows: Sequence[Sequence[int]]) -> Writer: ...


class Loader:
    """Models of transformers: the base once, adapters exchanged in it; merged and whole models one at a time."""

    def __init__(self, subject: Subject, settings: EvalSettings, tokenizer: Any) -> None:
        self.subject, self.settings, self.tokenizer = subject, settings, tokenizer
        self.model: Any = None
        self.step = -1
        self._base: Any = None
        self._adapted: Any = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *args: Any) -> None:
        self.model = self._base = self._adapted = None

    def load(self, step: int, probe: Sequence[int]) -> None:
        """Makes `model` the one at a step; 0 is the base. Steps come in rising order.

        Args:
            step: Step wanted.
            probe: Token ids of a prompt on which the model must differ from its base.

        Raises:
            JmedloraError: It does not differ: the adapter is not applied, was never trained, or merging rounded it away.
        """
        if step == self.step:
            return
        if step < self.step:
            raise JmedloraError(f"step {step} is asked after step {self.step}, whose adapter is in the base; ask steps in rising order")
        self.model = None
        if not step:
            self.model = self._base = self._load(self.subject.base)
        elif self.subject.method == "full":
            self._base = self._base or self._load(self.subject.base)
            self.model = self._load(loading.find_base(self.subject.weights[step]))
            check_differs(step, logits(self._base, probe), logits(self.model, probe))
        else:
            adapted = self._with_adapter(step)
            with adapted.disable_adapter():
                plain = logits(adapted, probe)
            check_differs(step, plain, logits(adapted, probe))
            self.model = adapted
            if self.settings.adapter_mode == "merged":
                # The base's weights are changed by merging, so each step starts from a fresh base.
                self._base = self._adapted = None
                self.model = adapted.merge_and_unload(safe_merge=True).eval()
                check_differs(step, plain, logits(self.model, probe))
        self.step = step

    def writer(self, rows: Sequence[Sequence[int]]) -> Writer:
        """Greedy generation by the loaded model; what all `rows` start with is read once."""
        prefix = generation.read_prefix(self.model, rows)

        def write(batch: Sequence[Sequence[int]], max_new_tokens: int) -> list[generation.Answer]:
            return generation.generate(self.model, self.tokenizer, batch, max_new_tokens, prefix)

        return write

    def _with_adapter(self, step: int) -> Any:
        if self._adapted is not None:
            loading.exchange_adapter(self._adapted, self.subject.weights[step])
            return self._adapted
        base = self._base or self._load(self.subject.base)
        self._adapted = loading.load_adapter(base, self.subject.weights[step])
        return self._adapted

    def _load(self, entry: ModelEntry) -> Any:
        s = self.settings
        return loading.load_base(entry, quantisation=s.quantisation, dtype=s.dtype, device=s.device)[0]


def logits(model: Any, ids: Sequence[int]) -> Any:
    """Logits of a model on one prompt, float32, shape (1, tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)], device=model.device)).logits.float()


def check_differs(step: int, plain: Any, tuned: Any) -> float:
    """Largest difference between the logits of a tuned model and of its base.

    Raises:
        JmedloraError: There is none.
    """
    difference = float((tuned - plain).abs().max())
    if difference == 0.0:
        raise JmedloraError(f"step {step}: its outputs equal the base's exactly, so the adapter is not applied or was never trained")
    return difference


def check_base(adapter: ModelEntry, base: ModelEntry) -> None:
    """Refuses an adapter on a base that it was not tuned on, whose layers may have the same shapes.

    What the registry does not know, such as an adapter of the hub that it does not list, is not refused.

    Raises:
        JmedloraError: The registry names another base for the adapter.
    """
    if adapter.base != base.name and {adapter.base, base.name} <= set(registry.entries()):
        raise JmedloraError(f"adapter {adapter.name!r} was tuned on base {adapter.base!r}, not on {base.name!r}; set base to it")


def _weights_key(location: str) -> str:
    """What identifies an adapter or a whole model: a hash of its files, or the hub id."""
    folder = Path(location)
    return training.weights_sha256(folder) if folder.is_dir() else location
