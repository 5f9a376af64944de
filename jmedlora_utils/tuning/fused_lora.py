"""LoRA in fewer passes over memory, for training.

A LoRA layer gives `W x + s B A x` (Hu et al. 2022, equation 3). peft computes the product with B, the scaled product and the sum in
turn, each an output-sized array, and on the way back sums the two gradients of x. Here there are two shorter ways; the result is the
same up to rounding, and the weights and what is saved are untouched. Importing this module needs torch and peft.

- `FusedLora`: `addmm` folds scale and sum into the product with B. For every layer.
- `SummedLinear`: `(W + s B A) x`, one product with a weight summed anew at each call, and one on the way back. Only in float32, where
  no update is lost to the rounding of the sum, without dropout, and where a call has tokens enough to pay for the sum.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from torch.autograd.function import once_differentiable


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


class SummedProduct(torch.autograd.Function):
    """`x (W + s B A)ᵀ + bias` with gradients of x, A and B. The sum is made again on the way back: kept, it would double the weights."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Shapes: `x` (tokens, in), `weight` (out, in), `bias` (out), `a` (rank, in), `b` (out, rank); returns (tokens, out)."""
        inner = x @ a.t()
        ctx.save_for_backward(x, inner, weight, a, b)
        ctx.scale = scale
        return torch.nn.functional.linear(x, torch.addmm(weight, b, a, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """From the gradient of the output, shape (tokens, out), to those of x, A and B."""
        x, inner, weight, a, b = ctx.saved_tensors
        scaled = (gradient @ b).mul_(ctx.scale)
        of_x = gradient @ torch.addmm(weight, b, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        of_b = (gradient.t() @ inner).mul_(ctx.scale)
        return of_x, None, None, scaled.t() @ x, of_b, None


class SummedLinear(Linear):
    """peft's LoRA layer over a plain linear layer, which multiplies with the summed weight where that is exact and pays."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As peft's own: `x` of shape (..., in) to (..., out)."""
        name = self._summed_adapter(x) if not args and not kwargs else None
        if name is None:
            return super().forward(x, *args, **kwargs)
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        summed = SummedProduct.apply(x.flatten(0, -2), base.weight, base.bias, a, b, self.scaling[name])
        return summed.view(*x.shape[:-1], -1)

    def _summed_adapter(self, x: torch.Tensor) -> str | None:
        """The adapter to sum with the weight, or None."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name, weight = self.active_adapters[0], self.base_layer.weight
        if not isinstance(self.lora_variant.get(name), FusedLora) or torch.is_autocast_enabled(x.device.type):
            return None
        if self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity):
            return None
        if not x.dtype == weight.dtype == self.lora_A[name].weight.dtype == torch.float32:
            return None
        # Summing takes 2·rank·in·out FLOP; it spares each token 2·rank·(in + out).
        tokens = x.numel() // x.shape[-1]
        return name if tokens * (self.in_features + self.out_features) >= self.in_features * self.out_features else None


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
        frozen = not any(p.requires_grad for p in module.base_layer.parameters())
        if type(module) is Linear and type(module.base_layer) is torch.nn.Linear and frozen:
            module.__class__ = SummedLinear  # a new layer in its place would need its weights, names and modes carried over
    return fused
