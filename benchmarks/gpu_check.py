"""GPU check: the paper's two settings on this machine's card, with weights made on the spot: memory against the planner, and speed.

    python benchmarks/gpu_check.py            # the card: OpenCALM-7B with LoRA, Llama-2-70B with NF4 QLoRA
    python benchmarks/gpu_check.py --tiny     # a CPU: the same code on tiny shapes, in seconds; proves the script, says nothing of speed

Needs torch, transformers, peft, accelerate and pandas; bitsandbytes for the 70B case, which is left out without it. Nothing is downloaded:
weights are random, so losses and answers mean nothing. Writes one record; ends with status 1 where a measured peak is further than
10 % from the planner's.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jmedlora_utils.core.errors import JmedloraError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.data import Subset
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback, set_seed

from jmedlora_utils.core.records import Meter, Record, write_record
from jmedlora_utils.models import gpus, loading, memory, registry
from jmedlora_utils.models.shape import Shape
from jmedlora_utils.tuning import encoding, training
from jmedlora_utils.tuning.trainer import ResponseTrainer
from tests.memory_use import peak_during, resident_bytes

Result = TypeVar("Result")
TOLERANCE = 0.10
TINY = {
    "gpt_neox": Shape("gpt_neox", layers=3, hidden=192, intermediate=768, heads=6, kv_heads=6, head_dim=32, vocab=512),
    "llama": Shape("llama", layers=3, hidden=256, intermediate=704, heads=8, kv_heads=2, head_dim=32, vocab=512),
}


@dataclass(frozen=True)
class Case:
    """One setting of journal Table 1.

    Attributes:
        base: Registry name.
        method: `lora` or `qlora`.
        rank, alpha, dropout, targets, learning_rate: Of the adapter.
        optimizer: Of bitsandbytes; torch's own where that is missing.
        batch: Rows of one optimizer step.
        source, target: Tokens of prompt and answer of every row: the paper's limits, so the heaviest step there can be.
    """

    base: str
    method: str
    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    learning_rate: float
    optimizer: str = "paged_adamw_32bit"
    batch: int = 8
    source: int = 512
    target: int = 512


CASES = (
    Case("open-calm-7b", "lora", 8, 32.0, 0.05, ("query_key_value",), 5e-5),
    Case("llama-2-70b-chat", "qlora", 64, 16.0, 0.1, (), 2e-4),
)


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        self._synchronise = synchronise
        self._start = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._synchronise()
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._synchronise()
        self.seconds.append(time.perf_counter() - self._start)


class UnsavedTrainer(ResponseTrainer):
    """The project's trainer without its checkpoints."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        return


def config_of(shape: Shape) -> Any:
    """A transformers configuration with these sizes."""
    sizes: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if shape.architecture == "gpt_neox":
        sizes |= {"use_parallel_residual": False, "rotary_pct": 1.0}
    else:
        sizes |= {"num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    return AutoConfig.for_model(shape.architecture, **sizes)


def make_model(shape: Shape, method: str, device: torch.device) -> Any:
    """A random bfloat16 model made on the device, tensor by tensor; for `qlora` each linear module of the blocks is quantised at once.

    So the peak stays at the finished model and one weight, and a 70B model fits a card that its bfloat16 weights do not.
    """
    config = config_of(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    inner = set(shape.linears())
    for name, module in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if "Rotary" in type(module).__name__:
            setattr(model.get_submodule(parent), leaf, type(module)(config=config).to(device))
        elif method == "qlora" and leaf in inner:
            setattr(model.get_submodule(parent), leaf, _nf4(module, device))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                fresh = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                filled = fresh.normal_(0, 0.02) if parameter.dim() > 1 else fresh.fill_(float(key == "weight"))
                setattr(module, key, torch.nn.Parameter(filled, requires_grad=False))
    if shape.tied:
        model.tie_weights()
    model.is_loaded_in_4bit = method == "qlora"
    loading.keep_4bit_layout(model)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise RuntimeError(f"{left[0]} was not made on {device}; make_model does not know this architecture")
    return model


def _nf4(module: Any, device: torch.device) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(
        module.in_features,
        module.out_features,
        bias=module.bias is not None,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = torch.empty(module.weight.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
    made.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made).to(device)
    if module.bias is not None:
        made.bias = torch.nn.Parameter(torch.zeros(module.bias.shape, dtype=torch.bfloat16, device=device), requires_grad=False)
    return made


def settings_of(case: Case, option: memory.Tuning, steps: int) -> training.TuneSettings:
    """The project's tuning settings for a case, with the micro-batch and checkpointing that the planner chose."""
    return training.TuneSettings(
        base=case.base,
        method=case.method,
        rank=case.rank,
        alpha=case.alpha,
        dropout=case.dropout,
        target_modules=list(case.targets),
        learning_rate=case.learning_rate,
        schedule="constant",
        optimizer=option.optimizer,
        batch_size=option.micro_batch,
        gradient_accumulation=case.batch // option.micro_batch,
        max_steps=steps,
        max_length=case.source + case.target,
        dtype="bfloat16",
        gradient_checkpointing=option.checkpointing,
        device="auto" if option.cuda else "cpu",
    )


def train(case: Case, option: memory.Tuning, model: Any, steps: int, folder: Path, synchronise: Callable[[], None]) -> list[float]:
    """Runs optimizer steps on random rows with the project's trainer; returns the seconds of each."""
    settings = settings_of(case, option, steps)
    generator = torch.Generator().manual_seed(1)
    length = case.source + case.target
    # One token more than the model reads: a row's last token is predicted, never read.
    ids = torch.randint(0, option.shape.vocab, (case.batch, length + 1), generator=generator).tolist()
    rows = [encoding.Row(tuple(row), case.source + 1) for row in ids]
    clock = Clock(synchronise)
    trainer = UnsavedTrainer(
        model=model,
        args=training.training_arguments(settings, folder, cpu=not option.cuda),
        train_dataset=Subset(rows, list(range(case.batch)) * steps),
        keep_steps=(),
        checkpoint_every=0,
        collator=encoding.Collator(pad_id=0),
        callbacks=[clock],
    )
    try:
        trainer.train()
    finally:
        trainer.detach()
    return clock.seconds


def generate(model: Any, shape: Shape, prompts: int, length: int, new: int, synchronise: Callable[[], None]) -> float:
    """New tokens per second of batched greedy generation that does not stop early."""
    device = next(model.parameters()).device
    ids = torch.randint(1, shape.vocab, (prompts, length), device=device)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    model.eval()
    model.gradient_checkpointing_disable()
    model.config.use_cache = True
    with torch.inference_mode():
        model.generate(input_ids=ids, max_new_tokens=2, **options)
        synchronise()
        start = time.perf_counter()
        out = model.generate(input_ids=ids, max_new_tokens=new, **options)
        synchronise()
    return (out.shape[1] - length) * prompts / (time.perf_counter() - start)


def matmul_flops(device: torch.device, size: int, synchronise: Callable[[], None]) -> float:
    """Rate of a square matrix product, FLOP/s: bfloat16 on a GPU, float32 on a CPU; median of ten after three."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(13):
        synchronise()
        start = time.perf_counter()
        a @ b
        synchronise()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def measured(model: Any, work: Callable[[], Result]) -> tuple[Result, int]:
    """What a piece of work returns, and the peak bytes while it ran, the model's included."""
    if next(model.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        return work(), int(torch.cuda.max_memory_allocated())
    result, peak = peak_during(work)
    return result, peak + resident_bytes(model)


def run_case(
    case: Case, shape: Shape, usable: int, steps: int, prompts: int, new: int, device: torch.device, rate: float
) -> dict[str, Any]:
    """Builds, tunes and generates; returns what was measured beside what the planner said.

    Raises:
        JmedloraError: No setting fits.
    """
    cuda = device.type == "cuda"
    synchronise = torch.cuda.synchronize if cuda else lambda: None
    wanted = memory.Tuning(
        shape,
        case.method,
        case.rank,
        case.targets,
        length=case.source + case.target,
        supervised=case.target,
        optimizer=case.optimizer,
        dropout=case.dropout,
        cuda=cuda,
    )
    option = memory.fit_tuning(wanted, case.batch, usable)
    if option is None:
        raise JmedloraError(f"{case.base}, {case.method}: no setting fits {usable / 1e9:.1f} GB")
    predicted = memory.tuning_memory(option)
    from peft import get_peft_model

    set_seed(1)
    start = time.perf_counter()
    model = make_model(shape, case.method, device)
    built = time.perf_counter() - start
    weights = resident_bytes(model)
    model = get_peft_model(model, lora_config(case, shape))
    model.train()
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak = measured(model, lambda: train(case, option, model, steps, Path(folder), synchronise))
    tokens = case.batch * (case.source + case.target)
    step = statistics.median(seconds[1:])
    model.zero_grad()
    speed, generation_peak = measured(model, lambda: generate(model, shape, prompts, case.source, new, synchronise))
    quantisation, adapter = "nf4" if case.method == "qlora" else "none", memory.trained_parameters(option)
    generation = memory.generation_memory(shape, quantisation, prompts, case.source, new, adapter)
    return {
        "base": case.base,
        "method": case.method,
        "micro_batch": option.micro_batch,
        "checkpointing": option.checkpointing,
        "optimizer": option.optimizer,
        "parameters": shape.parameters(),
        "trained_parameters": memory.trained_parameters(option),
        "weights_bytes": weights,
        "weights_bytes_planned": predicted.weights,
        "peak_bytes": peak,
        "peak_bytes_planned": predicted.total,
        "planned": asdict(predicted),
        "peak_difference": round(predicted.total / peak - 1, 4),
        "build_seconds": round(built, 3),
        "step_seconds": [round(s, 4) for s in seconds],
        "tokens_per_second": round(tokens / step, 1),
        "model_flops_utilisation": round(memory.step_flops(replace(option, checkpointing=False), tokens) / step / rate, 4),
        "hardware_flops_utilisation": round(memory.step_flops(option, tokens) / step / rate, 4),
        "generation_peak_bytes": generation_peak,
        "generation_peak_bytes_planned": generation.total,
        "generation_peak_difference": round(generation.total / generation_peak - 1, 4),
        "generation_prompts": prompts,
        "generation_tokens_per_second": round(speed, 1),
    }


def lora_config(case: Case, shape: Shape) -> Any:
    """The peft configuration of a case."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=case.rank,
        lora_alpha=case.alpha,
        lora_dropout=case.dropout,
        bias="none",
        target_modules=list(case.targets or shape.linears()),
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases and writes the record; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU: a test of this script")
    parser.add_argument("--only", choices=[case.base for case in CASES], help="one case")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps; the first is not timed")
    parser.add_argument("--out", type=Path, default=gpus.MEASURED, help="folder of the record")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first is warm-up")
    if not options.tiny and not torch.cuda.is_available():
        print("error: torch sees no GPU; run this on the machine with the card, or use --tiny", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.tiny else "cuda:0")
    card = 0 if options.tiny else torch.cuda.get_device_properties(0).total_memory
    usable = 1 << 40 if options.tiny else replace(gpus.CARDS[80], bytes=card).usable()
    meter = Meter()
    synchronise = (lambda: None) if options.tiny else torch.cuda.synchronize
    rate = matmul_flops(device, 512 if options.tiny else 8192, synchronise)
    print(f"matrix product: {rate / 1e12:.1f} TFLOP/s", flush=True)
    cases, left_out = [], {}
    for case in CASES:
        if options.only and case.base != options.only:
            continue
        if case.method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
            left_out[case.base] = "bitsandbytes is not installed"
            continue
        if importlib.util.find_spec("bitsandbytes") is None:
            case = replace(case, optimizer="adamw_torch_fused")
        shape = registry.resolve(case.base).shape
        assert shape is not None
        if options.tiny:
            shape, case = TINY[shape.architecture], replace(case, rank=8, source=32, target=32)
        prompts, new = 4 if options.tiny else 16, 64
        try:
            with meter.stage(case.base):
                found = run_case(case, shape, usable, options.steps, prompts, new, device, rate)
        except JmedloraError as error:
            left_out[case.base] = str(error)
            continue
        finally:
            if not options.tiny:
                torch.cuda.empty_cache()
        cases.append(found)
        print(
            f"{case.base}, {case.method}, micro-batch {found['micro_batch']}, checkpointing {found['checkpointing']}: "
            f"peak {found['peak_bytes'] / 1e9:.3f} GB, planned {found['peak_bytes_planned'] / 1e9:.3f} "
            f"({found['peak_difference']:+.1%}); {found['tokens_per_second']:,.0f} tokens/s, "
            f"MFU {found['model_flops_utilisation']:.1%}; generation {found['generation_tokens_per_second']:,.0f} tokens/s, "
            f"peak {found['generation_peak_bytes'] / 1e9:.3f} GB, planned {found['generation_peak_bytes_planned'] / 1e9:.3f}",
            flush=True,
        )
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", flush=True)
    name = "tiny" if options.tiny else re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(0).lower()).strip("-")
    record = Record(
        kind="benchmark",
        name=f"gpu_check__{name}",
        preset="smoke" if options.tiny else "paper",
        seed=1,
        config={"card_bytes": card, "steps": options.steps, "tolerance": TOLERANCE, "left_out": left_out},
        metrics={"matmul_flops": rate, "cases": cases},
        **meter.fields(),
    )
    print(f"wrote {write_record(options.out, record)}")
    far = [case["base"] for case in cases if max(abs(case["peak_difference"]), abs(case["generation_peak_difference"])) > TOLERANCE]
    if far or not cases:
        print(f"error: {', '.join(far) or 'no case ran'}: measured and planned peak differ by more than {TOLERANCE:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
