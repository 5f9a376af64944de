"""What a tuning run can be told, and what is refused before anything is loaded; needs no torch, so a plan can check it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, field_validator, model_validator

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.paths import check_name
from jmedlora_utils.core.settings import Checked, with_expert
from jmedlora_utils.data import prompts
from jmedlora_utils.models.launch_config import read_launch_config
from jmedlora_utils.models.memory import METHODS, OPTIMIZERS

Count = Annotated[int, Field(ge=1)]

SAVED_UNDER_FSDP = ("adamw_torch_fused", "adamw_torch", "paged_adamw_32bit")
# Settings that do not shape the result.
PASSING = ("report_to", "device", "checkpoint_every", "num_processes", "launch_config")


class TuneSettings(Checked):
    """Everything that shapes a tuned model, and how it is run."""

    base: str = Field(min_length=1)  # base of the workspace, folder, registry name or hub id (`name@commit` pins it)
    method: Literal[METHODS] = "lora"  # `qlora`: the base in NF4; `full`: every parameter, the ceiling
    template: str = "alpaca_ja"  # prompt template, see `prompts.TEMPLATES`
    rank: Count = 8
    alpha: PositiveFloat = 16.0  # the update is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # on the adapter's input
    target_modules: list[str] = Field(default=[])  # empty: the registry's, else every linear layer of the blocks
    # Token embeddings, input and output, in full beside the adapter (peft's `modules_to_save`). The paper adapts linear layers only; tiny
    # bases know their rare words too badly for that.
    train_embeddings: bool = False
    learning_rate: PositiveFloat = 2e-4  # peak
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: NonNegativeInt = 0
    optimizer: Literal[OPTIMIZERS] = "adamw_torch_fused"
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: NonNegativeFloat = 1.0  # 0: gradients are never clipped
    batch_size: Count = 8  # records at once on one device
    gradient_accumulation: Count = 1  # batches per optimizer step
    max_steps: Count = 100  # optimizer steps
    save_steps: list[NonNegativeInt] = Field(default=[])  # checkpoints kept for evaluation; the last is always kept
    checkpoint_every: NonNegativeInt = 0  # steps between checkpoints for resuming; 0: the kept ones only
    max_length: Annotated[int, Field(ge=2)] = 1024  # tokens of a record; nothing is cut
    too_long: Literal[prompts.TOO_LONG] = "error"  # what happens to longer ones
    length_grouped: bool = True  # rows of similar length share a batch
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights that are not in 4 bits; `full` keeps float32 and computes in it
    gradient_checkpointing: bool = False
    records: str = "train"  # which instruction records of the workspace: the file `data/instructions/<records>.jsonl`
    # Continued pretraining first (the paper's third variant): all parameters, next-token loss; the result is a new base beside the adapter.
    pretrain_on: Literal["", "articles"] = ""
    pretrain_steps: NonNegativeInt = 0
    pretrain_learning_rate: PositiveFloat = 1e-4
    seed: int = 1  # set before the adapter is created; it fixes adapter, order and dropout
    report_to: str = "none"  # tracker of the Trainer (`tensorboard` ...); `none` sends nothing anywhere
    device: Literal["auto", "cpu"] = "auto"
    num_processes: Count = 1  # one on each card; a step takes that many times more records
    launch_config: str = ""  # `ddp`, `fsdp2_nf4` or a YAML file of accelerate; empty: `ddp` where there are several processes

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, Any], where: str) -> Self:
        """The settings behind the parameters of notebook 20, those of its `expert` list among them."""
        values = with_expert(parameters, where)
        return cls.read({name: value for name, value in values.items() if name not in ("preset", "run_name")}, where)

    @field_validator("save_steps")
    @classmethod
    def _sorted_steps(cls, steps: list[int]) -> list[int]:
        return sorted({*steps} - {0})

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        prompts.get_template(self.template)
        check_name(self.records, "records")
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
        """Refuses what FSDP cannot do."""
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
