"""Memory from first principles, against the tensors of real tiny models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import registry
from jmedlora_utils.models.memory import (
    Tuning,
    adapter_parameters,
    cache_bytes,
    fit_tuning,
    generation_memory,
    load_bytes,
    nf4_bytes,
    optimizer_bytes,
    sharded_total,
    step_flops,
    trained_parameters,
    tuning_memory,
)
from jmedlora_utils.models.registry import Shape

SHAPES = {
    "llama": Shape("llama", layers=3, hidden=192, intermediate=512, heads=6, kv_heads=2, head_dim=32, vocab=512),
    "qwen3": Shape("qwen3", layers=3, hidden=192, intermediate=512, heads=6, kv_heads=2, head_dim=32, vocab=512),
    "gpt_neox": Shape("gpt_neox", layers=3, hidden=192, intermediate=512, heads=6, kv_heads=6, head_dim=32, vocab=512),
}
shapes = st.builds(
    lambda architecture, layers, heads, width, groups, vocab: Shape(
        architecture,
        layers,
        heads * width,
        2 * heads * width,
        heads,
        heads if architecture == "gpt_neox" else max(1, heads // groups),
        width,
        vocab,
    ),
    st.sampled_from(registry.ARCHITECTURES),
    st.integers(1, 96),
    st.integers(1, 64),
    st.sampled_from([32, 64, 128]),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(100, 200_000),
)


def config_of(shape: Shape) -> Any:
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 256,
        "tie_word_embeddings": shape.tied,
    }
    if shape.architecture == "gpt_neox":
        sizes |= {"use_parallel_residual": False, "rotary_pct": 1.0}
    else:
        sizes |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    return AutoConfig.for_model(shape.architecture, **sizes)


def make(shape: Shape, dtype: str = "float32", device: str = "cpu") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(shape), dtype=getattr(torch, dtype))


def adapted(model: Any, run: Tuning) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=run.rank, lora_dropout=run.dropout, target_modules=list(run.adapted), bias="none", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


# Exact counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", SHAPES)
def test_weight_bytes_equal_a_real_model(architecture: str, tied: bool, dtype: str):
    shape = replace(SHAPES[architecture], tied=tied)
    model = make(shape, dtype)
    assert load_bytes(shape, weight_bytes=4 if dtype == "float32" else 2) == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("name", [n for n, e in registry.entries().items() if e.kind == "base"])
def test_registry_shapes_equal_transformers_parameter_counts(name: str):
    shape = registry.resolve(name).shape
    assert shape is not None
    assert sum(p.numel() for p in make(shape, device="meta").parameters()) == shape.parameters()


@pytest.mark.parametrize("architecture", SHAPES)
def test_nf4_bytes_equal_bitsandbytes(architecture: str, tmp_path):
    from transformers import AutoModelForCausalLM

    from jmedlora_utils.models.loading import keep_4bit_layout, nf4_config
    from tests.live_bytes import resident_bytes

    shape = SHAPES[architecture]
    make(shape, "bfloat16").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16", quantization_config=nf4_config(), device_map={"": "cpu"})
    keep_4bit_layout(model)
    buffers = sum(b.nbytes for b in model.buffers())  # rotary frequencies: not counted by the planner
    assert resident_bytes(model) - buffers == load_bytes(shape, "nf4")


@pytest.mark.parametrize("elements", [64, 96 * 64, 64 * 256 + 64, 1000 * 512])
def test_nf4_bytes_of_one_tensor_equal_bitsandbytes(elements: int):
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(elements // 64, 64), compress_statistics=True, quant_type="nf4", blocksize=64)
    parts = (packed, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
    assert nf4_bytes(elements) == sum(t.nbytes for t in parts)


def test_the_papers_70b_adapter_has_828375040_parameters():
    shape = registry.resolve("llama-2-70b-chat").shape
    assert shape is not None
    assert adapter_parameters(shape, 64) == 828_375_040


def test_the_papers_70b_adapter_equals_peft_on_the_meta_device():
    shape = registry.resolve("llama-2-70b-chat").shape
    assert shape is not None
    import torch

    with torch.device("meta"):
        model = adapted(make(replace(shape, layers=2), "bfloat16", "meta"), Tuning(shape, rank=64))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) * shape.layers // 2 == 828_375_040


@pytest.mark.parametrize("targets", [("query_key_value",), ()])
def test_the_papers_opencalm_adapter_equals_peft(targets: tuple[str, ...]):
    shape = registry.resolve("open-calm-7b").shape
    assert shape is not None
    import torch

    run = Tuning(shape, rank=8, targets=targets)
    with torch.device("meta"):
        model = adapted(make(shape, "bfloat16", "meta"), run)
    assert trained_parameters(run) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_trained_embeddings_are_counted_as_peft_copies_them():
    from peft import LoraConfig, get_peft_model

    shape = SHAPES["llama"]
    config = LoraConfig(r=8, target_modules=list(shape.linears()), modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(make(shape), config)
    run = Tuning(shape, rank=8, embeddings=True)
    assert trained_parameters(run) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"])
def test_optimizer_bytes_equal_the_real_state(name: str):
    import torch

    sizes = [(192, 64), (8, 192), (300, 300)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    if name == "adamw_torch_fused":
        optimizer = torch.optim.AdamW(parameters, fused=True)
    else:
        import bitsandbytes

        kinds = {"adamw_bnb_8bit": "AdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}
        optimizer = getattr(bitsandbytes.optim, kinds[name])(parameters)
    optimizer.step()
    tables = {"step", "qmap1", "qmap2"}  # a counter, and two tables shared by all tensors
    found = sum(v.nbytes for state in optimizer.state.values() for k, v in state.items() if torch.is_tensor(v) and k not in tables)
    assert optimizer_bytes((a * b for a, b in sizes), name) == found


@pytest.mark.parametrize("architecture", SHAPES)
def test_cache_bytes_equal_the_real_cache(architecture: str):
    import torch

    shape = SHAPES[architecture]
    model = make(shape, "bfloat16").eval()
    with torch.inference_mode():
        cache = model(input_ids=torch.zeros(3, 20, dtype=torch.long), use_cache=True).past_key_values
    found = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(shape, 3, 20) == found


# The peak of a training step: measured on a CPU, where dropout masks, layer norms and NF4 products differ in a known way


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("architecture", "mixed", "dropout", "targets"),
    [
        ("llama", True, 0.0, ()),
        ("llama", True, 0.1, ()),
        ("llama", False, 0.0, ()),
        ("qwen3", True, 0.0, ()),
        ("gpt_neox", True, 0.0, ()),
        ("gpt_neox", False, 0.0, ()),
        ("gpt_neox", True, 0.05, ("query_key_value",)),
    ],
)
def test_the_peak_of_a_step_is_within_a_tenth(
    architecture: str, mixed: bool, dropout: float, targets: tuple[str, ...], checkpointing: bool
):
    import torch

    from tests.live_bytes import LiveBytes, resident_tensors

    run = Tuning(
        replace(SHAPES[architecture], layers=4),
        rank=8,
        targets=targets,
        micro_batch=4,
        length=64,
        checkpointing=checkpointing,
        dropout=dropout,
        mixed=mixed,
        accumulating=True,
        cuda=False,
    )
    model = adapted(make(run.shape, "bfloat16" if mixed else "float32"), run).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    ids = torch.randint(0, run.shape.vocab, (run.micro_batch, run.length))

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits = model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
        del logits
        loss.backward()

    step()  # gradients exist from here on, as while accumulating
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    live = LiveBytes([*resident_tensors(model), *gradients])
    with live:
        step()
    planned = tuning_memory(run)
    assert live.peak == pytest.approx(planned.activations + planned.work, rel=0.10)


# Properties


@given(shapes, st.sampled_from(["lora", "qlora"]), st.integers(1, 128), st.integers(1, 16), st.integers(1, 4096), st.booleans())
def test_more_of_anything_never_takes_less(shape: Shape, method: str, rank: int, micro: int, length: int, checkpointing: bool):
    run = Tuning(shape, method, rank, micro_batch=micro, length=length, checkpointing=checkpointing)
    total = tuning_memory(run).total
    for more in (
        replace(run, rank=rank + 1),
        replace(run, micro_batch=micro + 1),
        replace(run, length=length + 1),
        replace(run, dropout=0.1),
        replace(run, accumulating=True),
        replace(run, shape=replace(shape, layers=shape.layers + 1)),
    ):
        assert tuning_memory(more).total >= total


@given(shapes)
def test_nf4_takes_about_four_bits_a_linear_weight(shape: Shape):
    linear = shape.linear_parameters()
    bits = 8 * (load_bytes(shape, "nf4") - 2 * shape.other_parameters()) / linear
    assert bits >= 4.127 - 1e-9  # 4 + 8/64 + 32/(64 × 256), as in the QLoRA paper, and the tables
    assert bits <= 4.127 + 8 * 7 * shape.layers * 1200 / linear


@given(shapes, st.integers(1, 8), st.integers(1, 2048))
def test_the_cache_grows_with_every_token(shape: Shape, batch: int, length: int):
    assert cache_bytes(shape, batch, 2 * length) == 2 * cache_bytes(shape, batch, length) == cache_bytes(shape, 2 * batch, length)


@given(shapes, st.integers(1, 4096))
def test_checkpointing_costs_flops_and_full_tuning_six_a_parameter(shape: Shape, tokens: int):
    run = Tuning(shape, rank=8)
    assert step_flops(replace(run, checkpointing=True), tokens) > step_flops(run, tokens)
    matrices = shape.linear_parameters() + shape.vocab * shape.hidden
    assert step_flops(replace(run, method="full"), tokens) == 6 * matrices * tokens


@given(shapes, st.sampled_from(["lora", "qlora"]), st.sampled_from([1, 2, 4, 8, 12]), st.integers(1, 200))
def test_what_is_said_to_fit_fits(shape: Shape, method: str, batch: int, gigabytes: int):
    run, usable = Tuning(shape, method, 16, length=512), gigabytes * 10**9
    option = fit_tuning(run, batch, usable)
    if option is None:
        smallest = replace(run, micro_batch=1, checkpointing=True, accumulating=batch > 1, optimizer="paged_adamw_32bit")
        assert tuning_memory(smallest).total > usable
    else:
        assert tuning_memory(option).total <= usable
        assert batch % option.micro_batch == 0


def test_checkpointing_comes_only_when_one_row_does_not_fit_without_it():
    shape = registry.resolve("llama-2-70b-chat").shape
    assert shape is not None
    run = Tuning(shape, "qlora", 64, dropout=0.1)
    one = replace(run, accumulating=True)
    enough, short = tuning_memory(one).total, tuning_memory(one).total - 1
    assert fit_tuning(run, 8, enough).checkpointing is False
    assert fit_tuning(run, 8, short).checkpointing is True


def test_a_paged_state_may_leave_the_card():
    shape = SHAPES["llama"]
    kept, paged = (tuning_memory(Tuning(shape, optimizer=name)) for name in ("adamw_torch_fused", "paged_adamw_32bit"))
    assert paged.paged == kept.optimizer > 0
    assert kept.total - paged.total == kept.optimizer


def test_several_cards_divide_what_is_fixed():
    shape = registry.resolve("llama-2-70b-chat").shape
    assert shape is not None
    run = Tuning(shape, "qlora", 64, checkpointing=True)
    assert sharded_total(run, 1) == tuning_memory(run).total
    assert sharded_total(run, 8) < sharded_total(run, 4) < sharded_total(run, 2) < sharded_total(run, 1)


@pytest.mark.parametrize(("batch", "prompt", "new"), [(4, 100, 20), (8, 200, 4)])
@pytest.mark.parametrize("architecture", SHAPES)
def test_planned_peak_of_generation_is_the_measured_one(architecture: str, batch: int, prompt: int, new: int):
    import torch

    from tests.live_bytes import LiveBytes, resident_tensors

    shape = SHAPES[architecture]
    model = make(shape, "bfloat16").eval()
    ids = torch.randint(1, shape.vocab, (batch, prompt))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    live = LiveBytes(resident_tensors(model))
    with torch.inference_mode(), live:
        assert model.generate(input_ids=ids, **options).shape[1] == prompt + new
    planned = generation_memory(shape, batch=batch, prompt=prompt, new=new)
    assert live.peak == pytest.approx(planned.cache + planned.work, rel=0.10)


def test_generation_holds_weights_adapter_and_cache():
    shape = SHAPES["llama"]
    memory = generation_memory(shape, "nf4", batch=4, prompt=100, new=20, adapter=1000)
    assert (memory.weights, memory.adapter, memory.cache) == (load_bytes(shape, "nf4"), 4000, cache_bytes(shape, 4, 120))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dora"}, "method 'dora' is not one of"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' is not one of"),
        ({"targets": ("query_key_value",)}, "'query_key_value' is no linear module of llama; it has q_proj"),
    ],
)
def test_an_impossible_setting_is_refused(change: dict, message: str):
    with pytest.raises(JmedloraError, match=message):
        Tuning(SHAPES["llama"], **change)
    with pytest.raises(JmedloraError, match="quantisation 'int8'"):
        load_bytes(SHAPES["llama"], "int8")
