"""Models of transformers at each step: the base once, adapters exchanged in it; merged and whole models one at a time.

The keys of answers hold the code of this module and of what it imports, so it imports only what can change an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.evaluation import generation
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry

Writer = Callable[[Sequence[Sequence[int]], int, Sequence[str]], list[generation.Answer]]
"""Prompts as token ids, an answer budget and the names of the prompts in; answers out, in the same order."""


class TransformersBackend:
    """Answers and log-probabilities of a base and its checkpoints.

    Args:
        weights: Step to adapter, or to whole model.
        whole: Whether `weights` are whole models.
        merged: Whether adapters are merged into the base's weights.
        how: `quantisation`, `dtype` and `device` as `loading.load_model` takes them.
    """

    def __init__(
        self, base: ModelEntry, weights: Mapping[int, str], tokenizer: Any, whole: bool = False, merged: bool = False, **how: str
    ) -> None:
        self.base, self.weights, self.tokenizer, self.whole, self.merged, self.how = base, weights, tokenizer, whole, merged, how
        self.model: Any = None
        self.step = -1
        self._base: Any = None
        self._adapted: Any = None

    def close(self) -> None:
        """Lets go of the models; `load` then starts afresh."""
        self.model = self._base = self._adapted = None
        self.step = -1

    def load(self, step: int, probe: Sequence[int]) -> None:
        """Makes `model` the one at a step; 0 is the base. Steps come in rising order.

        Raises:
            JmedloraError: It does not differ: the adapter is not applied, was never trained, or merging rounded it away. Or its
                logits are not finite.
        """
        if step == self.step:
            return
        if step < self.step:
            raise JmedloraError(f"step {step} is asked after step {self.step}, whose adapter is in the base; ask steps in rising order")
        self.model = None
        if not step:
            self.model = self._base = self._load(self.base)
            logits(self.model, probe, self._name(0))
        elif self.whole:
            self._base = self._base or self._load(self.base)
            self.model = self._load(loading.find_base(self.weights[step]))
            check_differs(step, logits(self._base, probe, self._name(0)), logits(self.model, probe, self._name(step)))
        else:
            adapted = self._with_adapter(step)
            with adapted.disable_adapter():
                plain = logits(adapted, probe, self._name(0))
            check_differs(step, plain, logits(adapted, probe, self._name(step)))
            self.model = adapted
            if self.merged:
                # Merging changes the base's weights, so each step starts from a fresh base.
                self._base = self._adapted = None
                self.model = adapted.merge_and_unload(safe_merge=True).eval()
                check_differs(step, plain, logits(self.model, probe, self._name(step)))
        self.step = step

    def writer(self, rows: Sequence[Sequence[int]]) -> Writer:
        """Greedy generation by the loaded model; what all `rows` start with is read once."""
        prefix = generation.read_prefix(self.model, rows)
        return lambda batch, budget, names=(): generation.generate(self.model, self.tokenizer, batch, budget, prefix, names)

    def _with_adapter(self, step: int) -> Any:
        if self._adapted is None:
            self._adapted = loading.load_adapter(self._base or self._load(self.base), self.weights[step])
        else:
            loading.exchange_adapter(self._adapted, self.weights[step])
        return self._adapted

    def _load(self, entry: ModelEntry) -> Any:
        return loading.load_model(entry, **self.how)

    def _name(self, step: int) -> str:
        return f"{self.weights[step]} (step {step})" if step else f"base {self.base.name!r}"


def logits(model: Any, ids: Sequence[int], name: str = "the model") -> Any:
    """Logits of a model on one prompt, float32, shape (1, tokens, vocabulary); refused by `name` where one is NaN or infinite."""
    import torch

    with torch.inference_mode():
        found = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits.float()
    generation.refuse_broken(generation.not_finite(found), [name])
    return found


def check_differs(step: int, plain: Any, tuned: Any) -> None:
    """Compares the logits of a tuned model with those of its base."""
    if float((tuned - plain).abs().max()) == 0.0:
        raise JmedloraError(f"step {step}: its outputs equal the base's exactly, so the adapter is not applied or was never trained")
