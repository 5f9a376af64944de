"""What an evaluation is asked to do, checked before anything is loaded."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from jmedlora_utils.core import paths
from jmedlora_utils.core.settings import Checked, with_expert
from jmedlora_utils.data import prompts

# Recorded only where they differ from their default: they came after the first records of the committed evidence.
RECORDED_WHERE_SET = ("adapter_mode", "backend", "shuffle_choices", "likelihood")
NOT_RECORDED = {"steps", "exams", "shots", "device"}

Variant = Literal["unmerged-none", "unmerged-nf4", "merged-none", "merged-nf4"]
"""The same weights loaded in another way: how the adapter is used, and the quantisation of the base."""


class EvalSettings(Checked):
    """Everything that shapes the answers."""

    base: str = Field(min_length=1)  #: Base model: base of the workspace, folder, registry name or hub id
    adapter: str = ""  #: Name of a tuning run of the workspace, adapter folder, registry name or hub id; empty for the base alone
    #: Checkpoints to evaluate; 0 is the base without its adapter. An adapter that is no run of the workspace has one step, whatever number
    #: it is given.
    steps: list[int] = Field([0])
    exams: list[str] = Field(["mini_trained"])  #: Names of exams, see `exam_prompts.load_exam`
    shots: list[int] = Field([0])  #: Numbers of worked examples
    template: str = "alpaca_ja"  #: Prompt template, see `prompts.TEMPLATES`
    #: `none`, `nf4`, or `auto`: as the run was tuned, since an adapter fits the base it was trained on
    quantisation: Literal["auto", "none", "nf4"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  #: Of the weights that are not quantised
    batch_size: int = Field(64, ge=1)  #: Questions at once
    limit: int = Field(0, ge=0)  #: Questions of each exam, from its start; 0 for all
    max_new_tokens: int = Field(0, ge=0)  #: Answer budget; 0 for the longest gold answer in tokens and `margin`
    margin: int = Field(8, ge=0)  #: Tokens beyond the longest gold answer
    too_long: Literal["error", "exclude"] = "error"  #: `error` or `exclude` for prompts beyond the model's context; nothing is cut
    shot_seed: int = 0  #: Seed of the draw of worked examples
    device: Literal["auto", "cpu"] = "auto"  #: `auto` or `cpu`
    likelihood: bool = False  #: Whether the choices are scored by log-likelihood too, see `likelihood`
    #: `unmerged`, or `merged`: the adapter's product added to the base's weights before asking
    adapter_mode: Literal["unmerged", "merged"] = "unmerged"
    backend: Literal["transformers", "vllm"] = "transformers"  #: `transformers`, or `vllm` where it is installed; see `vllm_backend`
    shuffle_choices: int = Field(0, ge=0)  #: Seed of the order of each question's choices; 0 for the printed order

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, Any], where: str) -> Self:
        """Checks all that notebook 30 runs with, its `expert` list and what is no setting (`preset`, `run_name`, `compare`) included."""
        checked = _NotebookParameters.read(with_expert(parameters, where), where)
        return cls(**checked.model_dump(include=set(cls.model_fields)))

    @field_validator("steps", "exams", "shots")
    @classmethod
    def _each_once(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        if not value or len(set(value)) != len(value):
            raise ValueError(f"{value} must name at least one, each once")
        if isinstance(value[0], int) and min(value) < 0:
            raise ValueError(f"{value}: none may be below 0")
        return sorted(value) if info.field_name == "steps" else value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        prompts.get_template(self.template)
        if not self.adapter and self.steps != [0]:
            raise ValueError(f"steps is {self.steps} without an adapter; a base alone has step 0 only")
        if self.adapter_mode == "merged" and self.steps == [0]:
            raise ValueError("adapter_mode is 'merged' and steps names only 0, the base; name a step that has an adapter to merge")
        if self.backend == "vllm" and (self.likelihood or self.adapter_mode == "merged"):
            raise ValueError("backend 'vllm' only writes answers; likelihood and adapter_mode='merged' need backend='transformers'")
        return self

    def recorded(self) -> dict[str, Any]:
        """The settings as a record holds them."""
        default = {name for name in RECORDED_WHERE_SET if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(exclude=NOT_RECORDED | default)


class _NotebookParameters(EvalSettings):
    preset: str = ""
    seed: int = 0
    run_name: str = ""
    compare: list[Variant] = Field([])
    texts: list[str] = Field([])

    @field_validator("run_name")
    @classmethod
    def _can_be_a_file(cls, value: str) -> str:
        return paths.check_name(value, "run_name") if value else value

    @model_validator(mode="after")
    def _has_steps_to_compare(self) -> Self:
        if self.steps == [0] and (merged := [name for name in self.compare if name.startswith("merged")]):
            raise ValueError(f"compare names {merged[0]!r}, but steps names only 0, the base; name a step that has an adapter to merge")
        return self
