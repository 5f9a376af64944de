"""Models: found, loaded (also in 4-bit), counted, and refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jmedlora_utils import models
from jmedlora_utils.models import ModelError
from jmedlora_utils.registry import RegistryError
from tests import tiny

FAMILIES = ("llama", "gpt_neox")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: tiny.make_checkpoint(root / family, family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_trap_46_four_bit_counts_the_true_parameters(folders, family: str) -> None:
    plain, _ = models.load_base(str(folders[family]))
    packed, _ = models.load_base(str(folders[family]), quantisation="nf4")
    assert any(p.__class__.__name__ == "Params4bit" for p in packed.parameters())
    assert models.count_parameters(packed)["total"] == models.count_parameters(plain)["total"] == sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_default_targets_are_all_linear_layers_of_the_blocks(folders, family: str) -> None:
    import torch

    model, _ = models.load_base(str(folders[family]))
    linear = {
        n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()
    }
    assert set(models.lora_targets(models.find_base(str(folders[family])), model)) == linear


def test_the_registry_names_the_papers_targets() -> None:
    assert models.find_base("open-calm-7b").lora_targets == ("query_key_value",)


def test_a_misspelt_base_is_refused_with_the_nearest_name(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    assert models.find_base("llama", workspace).folder == workspace.bases / "llama"
    with pytest.raises(ModelError, match=r"no base model 'lama' \(did you mean 'llama'\?\)"):
        models.find_base("lama", workspace)
    with pytest.raises(ModelError, match="did you mean 'open-calm-7b'"):
        models.find_base("open-clam-7b")


def test_a_hub_model_without_a_pinned_revision_is_refused_before_any_download() -> None:
    with pytest.raises(RegistryError, match="revision"):
        models.load_base("someone/some-model")


def test_a_tokenizer_and_an_adapter_without_a_pinned_revision_are_refused_too(monkeypatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RegistryError, match="swallow-70b-instruct: its revision is unknown"):
        models.load_tokenizer(models.find_base("swallow-70b-instruct"))
    with pytest.raises(RegistryError, match="someone/some-adapter: its revision is unknown"):
        models.find_adapter("someone/some-adapter")


def test_a_model_too_large_for_the_card_is_refused_before_any_download(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 << 30, 24 << 30))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    with pytest.raises(
        RegistryError, match=r"llama-2-70b-chat: its weights take 138\.0 GB \(none\), the card has 25\.8 GB; use quantisation nf4 or"
    ):
        models.load_base("llama-2-70b-chat")


def test_no_network_says_where_to_get_the_model(monkeypatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="cannot be reached and the model is not in the local cache"):
        models.load_base("open-calm-7b")


def test_a_gated_model_without_a_token_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RegistryError, match="gated"):
        models.load_base("llama-2-7b-chat")


@pytest.mark.parametrize(("argument", "value"), [("quantisation", "int3"), ("dtype", "float8")])
def test_an_unknown_way_to_load_is_named(folders, argument: str, value: str) -> None:
    with pytest.raises(ModelError, match=f"{argument} '{value}' is not one of"):
        models.load_base(str(folders["llama"]), **{argument: value})


def test_a_folder_without_an_adapter_is_refused(folders) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        models.find_adapter(str(folders["llama"]))


def test_the_fingerprint_follows_the_weights(tmp_path) -> None:
    first, second = (tiny.make_checkpoint(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    again = tiny.make_checkpoint(tmp_path / "c", seed=0)
    keys = [models.fingerprint(models.find_base(str(p))) for p in (first, second, again)]
    assert keys[0] == keys[2] != keys[1]


def test_a_tokenizer_without_padding_pads_with_eos(tmp_path) -> None:
    folder = tiny.make_checkpoint(tmp_path / "m", pad=False)
    tokenizer = models.load_tokenizer(models.find_base(str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
