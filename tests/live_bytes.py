"""Live bytes: the peak memory of tensors on a CPU, where torch keeps no such figure. Importing this module needs torch."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes alive `now` and at the `peak`, of every tensor made inside the `with` block, the backward pass included.

    The counterpart of `torch.cuda.max_memory_allocated`, but blind to memory that a kernel takes and returns within one call. Tensors
    that are `known` (weights, quantisation constants) and their views are not counted.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in known}
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._live:
            return
        self._live[key] = storage.nbytes()
        self.now += self._live[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)


def resident_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers of a model, and the constants behind its 4-bit weights."""
    found = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            found += [t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor)]
            state = state.state2
    return found


def resident_bytes(model: torch.nn.Module) -> int:
    """Bytes of `resident_tensors`, each storage once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in resident_tensors(model)}.values())
