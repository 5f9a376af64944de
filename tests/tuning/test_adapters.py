"""The model that is trained: what the adapter changes, what is saved of it, and which attention kernel runs."""

import json

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, utils

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading
from jmedlora_utils.models.memory import adapter_parameters
from jmedlora_utils.tuning import adapters, processes, training
from tests import tiny
from tests.tuning.test_tuning_settings import QUICK


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> paths.Workspace:
    return tiny.make_workspace(tmp_path, monkeypatch, "llama")


def test_the_step_zero_check_sees_an_adapter_that_is_not_neutral(workspace) -> None:
    model = adapters.build_model(QUICK, loading.find_base("llama", workspace))
    assert adapters.step_zero_difference(model, [1, 2, 3]) == 0.0
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(0.01)
    assert adapters.step_zero_difference(model, [1, 2, 3]) > 0


def test_bfloat16_trains_the_adapter_in_float32(workspace) -> None:
    model = adapters.build_model(QUICK.changed(dtype="bfloat16"), loading.find_base("llama", workspace))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_saved_adapter_names_no_folder_of_this_machine_and_its_layers_in_order(workspace) -> None:
    training.tune(QUICK.changed(max_steps=1), "run", workspace)
    kept = workspace.adapters / "run" / "checkpoint-1"
    assert sorted(p.name for p in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((kept / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "llama" and str(workspace.root) not in json.dumps(config)
    assert config["target_modules"] == sorted(loading.LORA_TARGETS["llama"])


@pytest.mark.parametrize("tie", [False, True])
def test_embeddings_are_trained_beside_the_adapter(workspace, tie: bool) -> None:
    tiny.make_checkpoint(workspace.bases / "tied", "llama", tie=tie)
    plan = QUICK.changed(base="tied", max_steps=1, train_embeddings=True)
    record = training.tune(plan, "embeddings", workspace)
    entry = loading.find_base("tied", workspace)
    size = loading.load_base(entry)[0].get_input_embeddings().weight.numel()
    plain = adapter_parameters(entry.shape, plan.rank)
    assert record.counts["trainable_parameters"] - plain == (1 if tie else 2) * size
    assert record.metrics["step0_max_difference"] == 0.0


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ("", ""),
        ("cpu", "computes on a CPU"),
        ("old card", "older than Ampere"),
        ("float32", "no float32 kernel"),
        ("no package", "flash-attn is not installed"),
        ("no support", "mamba has no FlashAttention"),
    ],
)
def test_flash_attention_is_taken_where_it_can_run_and_refused_by_reason_elsewhere(monkeypatch, change: str, obstacle: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5) if change == "old card" else (8, 0))
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: change != "no package")
    config = MambaConfig() if change == "no support" else LlamaConfig()
    auto = QUICK.changed(dtype="float32" if change == "float32" else "bfloat16")
    asked = auto.changed(attn_implementation=adapters.FLASH)
    if not obstacle:
        assert adapters.choose_attention(auto, config, False) == adapters.choose_attention(asked, config, False) == adapters.FLASH
        return
    assert adapters.choose_attention(auto, config, change == "cpu") is None
    with pytest.raises(JmedloraError, match=rf"{obstacle}.*; use 'auto' or 'sdpa'"):
        adapters.choose_attention(asked, config, change == "cpu")


@pytest.mark.parametrize(
    ("card", "sharded", "wanted", "device"),
    [(True, False, "auto", "cuda:1"), (True, True, "auto", "cpu"), (False, False, "auto", "cpu"), (True, False, "cpu", "cpu")],
)
def test_each_process_loads_to_its_own_card_and_shards_start_on_the_cpu(monkeypatch, card, sharded, wanted, device) -> None:
    assert (processes.count(), processes.is_main(), processes.local_device("auto"), processes.from_main(lambda: 3)) == (1, True, "auto", 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true" if sharded else "false")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    assert processes.local_device(wanted) == device
    assert processes.on_card(torch.nn.Linear(2, 2)) == (card and sharded), "sharded weights on the CPU train on the card"


def test_one_process_drives_one_card_where_it_sees_several(tmp_path, monkeypatch) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    assert training.training_arguments(QUICK, tmp_path, cpu=True)._n_gpu == 1
