"""The fused LoRA pass: the numbers of peft's own, on every architecture, on 4-bit weights and under autocast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import processes, training
from jmedlora_utils.tuning.training import TuneSettings
from tests import tiny

SETTINGS = TuneSettings(base="llama", template="plain_ja", rank=4, alpha=12, learning_rate=5e-3, batch_size=8, max_steps=4, max_length=128)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> paths.Workspace:
    return tiny.make_workspace(tmp_path, monkeypatch, *tiny.FAMILIES)


def layers(model: Any) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return [m for m in model.modules() if isinstance(m, LoraLayer)]


def gradients(model: Any, autocast: bool) -> tuple[Any, dict[str, Any]]:
    """Logits and the gradients of the adapter for one fixed batch; dropout draws the same numbers each time."""
    import torch

    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    ids = torch.arange(60).reshape(3, 20) + 10
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=ids).logits
    logits.float().logsumexp(-1).mean().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize(("method", "dropout"), [("lora", 0.0), ("lora", 0.3), ("qlora", 0.0)])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_fused_pass_gives_pefts_numbers(workspace, family: str, method: str, dropout: float, autocast: bool) -> None:
    import torch

    settings = replace(SETTINGS, base=family, method=method, dropout=dropout, dtype="bfloat16" if autocast else "float32")
    model = training.build_model(settings, loading.find_base(family, workspace))
    torch.manual_seed(1)
    for layer in layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)  # at zero the product would not matter
    assert layers(model) and all(layer.lora_variant for layer in layers(model)), "nothing is fused"
    logits, found = gradients(model, autocast)
    for layer in layers(model):
        layer.lora_variant.clear()
    plain, wanted = gradients(model, autocast)
    assert logits.dtype == plain.dtype and found.keys() == wanted.keys()
    tolerance = 5e-2 if autocast else {"lora": 1e-4, "qlora": 2e-2}[method]  # 4-bit weights are multiplied in bfloat16
    for name, one, other in [("logits", logits, plain), *((name, found[name], wanted[name]) for name in found)]:
        size = other.abs().max()
        assert size > 0 and (one - other).abs().max() <= tolerance * size, name


def test_a_sum_of_weights_has_the_gradients_of_its_formula() -> None:
    import torch

    from jmedlora_utils.tuning.fused_lora import SummedProduct

    torch.manual_seed(0)
    x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (2, 4), (3, 2)))
    weight, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *given: SummedProduct.apply(given[0], weight, bias, *given[1:], 0.7), (x, a, b))
    wanted = x @ (weight + 0.7 * b @ a).T + bias
    assert torch.allclose(SummedProduct.apply(x, weight, bias, a, b, 0.7), wanted)


@pytest.mark.parametrize(
    ("change", "tokens", "summed"),
    [
        ({}, 60, True),
        ({}, 4, False),  # too few tokens to pay for the sum
        ({"dropout": 0.3}, 60, False),
        ({"dtype": "bfloat16"}, 60, False),  # the sum would round small updates away
        ({"method": "qlora"}, 60, False),
    ],
    ids=["float32", "few tokens", "dropout", "bfloat16", "4-bit"],
)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_are_summed_only_where_that_is_exact_and_pays(workspace, monkeypatch, family, change, tokens: int, summed: bool) -> None:
    import torch

    from jmedlora_utils.tuning.fused_lora import SummedProduct

    calls = []
    apply = SummedProduct.apply
    monkeypatch.setattr(SummedProduct, "apply", lambda *given: calls.append(given[0].shape[0]) or apply(*given))
    model = training.build_model(replace(SETTINGS, base=family, **change), loading.find_base(family, workspace))
    ids = torch.arange(tokens).reshape(1, tokens) + 10
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="dtype" in change):
        model.train()(input_ids=ids)
    assert calls == ([tokens] * len(layers(model)) if summed else [])
    with model.disable_adapter():
        model(input_ids=ids)
    assert len(calls) == (len(layers(model)) if summed else 0), "an adapter switched off was summed"


def test_an_adapter_trained_fused_answers_the_same_as_pefts_own(workspace) -> None:
    import torch

    record = training.tune(SETTINGS, "run", workspace)
    folder = workspace.adapters / "run" / f"checkpoint-{record.config['max_steps']}"
    base, _ = loading.load_base(loading.find_base("llama", workspace))
    loaded = loading.load_adapter(base, folder)
    trained = training.build_model(SETTINGS, loading.find_base("llama", workspace))
    weights = {name: p for name, p in loaded.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, p in trained.named_parameters():
            if name in weights:
                p.copy_(weights[name])
    assert not any(layer.lora_variant for layer in layers(loaded))
    ids = torch.arange(40).reshape(2, 20) + 10
    with torch.inference_mode():
        assert torch.allclose(trained.eval()(input_ids=ids).logits, loaded.eval()(input_ids=ids).logits, atol=1e-5)


def test_divided_weights_keep_pefts_pass(workspace, monkeypatch) -> None:
    monkeypatch.setattr(processes, "sharded", lambda: True)
    model = training.build_model(replace(SETTINGS, device="cpu"), loading.find_base("llama", workspace))
    assert layers(model) and not any(layer.lora_variant for layer in layers(model))
