"""What a tuning run can be told, and what is refused before anything is loaded; needs no torch, so a plan can check it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.settings import Checked, with_expert
from jmedlora_utils.data import prompts
from jmedlora_utils.models.launch_config import read_launch_config
from jmedlora_utils.models.memory import METHODS, OPTIMIZERS

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

SAVED_UNDER_FSDP = ("adamw_torch_fused", "adamw_torch", "paged_adamw_32bit")
# Settings that do not shape the result.
PASSING = ("report_to", "device", "checkpoint_every", "num_processes", "launch_config")


class TuneSettings(Checked):
    """Everything that shapes a tuned model, and how it is run.

    Attributes:
        base: Base model: base of the workspace, folder, registry name or hub id (`name@commit` pins it).
        method: `lora`; `qlora` (the base in NF4); `full` (every parameter, the ceiling).
        template: Prompt template, see `prompts.TEMPLATES`.
        rank: Rank r of the adapter.
        alpha: The update is scaled by alpha / r.
        dropout: Dropout on the adapter's input.
        target_modules: Layers that get an adapter; empty for the registry's, else every linear layer of the blocks.
        train_embeddings: Whether the token embeddings, input and output, are trained in full beside the adapter (peft's
            `modules_to_save`). The paper adapts linear layers only; tiny bases know their rare words too badly for that.
        learning_rate: Peak learning rate.
        warmup_steps: Steps over which the rate rises; refused with `constant`, which ignores it.
        max_grad_norm: Gradients are clipped to this norm; 0 for never.
        batch_size: Records at once on one device.
        gradient_accumulation: Batches per optimizer step.
        max_steps: Optimizer steps.
        save_steps: Steps whose checkpoint is kept for evaluation; the last is always kept.
        checkpoint_every: Steps between checkpoints for resuming; 0 for none but the kept ones.
        max_length: Most tokens of a record; nothing is cut.
        too_long: `error` or `exclude` for longer ones.
        length_grouped: Whether rows of similar length share a batch.
        attn_implementation: Attention kernel; `auto` takes FlashAttention 2 where package, card, dtype and model allow it.
        dtype: Of the base's weights that are not quantised. `full` with bfloat16 keeps float32 weights and computes in bfloat16.
        gradient_checkpointing: Computes activations twice instead of keeping them.
        pretrain_on: `articles` for continued pretraining before tuning (the paper's third variant): all parameters, next-token loss;
            its result is saved as a new base beside the adapter.
        pretrain_steps: Steps of it.
        pretrain_learning_rate: Learning rate of it.
        seed: Set before the adapter is created; it fixes adapter, order and dropout.
        report_to: Tracker of the Trainer (`wandb`, `tensorboard` ...); `none` sends nothing anywhere.
        device: `auto` or `cpu`.
        num_processes: Processes, one on each card; a step then takes that many times more records.
        launch_config: Configuration of accelerate: `ddp`, `fsdp2_nf4` or a YAML file; empty for `ddp` where there are several processes.
    """

    base: str = Field(min_length=1)
    method: Literal[METHODS] = "lora"
    template: str = "alpaca_ja"
    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: list[str] = Field(default=[])
    train_embeddings: bool = False
    learning_rate: Positive = 2e-4
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: CountOrNone = 0
    optimizer: Literal[OPTIMIZERS] = "adamw_torch_fused"
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    max_steps: Count = 100
    save_steps: list[CountOrNone] = Field(default=[])
    checkpoint_every: CountOrNone = 0
    max_length: Annotated[int, Field(ge=2)] = 1024
    too_long: Literal[prompts.TOO_LONG] = "error"
    length_grouped: bool = True
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    pretrain_on: Literal["", "articles"] = ""
    pretrain_steps: CountOrNone = 0
    pretrain_learning_rate: Positive = 1e-4
    seed: int = 1
    report_to: str = "none"
    device: Literal["auto", "cpu"] = "auto"
    num_processes: Count = 1
    launch_config: str = ""

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, Any], where: str) -> Self:
        """The settings behind the parameters of notebook 20, those of its `expert` list among them.

        Args:
            parameters: Parameter to value; `preset` and `run_name` are passed over.
            where: The preset and run, as an error names them.

        Raises:
            JmedloraError: A value is unknown, out of range or cannot go with another one.
        """
        values = with_expert(parameters, where)
        return cls.read({name: value for name, value in values.items() if name not in ("preset", "run_name")}, where)

    def changed(self, **changes: Any) -> Self:
        """The same settings but for some, checked again."""
        return type(self).read(self.model_dump() | changes, "settings")

    @field_validator("template")
    @classmethod
    def _known_template(cls, name: str) -> str:
        prompts.get_template(name)
        return name

    @field_validator("save_steps")
    @classmethod
    def _sorted_steps(cls, steps: list[int]) -> list[int]:
        return sorted({*steps} - {0})

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.save_steps and self.save_steps[-1] > self.max_steps:
            raise JmedloraError(f"save_steps {self.save_steps} go beyond max_steps ({self.max_steps}); leave the later ones out")
        if self.schedule == "constant" and self.warmup_steps:
            raise JmedloraError("schedule 'constant' ignores warmup_steps; use 'constant_with_warmup'")
        if bool(self.pretrain_on) != bool(self.pretrain_steps):
            raise JmedloraError("pretrain_on and pretrain_steps go together; set both or none")
        if self.pretrain_on and self.method == "qlora":
            raise JmedloraError("pretrain_on trains every parameter, which a 4-bit base cannot; use method 'lora'")
        if self.launch_config and read_launch_config(self.launch_config).sharded:
            self.check_sharded()
        elif self.launch_config and self.num_processes == 1:
            raise JmedloraError(
                f"launch_config {self.launch_config!r} is for several processes; raise num_processes, or leave launch_config empty"
            )
        return self

    def check_sharded(self) -> None:
        """Refuses what FSDP cannot do.

        Raises:
            JmedloraError: Names the setting and what to use instead.
        """
        if self.method == "full" or self.pretrain_on:
            raise JmedloraError("FSDP trains only adapters here; use launch_config 'ddp' for method 'full' and pretrain_on")
        if self.optimizer not in SAVED_UNDER_FSDP:
            raise JmedloraError(f"optimizer {self.optimizer!r} cannot be saved under FSDP, so no run could resume; use 'paged_adamw_32bit'")

    def kept_steps(self) -> list[int]:
        """Steps whose checkpoint is kept."""
        return sorted({*self.save_steps, self.max_steps})

    def shaping(self) -> dict[str, Any]:
        """The settings that shape the result, as records and identities hold them."""
        return self.model_dump(exclude=set(PASSING))
