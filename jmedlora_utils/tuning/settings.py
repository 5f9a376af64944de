"""What a tuning run can be told, and what is refused before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.tuning import attention, processes

METHODS = ("lora", "qlora", "full")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit")
PRETRAIN = ("", "articles")


@dataclass(frozen=True)
class TuneSettings:
    """Everything that shapes a tuned model.

    Attributes:
        base: Base model: base of the workspace, folder, registry name or hub id (`name@commit` pins it).
        method: `lora`; `qlora` (the base in NF4); `full` (every parameter, the ceiling).
        template: Prompt template, see `prompts.TEMPLATES`.
        rank: Rank r of the adapter.
        alpha: The update is scaled by alpha / r.
        dropout: Dropout on the adapter's input.
        target_modules: Layers that get an adapter; empty for every linear layer of the blocks.
        train_embeddings: Whether the token embeddings, input and output, are trained in full beside the adapter (peft's
            `modules_to_save`). The paper adapts linear layers only; tiny bases know their rare words too badly for that.
        learning_rate: Peak learning rate.
        schedule: One of `SCHEDULES`.
        warmup_steps: Steps over which the rate rises; refused with `constant`, which ignores it.
        optimizer: One of `OPTIMIZERS`.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to this norm; 0 for never.
        batch_size: Records at once on one device.
        gradient_accumulation: Batches per optimizer step.
        max_steps: Optimizer steps.
        save_steps: Steps whose checkpoint is kept for evaluation; the last is always kept.
        checkpoint_every: Steps between checkpoints for resuming; 0 for none but the kept ones.
        max_length: Most tokens of a row.
        too_long: `error` or `exclude` for longer ones; nothing is cut.
        length_grouped: Whether rows of like length share a batch.
        packing: Whether the records of a batch are packed into few rows of up to `max_length` tokens, none of which sees another. Order,
            batch and loss stay those of the unpacked run; only padding goes.
        attn_implementation: Attention kernel, one of `attention.KERNELS`.
        dtype: Of the base's weights that are not quantised. `full` with bfloat16 keeps float32 weights and computes in bfloat16.
        gradient_checkpointing: Trades time for memory.
        pretrain_on: `articles` for continued pretraining before tuning (the paper's third variant): all parameters,
            next-token loss; its result is saved as a new base beside the adapter.
        pretrain_steps: Steps of it.
        pretrain_learning_rate: Learning rate of it.
        seed: Set before the adapter is created; it fixes adapter, order and dropout.
        report_to: Trackers of the Trainer (`wandb`, `tensorboard` ...); `none` sends nothing anywhere.
        device: `auto` or `cpu`.
    """

    base: str
    method: str = "lora"
    template: str = "alpaca_ja"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    train_embeddings: bool = False
    learning_rate: float = 2e-4
    schedule: str = "linear"
    warmup_steps: int = 0
    optimizer: str = "adamw_torch_fused"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 8
    gradient_accumulation: int = 1
    max_steps: int = 100
    save_steps: tuple[int, ...] = ()
    checkpoint_every: int = 0
    max_length: int = 512
    too_long: str = "error"
    length_grouped: bool = True
    packing: bool = False
    attn_implementation: str = "auto"
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    pretrain_on: str = ""
    pretrain_steps: int = 0
    pretrain_learning_rate: float = 1e-4
    seed: int = 1
    report_to: str = "none"
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        object.__setattr__(self, "save_steps", tuple(sorted(set(self.save_steps) - {0})))
        for name, allowed in (
            ("method", METHODS),
            ("schedule", SCHEDULES),
            ("optimizer", OPTIMIZERS),
            ("dtype", ("float32", "bfloat16")),
            ("too_long", prompts.TOO_LONG),
            ("pretrain_on", PRETRAIN),
            ("attn_implementation", attention.KERNELS),
            ("device", ("auto", "cpu")),
        ):
            if getattr(self, name) not in allowed:
                raise JmedloraError(f"{name} is {getattr(self, name)!r}; it takes one of {', '.join(repr(a) for a in allowed)}")
        prompts.get_template(self.template)
        for name in ("rank", "alpha", "learning_rate", "batch_size", "gradient_accumulation", "max_steps", "pretrain_learning_rate"):
            if not getattr(self, name) > 0:
                raise JmedloraError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        for name in ("warmup_steps", "checkpoint_every", "weight_decay", "max_grad_norm", "pretrain_steps"):
            if getattr(self, name) < 0:
                raise JmedloraError(f"{name} is {getattr(self, name)!r}; it must not be below 0")
        if not 0 <= self.dropout < 1:
            raise JmedloraError(f"dropout is {self.dropout}; it must lie between 0 and 1")
        if self.max_length < 2:
            raise JmedloraError(f"max_length is {self.max_length}; a row needs a prompt and an answer")
        if self.save_steps and not 0 < self.save_steps[0] <= self.save_steps[-1] <= self.max_steps:
            raise JmedloraError(f"save_steps {list(self.save_steps)} must lie between 1 and max_steps ({self.max_steps})")
        if self.schedule == "constant" and self.warmup_steps:
            raise JmedloraError("schedule 'constant' ignores warmup_steps; use 'constant_with_warmup'")
        if bool(self.pretrain_on) != bool(self.pretrain_steps):
            raise JmedloraError("pretrain_on and pretrain_steps go together: set both or none")
        if self.pretrain_on and self.method == "qlora":
            raise JmedloraError("pretrain_on trains every parameter, which a 4-bit base cannot; use method 'lora'")
        if processes.sharded():
            self._check_sharded()

    def _check_sharded(self) -> None:
        if self.method == "full" or self.pretrain_on:
            raise JmedloraError(
                "under FSDP only adapters are trained here; use DDP (launch_config 'ddp') for method 'full' and pretrain_on"
            )
        if self.optimizer in ("paged_adamw_8bit", "adamw_bnb_8bit"):
            raise JmedloraError(
                f"optimizer {self.optimizer!r} cannot be saved under FSDP, so the run could not resume; use 'paged_adamw_32bit'"
            )
        if self.gradient_checkpointing and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "") != "true":
            raise JmedloraError(
                "FSDP does its own checkpointing; give `accelerate launch` --fsdp_activation_checkpointing true, as notebook 20 does"
            )

    def kept_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoint is kept."""
        return tuple(sorted({*self.save_steps, self.max_steps}))
