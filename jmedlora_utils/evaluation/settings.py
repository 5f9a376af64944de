"""What an evaluation is asked to do, checked before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.models import loading

BACKENDS = ("transformers", "vllm")
ADAPTER_MODES = ("unmerged", "merged")

# Settings that came later stand in keys and records only where they differ from their default, so that a default run
# has the keys and records it always had.
SHAPES_ANSWERS = ("adapter_mode", "backend", "shuffle_choices")
NOT_RECORDED = ("steps", "exams", "shots", "device", "shard_index", "num_shards")


@dataclass(frozen=True)
class EvalSettings:
    """Everything that shapes the answers.

    Attributes:
        base: Base model: base of the workspace, folder, registry name or hub id.
        adapter: Name of a tuning run of the workspace, adapter folder, registry name or hub id; empty for the base alone.
        steps: Checkpoints to evaluate; 0 is the base without its adapter. An adapter that is no run of the workspace has
            one step, whatever number it is given.
        exams: Names of exams, see `evaluation.load_exam`.
        shots: Numbers of worked examples.
        template: Prompt template, see `prompts.TEMPLATES`.
        quantisation: `none`, `nf4`, or `auto`: as the run was tuned, since an adapter fits the base it was trained on.
        dtype: Of the weights that are not quantised.
        batch_size: Questions at once.
        limit: Questions of each exam, from its start; 0 for all.
        max_new_tokens: Answer budget; 0 for the longest gold answer in tokens and `margin`.
        margin: Tokens beyond the longest gold answer.
        too_long: `error` or `exclude` for prompts beyond the model's context; nothing is cut.
        shot_seed: Seed of the draw of worked examples.
        device: `auto` or `cpu`.
        likelihood: Whether the choices are scored by log-likelihood too, see `likelihood`.
        adapter_mode: `unmerged`, or `merged`: the adapter's product added to the base's weights before asking.
        backend: `transformers`, or `vllm` where it is installed; see `vllm_backend`.
        shuffle_choices: Seed of the order of each question's choices; 0 for the printed order.
        shard_index: Which of `num_shards` parts this run asks, from 0.
        num_shards: Into how many parts the questions are split, see `shards`.
    """

    base: str
    adapter: str = ""
    steps: tuple[int, ...] = (0,)
    exams: tuple[str, ...] = ("mini_trained",)
    shots: tuple[int, ...] = (0,)
    template: str = "alpaca_ja"
    quantisation: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    limit: int = 0
    max_new_tokens: int = 0
    margin: int = 8
    too_long: str = "error"
    shot_seed: int = 0
    device: str = "auto"
    likelihood: bool = False
    adapter_mode: str = "unmerged"
    backend: str = "transformers"
    shuffle_choices: int = 0
    shard_index: int = 0
    num_shards: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "exams", "shots"):
            value = tuple(getattr(self, name))
            if not value or len(set(value)) != len(value):
                raise JmedloraError(f"{name} is {list(value)}; it must name at least one, each once")
            object.__setattr__(self, name, tuple(sorted(value)) if name == "steps" else value)
        for name in ("steps", "shots"):
            if min(getattr(self, name)) < 0:
                raise JmedloraError(f"{name} is {list(getattr(self, name))}; none may be below 0")
        for name, known in (
            ("quantisation", ("auto", *loading.QUANTISATIONS)),
            ("adapter_mode", ADAPTER_MODES),
            ("backend", BACKENDS),
            ("dtype", loading.DTYPES),
        ):
            if getattr(self, name) not in known:
                raise JmedloraError(f"{name} is {getattr(self, name)!r}; it takes {', '.join(known)}")
        for name in ("limit", "max_new_tokens", "margin", "shuffle_choices"):
            if getattr(self, name) < 0:
                raise JmedloraError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.batch_size < 1:
            raise JmedloraError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.too_long not in prompts.TOO_LONG:
            raise JmedloraError(f"too_long is {self.too_long!r}; it takes {' or '.join(prompts.TOO_LONG)}")
        if not 0 <= self.shard_index < self.num_shards:
            raise JmedloraError(f"shard_index is {self.shard_index} of num_shards {self.num_shards}; it must lie in 0..num_shards - 1")
        prompts.get_template(self.template)
        if not self.adapter and self.steps != (0,):
            raise JmedloraError(f"steps is {list(self.steps)} without an adapter; a base alone has step 0 only")
        if self.adapter_mode == "merged" and self.steps == (0,):
            raise JmedloraError("adapter_mode is 'merged' and steps names only 0, the base; name a step that has an adapter to merge")
        if self.backend == "vllm" and (self.likelihood or self.adapter_mode == "merged"):
            raise JmedloraError("backend 'vllm' only writes answers; likelihood and adapter_mode='merged' need backend='transformers'")

    def beyond_defaults(self) -> dict[str, Any]:
        """Those of `SHAPES_ANSWERS` that differ from their default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in SHAPES_ANSWERS and getattr(self, f.name) != f.default}

    def recorded(self) -> dict[str, Any]:
        """The settings as a record holds them, JSON values only."""
        silent = {"likelihood", *SHAPES_ANSWERS} - set(self.beyond_defaults()) - ({"likelihood"} if self.likelihood else set())
        return {k: v for k, v in json.loads(json.dumps(asdict(self))).items() if k not in (*NOT_RECORDED, *silent)}
