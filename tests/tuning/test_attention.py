"""Which attention kernel a run takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, utils

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.tuning import attention, training
from tests import tiny
from tests.tuning.test_training import QUICK


@pytest.fixture
def card(monkeypatch):
    """A card that a test sets up: FlashAttention installed, Ampere."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: True)
    return monkeypatch


def test_auto_takes_flash_attention_where_card_package_dtype_and_model_have_it(card) -> None:
    assert attention.choose("auto", "bfloat16", LlamaConfig(), on_cpu=False) == attention.FLASH
    assert attention.choose("flash_attention_2", "bfloat16", LlamaConfig(), on_cpu=False) == attention.FLASH


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("cpu", "computes on a CPU"),
        ("old card", "older than Ampere"),
        ("float32", "no float32 kernel"),
        ("no package", "flash-attn is not installed"),
        ("no support", "mamba has no FlashAttention"),
    ],
)
def test_without_one_of_them_auto_leaves_it_and_asking_for_it_is_an_error(card, change: str, reason: str) -> None:
    if change == "old card":
        card.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    if change == "no package":
        card.setattr(utils, "is_flash_attn_2_available", lambda: False)
    config = MambaConfig() if change == "no support" else LlamaConfig()
    given = ("float32" if change == "float32" else "bfloat16", config, change == "cpu")
    assert attention.choose("auto", *given) is None
    with pytest.raises(JmedloraError, match=rf"{reason}.*; use 'auto' or 'sdpa'"):
        attention.choose("flash_attention_2", *given)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_kernel_asked_for_is_the_one_that_runs_and_is_recorded(tmp_path, monkeypatch, kernel: str) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    record = training.tune(replace(QUICK, attn_implementation=kernel, max_steps=1), "run", workspace)
    assert record.model["attention"] == kernel
