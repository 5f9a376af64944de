"""LoRA's sum and scale inside one matrix product, for training.

A LoRA layer gives `W x + s B A x` (Hu et al. 2022, equation 3). peft computes the scaled product and the sum as two passes over
an output-sized array, and one more on the way back; `addmm` folds both into the product with B. The result is the same up to
rounding, the weights and what is saved are untouched. Importing this module needs torch and peft.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, LoraVariant


class FusedLora(LoraVariant):
    """peft's place for another forward pass of a LoRA layer; peft calls it, training mode or not, until the adapter is saved."""

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`result + s B A x`, shape of `result`.

        Args:
            module: The LoRA layer.
            active_adapter: Name of its adapter.
            x: Input, shape (..., in).
            result: Output of the frozen layer, shape (..., out).
            kwargs: What peft passes to every variant; none of it matters here.
        """
        inner = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))
        outer, scale = module.lora_B[active_adapter].weight, module.scaling[active_adapter]
        if result.dtype != outer.dtype and not torch.is_autocast_enabled(result.device.type):
            result = result.to(outer.dtype)  # as peft's own sum does; the layer casts back
        return torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), outer.t(), alpha=scale).view_as(result)


def fuse(model: Any) -> int:
    """Gives every plain LoRA layer of a peft model the fused forward pass; returns how many."""
    fused = 0
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        for name in module.lora_A:
            if name not in module.lora_variant and not module.lora_bias.get(name):
                module.lora_variant[name] = FusedLora()
                fused += 1
    return fused
