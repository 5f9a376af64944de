"""Attention kernels: which one a run takes, and whether a card and a model can."""

from __future__ import annotations

from typing import Any

from jmedlora_utils.core.errors import JmedloraError

KERNELS = ("auto", "sdpa", "eager", "flash_attention_2")
FLASH = "flash_attention_2"


def choose(wanted: str, dtype: str, model_config: Any, on_cpu: bool) -> str | None:
    """The kernel to load a model with, in the words of transformers; None for its own choice (SDPA where the model has it).

    Args:
        wanted: One of `KERNELS`; `auto` takes FlashAttention 2 where package, card, dtype and model allow it.
        dtype: In which attention computes.
        model_config: Of the model to load.
        on_cpu: Whether the model computes on the CPU, be it at first.

    Raises:
        JmedloraError: FlashAttention is asked for and cannot run.
    """
    if wanted not in ("auto", FLASH):
        return wanted
    reason = flash_obstacle(dtype, model_config, on_cpu)
    if wanted == "auto":
        return None if reason else FLASH
    if reason:
        raise JmedloraError(f"attn_implementation 'flash_attention_2' cannot run: {reason}; use 'auto' or 'sdpa'")
    return FLASH


def flash_obstacle(dtype: str, model_config: Any, on_cpu: bool) -> str:
    """Why FlashAttention 2 cannot run here; empty where it can."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    if on_cpu or not torch.cuda.is_available():
        return "the model computes on a CPU, or starts there (FSDP)"
    if torch.cuda.get_device_capability()[0] < 8:
        return "the card is older than Ampere"
    if dtype == "float32":
        return "it has no float32 kernel, and dtype is float32"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    model_class = AutoModelForCausalLM._model_mapping.get(type(model_config), None)
    if not getattr(model_class, "_supports_flash_attn", False):
        return f"{model_config.model_type} has no FlashAttention in transformers"
    return ""
