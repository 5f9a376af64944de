"""Memory from first principles, against the tensors of real tiny models."""

from dataclasses import replace
from typing import Any

import bitsandbytes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import memory, registry
from jmedlora_utils.models.loading import keep_4bit_layout, nf4_config
from jmedlora_utils.models.shape import ARCHITECTURES, Shape
from tests.memory_use import peak_during, resident_bytes

_SIZES = {"layers": 3, "hidden": 192, "intermediate": 512, "heads": 6, "head_dim": 32, "vocab": 512}
SHAPES = {name: Shape(name, kv_heads=6 if name == "gpt_neox" else 2, **_SIZES) for name in ARCHITECTURES}
LARGE = registry.resolve("llama-2-70b-chat").shape


@st.composite
def shapes(draw: Any) -> Shape:
    architecture, heads, width = draw(st.sampled_from(ARCHITECTURES)), draw(st.integers(1, 64)), draw(st.sampled_from([32, 64, 128]))
    kv_heads = heads if architecture == "gpt_neox" else max(1, heads // draw(st.sampled_from([1, 2, 4, 8])))
    layers, vocab = draw(st.integers(1, 96)), draw(st.integers(100, 200_000))
    hidden = heads * width
    return Shape(architecture, layers, hidden, 2 * hidden, heads, kv_heads, width, vocab, tied=draw(st.booleans()))


def make(shape: Shape, dtype: str = "float32", device: str = "cpu") -> Any:
    """A random model of these sizes."""
    sizes: dict[str, Any] = {"vocab_size": shape.vocab, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate}
    sizes |= {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "max_position_embeddings": 256}
    sizes["tie_word_embeddings"] = shape.tied
    if shape.architecture == "gpt_neox":
        sizes |= {"use_parallel_residual": False, "rotary_pct": 1.0}
    else:
        sizes |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.architecture, **sizes), dtype=getattr(torch, dtype))


def adapted(model: Any, run: memory.Tuning) -> Any:
    tables = ["embed_tokens", "lm_head"] if run.embeddings else None
    options = {"lora_dropout": run.dropout, "target_modules": list(run.adapted), "modules_to_save": tables, "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(r=run.rank, **options))


# Exact counts


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weight_bytes_and_cache_bytes_equal_a_real_model(architecture: str, tied: bool) -> None:
    shape = replace(SHAPES[architecture], tied=tied)
    model = make(shape, "bfloat16").eval()
    assert shape.load_bytes() == sum(p.nbytes for p in model.parameters())
    with torch.inference_mode():
        cache = model(input_ids=torch.zeros(3, 20, dtype=torch.long), use_cache=True).past_key_values
    assert memory.cache_bytes(shape, 3, 20) == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("name", [n for n, e in registry.entries().items() if e.kind == "base"])
def test_registry_shapes_equal_transformers_parameter_counts(name: str) -> None:
    shape = registry.resolve(name).shape
    assert shape is not None
    assert sum(p.numel() for p in make(shape, device="meta").parameters()) == shape.parameters()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nf4_bytes_equal_bitsandbytes(architecture: str, tmp_path) -> None:
    shape = SHAPES[architecture]
    make(shape, "bfloat16").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16", quantization_config=nf4_config(), device_map={"": "cpu"})
    keep_4bit_layout(model)
    buffers = sum(b.nbytes for b in model.buffers())  # rotary frequencies: not counted by the planner
    assert resident_bytes(model) - buffers == shape.load_bytes("nf4")


@pytest.mark.parametrize(
    "run",
    [
        memory.Tuning(replace(LARGE, layers=2), rank=64),
        memory.Tuning(registry.resolve("open-calm-7b").shape, targets=("query_key_value",)),
        memory.Tuning(registry.resolve("open-calm-7b").shape),
        memory.Tuning(SHAPES["llama"], embeddings=True),
    ],
    ids=["the paper's 70B, two layers", "the paper's OpenCALM", "OpenCALM, all layers", "embeddings too"],
)
def test_an_adapter_has_the_parameters_that_peft_trains(run: memory.Tuning) -> None:
    with torch.device("meta"):
        model = adapted(make(run.shape, "bfloat16", "meta"), run)
    assert memory.trained_parameters(run) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"])
def test_optimizer_bytes_equal_the_real_state(name: str) -> None:
    sizes = [(192, 64), (8, 192), (300, 300)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in sizes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    kinds = {"adamw_bnb_8bit": "AdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}
    optimizer = getattr(bitsandbytes.optim, kinds[name])(parameters) if name in kinds else torch.optim.AdamW(parameters, fused=True)
    optimizer.step()
    tables = {"step", "qmap1", "qmap2"}  # a counter, and two tables shared by all tensors
    found = sum(v.nbytes for state in optimizer.state.values() for k, v in state.items() if torch.is_tensor(v) and k not in tables)
    assert memory.optimizer_bytes((a * b for a, b in sizes), name) == found


# Peaks: measured on a CPU, where dropout masks, layer norms and NF4 products differ in a known way


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("architecture", "mixed", "dropout", "targets"),
    [
        *(("llama", True, 0.0, ()), ("llama", True, 0.1, ()), ("llama", False, 0.0, ()), ("qwen3", True, 0.0, ())),
        *(("gemma3_text", True, 0.0, ()), ("gemma3_text", False, 0.0, ()), ("gpt_neox", True, 0.0, ()), ("gpt_neox", False, 0.0, ())),
        ("gpt_neox", True, 0.05, ("query_key_value",)),
    ],
)
def test_the_peak_of_a_step_is_within_a_tenth(architecture, mixed, dropout, targets, checkpointing) -> None:
    settings = {"micro_batch": 4, "length": 64, "accumulating": True, "cuda": False}
    shape = replace(SHAPES[architecture], layers=4)
    run = memory.Tuning(shape, targets=targets, checkpointing=checkpointing, dropout=dropout, mixed=mixed, **settings)
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
    planned = memory.tuning_memory(run)
    assert peak_during(step)[1] == pytest.approx(planned.activations + planned.work, rel=0.10)


@pytest.mark.parametrize(("batch", "prompt", "new"), [(4, 100, 20), (8, 200, 4)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_peak_of_generation_is_within_a_tenth(architecture: str, batch: int, prompt: int, new: int) -> None:
    shape = SHAPES[architecture]
    model = make(shape, "bfloat16").eval()
    ids = torch.randint(1, shape.vocab, (batch, prompt))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    planned = memory.generation_memory(shape, batch=batch, prompt=prompt, new=new)
    with torch.inference_mode():
        answers, peak = peak_during(lambda: model.generate(input_ids=ids, **options))
    assert answers.shape[1] == prompt + new
    assert peak == pytest.approx(planned.cache + planned.work, rel=0.10)


# Properties


@given(shapes(), st.sampled_from(["lora", "qlora"]), st.integers(1, 128), st.integers(1, 16), st.integers(1, 4096), st.booleans())
def test_more_of_anything_never_takes_less(shape: Shape, method: str, rank: int, micro: int, length: int, checkpointing: bool) -> None:
    run = memory.Tuning(shape, method, rank, micro_batch=micro, length=length, checkpointing=checkpointing)
    more = [{"rank": rank + 1}, {"micro_batch": micro + 1}, {"length": length + 1}, {"dropout": 0.1}, {"accumulating": True}]
    more.append({"shape": replace(shape, layers=shape.layers + 1)})
    assert all(memory.tuning_memory(replace(run, **change)).total >= memory.tuning_memory(run).total for change in more)


@given(shapes(), st.sampled_from(["lora", "qlora"]), st.sampled_from([1, 2, 4, 8, 12]), st.integers(1, 200))
def test_what_is_said_to_fit_fits(shape: Shape, method: str, batch: int, gigabytes: int) -> None:
    run, usable = memory.Tuning(shape, method, 16, length=512), gigabytes * 10**9
    option = memory.fit_tuning(run, batch, usable)
    if option is None:
        smallest = replace(run, micro_batch=1, checkpointing=True, accumulating=batch > 1, optimizer="paged_adamw_32bit")
        assert memory.tuning_memory(smallest).total > usable
    else:
        assert memory.tuning_memory(option).total <= usable and batch % option.micro_batch == 0


def test_a_paged_optimizer_state_leaves_the_card_and_several_cards_divide_what_is_fixed() -> None:
    run = memory.Tuning(LARGE, "qlora", 64, checkpointing=True)
    kept, paged = memory.tuning_memory(run), memory.tuning_memory(replace(run, optimizer="paged_adamw_32bit"))
    assert kept.total - paged.total == kept.optimizer > 0 == paged.optimizer
    totals = [memory.sharded_total(run, cards) for cards in (8, 4, 2, 1)]
    assert totals == sorted(totals) and totals[-1] == kept.total


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "dora"}, "method 'dora' is not one of"),
        ({"optimizer": "sgd"}, "optimizer 'sgd' is not one of"),
        ({"targets": ("query_key_value",)}, "'query_key_value' is no linear module of llama; it has q_proj"),
    ],
)
def test_an_impossible_setting_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        memory.Tuning(SHAPES["llama"], **change)
    with pytest.raises(JmedloraError, match="quantisation 'int8'"):
        SHAPES["llama"].load_bytes("int8")
