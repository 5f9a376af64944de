"""The Trainer: loss on the response only, and checkpoints that are whole or absent. Importing this module needs torch."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import quiet
from jmedlora_utils.core.records import writing
from jmedlora_utils.tuning.run_folder import kept_checkpoints

STAGING = ".partial"


class ResponseTrainer(Trainer):
    """Trainer with loss on supervised tokens only, their mean over the whole effective batch, and whole checkpoints.

    The output head and the feed-forward part of the last layer are applied at supervised positions alone, since nothing reads
    what they make of the others: hooks pick those hidden states, so that it works for every architecture and under every wrapper
    (peft, DDP). Checkpoints are written aside and renamed when complete.
    """

    def __init__(self, *, keep_steps: Sequence[int], checkpoint_every: int, collator: Any, **kwargs: Any) -> None:
        super().__init__(data_collator=collator, **kwargs)
        self.keep_steps = frozenset(keep_steps)
        # The loss is divided by the tokens of the whole effective batch, so the Trainer must not divide it again.
        self.loss_is_scaled_for_ga = True
        self._positions: torch.Tensor | None = None
        self._shape: torch.Size | None = None
        whole = self.accelerator.unwrap_model(self.model)
        base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
        self._hooks = [base.get_output_embeddings().register_forward_pre_hook(self._select)]
        # Every architecture of the registry names its feed-forward part so; another one computes it at all positions.
        layers = getattr(base.get_decoder(), "layers", None)
        if layers and (last := getattr(layers[-1], "mlp", None)) is not None:
            self._hooks += [last.register_forward_pre_hook(self._select), last.register_forward_hook(self._spread)]
        self.remove_callback(PrinterCallback)
        self.add_callback(Steps(self.keep_steps, checkpoint_every))
        if self.args.should_save:
            shutil.rmtree(Path(self.args.output_dir) / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def detach(self) -> None:
        """Takes the hooks off the model, which then returns all logits again."""
        for hook in self._hooks:
            hook.remove()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Keeps the positions until the backward pass is over: gradient checkpointing runs the forward hooks again."""
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self._positions = self._shape = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Sum of the token losses over the supervised tokens of the effective batch."""
        inputs = dict(inputs)
        labels, self._positions, self._shape = inputs.pop("labels"), inputs.pop("positions"), inputs["input_ids"].shape
        outputs = model(**inputs, use_cache=False)
        loss = torch.nn.functional.cross_entropy(outputs.logits[0].float(), labels, reduction="sum")
        loss = loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
        loss = loss * self.accelerator.num_processes  # DDP and FSDP average gradients over processes
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: counting parameters at every step costs a tiny model a third of its time."""
        return 0

    def _select(self, _module: Any, args: tuple[torch.Tensor, ...]) -> Any:
        if self._positions is None:
            return None
        hidden = args[0]
        return (hidden.reshape(1, -1, hidden.shape[-1])[:, self._positions], *args[1:])

    def _spread(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if self._positions is None or self._shape is None:
            return None
        whole = output.new_zeros(1, self._shape.numel(), output.shape[-1])
        return whole.index_copy(1, self._positions, output).view(*self._shape, -1)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> torch.Tensor:
        tokens = torch.tensor(sum(batch["labels"].numel() for batch in batch_samples), device=device)
        return self.accelerator.gather(tokens).sum() if self.args.world_size > 1 else tokens

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, STAGING)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        whole = Path(self.args.output_dir) / name
        with writing(whole):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(whole, ignore_errors=True)
                os.replace(Path(self._get_output_dir(trial)) / name, whole)
        if self.args.should_save:
            for step, older in kept_checkpoints(Path(self.args.output_dir)).items():
                if step < self.state.global_step and step not in self.keep_steps:
                    shutil.rmtree(older)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Under FSDP the trained parameters alone are gathered: the frozen base would pass through the main process's memory."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        trained = {name: p.full_tensor().cpu() for name, p in self.model.named_parameters() if p.requires_grad}
        self._save(output_dir, state_dict=trained)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "peft_config"):
            # "auto" would ask the hub whether the vocabulary was resized; it never is here.
            model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)
            (Path(output_dir or "") / "README.md").unlink(missing_ok=True)  # peft's empty model card
        else:
            model.save_pretrained(output_dir, state_dict=state_dict)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir)


class Steps(TrainerCallback):
    """Live loss, checkpoints at the steps asked for, and a stop where the loss is not a finite number."""

    def __init__(self, keep_steps: frozenset[int], every: int) -> None:
        self.keep_steps, self.every = keep_steps, every
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="steps", disable=quiet())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        control.should_save = step in self.keep_steps or step == state.max_steps or (self.every > 0 and step % self.every == 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise JmedloraError(f"the loss is {loss} at step {state.global_step}; lower learning_rate or raise warmup_steps")
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
            self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
