"""Planner: what a preset takes before it starts: memory, time and disk of each run, and what each card can do with it.

`python -m jmedlora_utils.models.planner --preset paper` prints the matrix and ends with status 1 where a run cannot fit the card;
`make plan PRESET=paper` calls it. Neither torch nor a GPU is needed. Memory is counted (`memory.py`); time needs a rate, measured by
`benchmarks/gpu_check.py` or assumed, and says which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, RecordError, read_record
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.models import registry
from jmedlora_utils.models.launch_config import read_launch_config
from jmedlora_utils.models.memory import (
    Memory,
    Tuning,
    adapter_parameters,
    fit_tuning,
    generation_memory,
    load_bytes,
    sharded_total,
    step_flops,
    trained_parameters,
    tuning_memory,
)
from jmedlora_utils.models.registry import ModelEntry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MIB = 1 << 20
GIB = 1 << 30
GB = 1e9

# What the CUDA context, library workspaces and fragmentation take beyond the tensors. An allowance, not a derivation.
RESERVE_BYTES = GIB
RESERVE_SHARE = 0.04
CLASS_MARGIN = 0.1  # of a card's memory, see `card_class`

# Only for times without a measured rate.
ASSUMED_MFU = 0.25
ASSUMED_BANDWIDTH_SHARE = 0.3
TOKENS_PER_RECORD = 256
TOKENS_PER_PROMPT = 300
TOKENS_PER_ANSWER = 64
LONGEST_PROMPT = 1024
# Text questions with five choices, by year of IgakuQA (the counts of jungokasai/IgakuQA, 1,455 in all).
IGAKUQA_QUESTIONS = {2018: 284, 2019: 292, 2020: 284, 2021: 298, 2022: 297}
JJSIMQA_QUESTIONS = 460

# The tables of notebook 42: the paper's batch, and about as many steps as its shortest run.
BATCH, STEPS = 8, 1000

MEASURED = paths.RESULTS / "gpu"


@dataclass(frozen=True)
class Card:
    """One kind of accelerator.

    Attributes:
        name: As it is sold.
        bytes: Memory as the driver reports it.
        flops: Dense bfloat16 matrix rate of the data sheet, FLOP/s; only for times without a measured rate.
        bandwidth: Memory bandwidth of the data sheet, bytes/s; likewise.
    """

    name: str
    bytes: int
    flops: float
    bandwidth: float

    def usable(self) -> int:
        """Bytes left for tensors."""
        return int(self.bytes * (1 - RESERVE_SHARE)) - RESERVE_BYTES


CARDS = {
    24: Card("RTX 4090, 24 GB", 24564 * MIB, 165e12, 1.008e12),
    48: Card("RTX A6000, 48 GB", 49140 * MIB, 155e12, 0.768e12),
    80: Card("A100, 80 GB", 81920 * MIB, 312e12, 2.039e12),
    141: Card("H200, 141 GB", 143771 * MIB, 989e12, 4.8e12),
}


@dataclass(frozen=True)
class PlannedRun:
    """One notebook run of a preset, planned.

    Attributes:
        run: Name of the run.
        step: `tune` or `evaluate`.
        base: Name of the base.
        bytes: Peak memory with the preset's own settings.
        best: For each card (its key in `CARDS`), the settings that fit, in words; None where nothing does.
        fits: Whether the preset's own settings fit the chosen card.
        seconds: On the chosen card.
        basis: Where the rate behind `seconds` comes from: `measured` on this base and card; `scaled` from another base on this card,
            tuned by the same method; `assumed`.
        download: Bytes to fetch for this run alone.
        base_download: Those of them that are the base, which other runs on it share.
        disk: Bytes that the run writes.
        notes: What has to be done before it starts.
    """

    run: str
    step: str
    base: str
    bytes: int
    best: dict[int, str | None]
    fits: bool
    seconds: float
    basis: str
    download: int
    base_download: int
    disk: int
    notes: tuple[str, ...] = ()


def plan_preset(name: str, card: int = 80, measured: Path = MEASURED) -> list[PlannedRun]:
    """Plans every run of a preset; bases that the preset trains itself, and those named by `unplanned`, are left out.

    Args:
        name: Name of the preset.
        card: Key of `CARDS`: the card it is to run on.
        measured: Folder with records of `benchmarks/gpu_check.py`.

    Raises:
        JmedloraError: The card is not known, or a run asks for modules that its base does not have.
        JmedloraError: The preset is not known or not valid.
        JmedloraError: A base is not known.
    """
    if card not in CARDS:
        raise JmedloraError(f"no card of {card} GB is known; choose one of {', '.join(map(str, CARDS))}")
    preset = presets.load_preset(name)
    rates, flops = read_rates(measured), read_flops(measured)
    planned: list[PlannedRun] = []
    for run, base in _published(preset):
        if base.shape is None:
            continue
        if run.tune is not None:
            planned.append(_plan_tuning(run, base, card, rates, flops))
        planned.append(_plan_evaluation(run, base, card, rates, _years(preset)))
    return planned


def _years(preset: presets.Preset) -> list[int]:
    """The years of IgakuQA that notebook 11 of the preset prepares."""
    notebook = "11_prepare_exams"
    return (presets.declared_parameters(notebook) | preset.prepare.get(notebook, {}))["years"]


def unplanned(name: str) -> list[str]:
    """Runs of a preset that `plan_preset` leaves out because the sizes of their base are not known, each with its base."""
    return [f"{run.name} (base {base.name})" for run, base in _published(presets.load_preset(name)) if base.shape is None]


def _published(preset: presets.Preset) -> list[tuple[presets.Run, ModelEntry]]:
    """The runs whose base the preset does not train itself, with what is known of that base."""
    found, made = [], preset.bases_made()
    for run in preset.runs:
        if run.tune is not None:
            base = (presets.declared_parameters(presets.TUNE_NOTEBOOK) | run.tune)["base"]
        else:
            base = (presets.declared_parameters(presets.EVALUATE_NOTEBOOK) | run.evaluate)["base"]
        if base not in made:
            found.append((run, registry.resolve(base)))
    return found


def tuning_of(parameters: dict[str, Any], base: ModelEntry) -> Tuning:
    """The memory settings behind the parameters of notebook 20.

    Raises:
        JmedloraError: The sizes of the base are not known.
    """
    if base.shape is None:
        raise JmedloraError(f"{base.name}: its sizes are not known; only {', '.join(registry.ARCHITECTURES)} can be planned")
    parameters = with_expert(parameters, base.name)
    method = parameters["method"]
    return Tuning(
        shape=base.shape,
        method=method,
        rank=parameters["rank"],
        targets=tuple(parameters["target_modules"]) or base.lora_targets,
        embeddings=parameters.get("train_embeddings", False),
        optimizer=parameters.get("optimizer", "adamw_torch_fused"),
        micro_batch=parameters["batch_size"],
        length=parameters["max_length"],
        checkpointing=parameters.get("gradient_checkpointing", False),
        accumulating=parameters.get("gradient_accumulation", 1) > 1,
        dropout=parameters.get("dropout", 0.0),
        mixed=parameters.get("dtype", "float32") == "bfloat16",
        weight_bytes=2 if parameters.get("dtype", "float32") == "bfloat16" else 4,
    )


def in_words(run: Tuning) -> str:
    """The settings that trade time for memory."""
    paged = ", paged optimizer" if run.optimizer.startswith("paged") else ""
    return f"batch {run.micro_batch}{', checkpointing' if run.checkpointing else ''}{paged}"


def read_rates(folder: Path = MEASURED) -> dict[tuple[str, str, int], float]:
    """Measured tokens per second by (registry name, `tune` or `generate`, card key), from the records of `gpu_check.py`.

    Raises:
        RecordError: A record cannot be read.
    """
    rates: dict[tuple[str, str, int], float] = {}
    for card, record in _checks(folder):
        for case in record.metrics.get("cases", []):
            rates[case["base"], "tune", card] = case["tokens_per_second"]
            rates[case["base"], "generate", card] = case["generation_tokens_per_second"]
    return rates


def read_flops(folder: Path = MEASURED) -> dict[tuple[str, int], float]:
    """FLOP/s that tuning reached by (`lora` or `qlora`, card key), recomputation counted; the lowest of several bases.

    Raises:
        RecordError: A record cannot be read.
    """
    found: dict[tuple[str, int], float] = {}
    for card, record in _checks(folder):
        for case in record.metrics.get("cases", []):
            reached = case["hardware_flops_utilisation"] * record.metrics["matmul_flops"]
            found[case["method"], card] = min(reached, found.get((case["method"], card), reached))
    return found


def _checks(folder: Path) -> Iterator[tuple[int, Record]]:
    """Records of `gpu_check.py` on a card of a known kind, with its key."""
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        if record.kind == "benchmark" and record.preset != "smoke" and (card := card_class(record.config.get("card_bytes", 0))):
            yield card, record


def tuning_seconds(
    base: str, run: Tuning, tokens: float, card: int, rates: dict[tuple[str, str, int], float], flops: dict[tuple[str, int], float]
) -> tuple[float, str]:
    """Seconds of tuning over `tokens` real tokens, and the basis as in `PlannedRun`.

    Args:
        base: Registry name.
        run: The settings.
        tokens: Real tokens, over all steps.
        card: Key of `CARDS`.
        rates: From `read_rates`.
        flops: From `read_flops`.
    """
    if rate := rates.get((base, "tune", card)):
        return tokens / rate, "measured"
    reached = flops.get((run.method, card))
    return step_flops(run, 1) * tokens / (reached or ASSUMED_MFU * CARDS[card].flops), "scaled" if reached else "assumed"


def generation_seconds(base: ModelEntry, quantisation: str, prompts: int, batch: int, card: Card) -> float:
    """Seconds to answer `prompts` questions: reading them at the assumed matrix rate, then one pass over the weights a token."""
    assert base.shape is not None
    reading = 2 * base.shape.parameters() * TOKENS_PER_PROMPT * prompts / (ASSUMED_MFU * card.flops)
    passes = TOKENS_PER_ANSWER * prompts / batch
    return reading + passes * load_bytes(base.shape, quantisation) / (ASSUMED_BANDWIDTH_SHARE * card.bandwidth)


def _plan_tuning(
    run: presets.Run, base: ModelEntry, card: int, rates: dict[tuple[str, str, int], float], flops: dict[tuple[str, int], float]
) -> PlannedRun:
    parameters = with_expert(presets.declared_parameters(presets.TUNE_NOTEBOOK) | (run.tune or {}), run.name)
    wanted = tuning_of(parameters, base)
    rows = parameters["batch_size"] * parameters.get("gradient_accumulation", 1)
    best: dict[int, str | None] = {}
    for key, kind in CARDS.items():
        option = fit_tuning(wanted, rows, kind.usable())
        best[key] = in_words(option) if option else _several(wanted, kind)
    launch_config = parameters.get("launch_config")
    sharded = bool(launch_config) and read_launch_config(launch_config).sharded
    need = sharded_total(wanted, parameters["num_processes"]) if sharded else tuning_memory(wanted).total
    # Of one process: several read as many tokens side by side.
    tokens = parameters["max_steps"] * rows * min(TOKENS_PER_RECORD, parameters["max_length"])
    seconds, basis = tuning_seconds(base.name, wanted, tokens, card, rates, flops)
    trained = trained_parameters(wanted)
    kept = len({*parameters["save_steps"], parameters["max_steps"]})
    return PlannedRun(
        run=run.name,
        step="tune",
        base=base.name,
        bytes=need,
        best=best,
        fits=need <= CARDS[card].usable(),
        seconds=seconds,
        basis=basis,
        download=base.download_bytes(),
        base_download=base.download_bytes(),
        disk=kept * 4 * trained + 8 * trained,
        notes=_notes(base),
    )


def _plan_evaluation(
    run: presets.Run, base: ModelEntry, card: int, rates: dict[tuple[str, str, int], float], years: Sequence[int]
) -> PlannedRun:
    parameters = presets.declared_parameters(presets.EVALUATE_NOTEBOOK) | run.evaluate
    assert base.shape is not None
    quantisation = parameters["quantisation"]
    if quantisation == "auto":
        quantisation = "nf4" if run.tune and run.tune.get("method") == "qlora" else "none"
    notes, download, adapter = list(_notes(base)), base.download_bytes(), 0
    if run.tune is not None and parameters["adapter"] == run.name:
        tune = presets.declared_parameters(presets.TUNE_NOTEBOOK) | run.tune
        adapter = adapter_parameters(base.shape, tune["rank"], tuple(tune["target_modules"]) or base.lora_targets)
    elif parameters["adapter"]:
        entry = registry.resolve(parameters["adapter"])
        notes += _notes(entry)
        download += entry.download_bytes()
        adapter = adapter_parameters(base.shape, entry.rank, entry.lora_targets)

    def memory(batch: int) -> Memory:
        assert base.shape is not None
        return generation_memory(base.shape, quantisation, batch, LONGEST_PROMPT, TOKENS_PER_ANSWER, adapter)

    batch = parameters["batch_size"]
    sizes = sorted({batch, *(2**n for n in range(8) if 2**n < batch)}, reverse=True)
    best = {key: next((f"batch {n}" for n in sizes if memory(n).total <= kind.usable()), None) for key, kind in CARDS.items()}
    questions = sum(parameters["limit"] or exam_questions(exam, years) for exam in parameters["exams"])
    prompts = questions * len(parameters["steps"]) * len(parameters["shots"])
    rate = rates.get((base.name, "generate", card))
    return PlannedRun(
        run=run.name,
        step="evaluate",
        base=base.name,
        bytes=memory(batch).total,
        best=best,
        fits=memory(batch).total <= CARDS[card].usable(),
        seconds=prompts * TOKENS_PER_ANSWER / rate if rate else generation_seconds(base, quantisation, prompts, batch, CARDS[card]),
        basis="measured" if rate else "assumed",
        download=download,
        base_download=base.download_bytes(),
        disk=0,
        notes=tuple(notes),
    )


def _several(run: Tuning, card: Card) -> str | None:
    smallest = replace(run, micro_batch=1, checkpointing=True, accumulating=True)
    for cards in (2, 4, 8):
        if sharded_total(smallest, cards) <= card.usable():
            return f"{cards} cards (FSDP)"
    return None


def _notes(entry: ModelEntry) -> tuple[str, ...]:
    found = []
    if not entry.local and not entry.revision:
        found.append(f"pin {entry.name}: its revision is unknown")
    if entry.gated:
        found.append(f"{entry.name} is gated: HF_TOKEN")
    return tuple(found)


def plan_frame(planned: Sequence[PlannedRun], card: int) -> pd.DataFrame:
    """The matrix as a table, one row per run and step; sizes in GB (10^9 bytes)."""
    import pandas as pd

    rows = []
    for item in planned:
        row: dict[str, Any] = {"run": item.run, "step": item.step, "base": item.base, "GB as set": round(item.bytes / GB, 1)}
        row |= {f"{key} GB card": item.best[key] or "no" for key in CARDS}
        row[f"hours on {card} GB"] = f"{item.seconds / 3600:.1f}{'' if item.basis == 'measured' else f' ({item.basis})'}"
        row |= {"fetch GB": round(item.download / GB, 1), "write GB": round(item.disk / GB, 1)}
        rows.append(row)
    return pd.DataFrame(rows)


def refusals(planned: Sequence[PlannedRun], card: int) -> list[str]:
    """What cannot run on the chosen card as the preset sets it, each with the mend."""
    kind = CARDS[card]
    found = []
    for item in planned:
        if item.fits:
            continue
        mend = item.best[card]
        advice = f"it would fit with {mend}" if mend else "no setting helps; take a larger card or a smaller base"
        found.append(f"{item.run}, {item.step}: needs {item.bytes / GB:.1f} GB, {kind.name} leaves {kind.usable() / GB:.1f}; {advice}")
    return found


def memory_frame(names: Sequence[str] = ("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat"), **settings: Any) -> pd.DataFrame:
    """Where the memory of a tuning step goes, one row per model and method, in GB, at micro-batch 1 with checkpointing.

    Args:
        names: Registry names.
        settings: Fields of `memory.Tuning` that replace the defaults here (rank 64, every linear module, 1,024 tokens, dropout 0.1).
    """
    import pandas as pd

    rows = []
    for name, method, run in _grid(names, {"checkpointing": True, "accumulating": True} | settings):
        memory = tuning_memory(run)
        parts = {part: getattr(memory, part) / GB for part in ("weights", "adapter", "gradients", "optimizer", "activations", "work")}
        fits = {f"fits {key} GB": memory.total <= card.usable() for key, card in CARDS.items()}
        rows.append({"model": name, "method": method} | parts | {"total": memory.total / GB} | fits)
    return pd.DataFrame(rows)


def card_frame(names: Sequence[str] = ("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat"), **settings: Any) -> pd.DataFrame:
    """What each card can do with a batch of `BATCH`, one row per model and method; the fastest settings that fit, in words.

    Args:
        names: Registry names.
        settings: As in `memory_frame`.
    """
    import pandas as pd

    rows = []
    for name, method, run in _grid(names, settings):
        row = {"model": name, "method": method}
        for key, card in CARDS.items():
            option = fit_tuning(run, BATCH, card.usable())
            row[f"{key} GB"] = in_words(option) if option else _several(run, card) or "no"
        rows.append(row)
    return pd.DataFrame(rows)


def hours_frame(
    names: Sequence[str] = ("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat"),
    steps: int = STEPS,
    folder: Path = MEASURED,
    **settings: Any,
) -> pd.DataFrame:
    """Hours of tuning on each card with the settings of `card_frame`, one row per model and method; "no" where one card is too small.

    Args:
        names: Registry names.
        steps: Optimizer steps, of `BATCH` records with `TOKENS_PER_RECORD` tokens each.
        folder: Records of `gpu_check.py`; hours without a measured rate say "scaled" or "assumed".
        settings: As in `memory_frame`.
    """
    import pandas as pd

    rates, flops = read_rates(folder), read_flops(folder)
    rows = []
    for name, method, run in _grid(names, settings):
        row = {"model": name, "method": method}
        for key, card in CARDS.items():
            option = fit_tuning(run, BATCH, card.usable())
            if option is None:
                row[f"{key} GB"] = "no"
                continue
            seconds, basis = tuning_seconds(name, option, steps * BATCH * TOKENS_PER_RECORD, key, rates, flops)
            row[f"{key} GB"] = f"{seconds / 3600:.1f}{'' if basis == 'measured' else f' ({basis})'}"
        rows.append(row)
    return pd.DataFrame(rows)


def _grid(names: Sequence[str], settings: dict[str, Any]) -> Iterator[tuple[str, str, Tuning]]:
    """Every model by 16-bit and 4-bit tuning, with the defaults that the tables share."""
    for name in names:
        shape = registry.resolve(name).shape
        assert shape is not None
        for method in ("lora", "qlora"):
            yield name, method, Tuning(shape, method=method, **({"rank": 64, "length": 1024, "dropout": 0.1} | settings))


def check_frame(folder: Path = MEASURED) -> pd.DataFrame:
    """Measured peaks beside planned ones, one row per case of every record of `gpu_check.py`; empty where it has not been run."""
    import pandas as pd

    rows = []
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        for case in record.metrics.get("cases", []) if record.kind == "benchmark" and record.preset != "smoke" else []:
            rows.append(
                {
                    "device": record.device,
                    "day": record.created[:10],
                    "base": case["base"],
                    "method": case["method"],
                    "measured GB": round(case["peak_bytes"] / GB, 2),
                    "planned GB": round(case["peak_bytes_planned"] / GB, 2),
                    "tokens/s": case["tokens_per_second"],
                    "MFU %": round(100 * case["model_flops_utilisation"], 1),
                    "generated tokens/s": case["generation_tokens_per_second"],
                }
            )
    return pd.DataFrame(rows)


def memory_figure(frame: pd.DataFrame) -> Figure:
    """Stacked bars of `memory_frame`, with a line at what each card leaves for tensors."""
    from jmedlora_utils.figures import style

    figure, axes = style.new_figure(height=4.2)
    axis = axes[0, 0]
    labels = [f"{row.model.removesuffix('-chat')}\n{row.method}" for row in frame.itertuples()]
    left = [0.0] * len(frame)
    for part, colour in zip(("weights", "adapter", "gradients", "optimizer", "activations", "work"), style.CYCLE, strict=False):
        axis.barh(labels, frame[part], left=left, color=style.PALETTE[colour], label=part)
        left = [a + b for a, b in zip(left, frame[part], strict=True)]
    for key, card in CARDS.items():
        axis.axvline(card.usable() / GB, color=style.PALETTE["grey"], linestyle="--", linewidth=1)
        axis.text(card.usable() / GB, -0.75, f"{key} GB", ha="center", fontsize=9, color=style.PALETTE["grey"])
    axis.invert_yaxis()
    axis.set_xlabel("Memory of one tuning step (GB)")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def check_sentence(folder: Path = MEASURED) -> str:
    """Whether planned peaks have met a real card, in a sentence."""
    checked = check_frame(folder)
    if checked.empty:
        return "No record of `benchmarks/gpu_check.py` is there: these figures are counted, not measured on a GPU."
    off = (checked["planned GB"] / checked["measured GB"] - 1).abs().max()
    return f"Measured on {', '.join(sorted(set(checked['device'])))}: planned peaks are within {100 * off:.1f} % of the measured ones."


def card_class(memory: int) -> int | None:
    """Key of the largest card of `CARDS` that has no more memory than this, or None where each has more.

    Torch sees a few percent less than the data sheet says, and error correction takes up to 8 % more; hence a margin.
    """
    return max((key for key, card in CARDS.items() if card.bytes * (1 - CLASS_MARGIN) <= memory), default=None)


def card_at_hand(default: int = 80) -> int | None:
    """`card_class` of the GPU of this machine, or `default` where torch is missing or sees none."""
    try:
        import torch
    except ImportError:
        return default
    if not torch.cuda.is_available():
        return default
    return card_class(torch.cuda.get_device_properties(0).total_memory)


def exam_questions(exam: str, years: Sequence[int] = tuple(IGAKUQA_QUESTIONS)) -> int:
    """Questions that a text model is asked: `jjsimqa`, `igakuqa_<year>`, `igakuqa_<first>_<last>`, or `igakuqa` of the years prepared.

    Raises:
        JmedloraError: Another exam, whose size is not known here.
    """
    if exam == "jjsimqa":
        return JJSIMQA_QUESTIONS
    if exam.startswith("mini_"):
        return 0  # a few hundred short questions of the invented world: seconds on any card
    named = exam.removeprefix("igakuqa_").split("_")
    if exam.startswith("igakuqa_"):
        years = range(int(named[0]), int(named[-1]) + 1) if len(named) <= 2 and all(year.isdigit() for year in named) else ()
    if exam.split("_")[0] == "igakuqa" and years and set(years) <= set(IGAKUQA_QUESTIONS):
        return sum(IGAKUQA_QUESTIONS[year] for year in years)
    raise JmedloraError(
        f"no exam {exam!r} to plan for; known: jjsimqa, igakuqa_<year> and igakuqa_<first>_<last> of "
        f"{min(IGAKUQA_QUESTIONS)} to {max(IGAKUQA_QUESTIONS)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the plan of a preset; returns 1 where a run cannot fit the card, 2 where the preset cannot be planned."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.models.planner", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--preset", required=True)
    parser.add_argument("--card", type=int, choices=sorted(CARDS), help="GB of the card; default: the GPU of this machine, else 80")
    options = parser.parse_args(arguments)
    card = options.card or card_at_hand()
    if card is None:
        print(f"error: this machine's GPU has less than {min(CARDS)} GB, the smallest planned for; name another by --card", file=sys.stderr)
        return 2
    try:
        planned, left_out = plan_preset(options.preset, card), unplanned(options.preset)
    except (JmedloraError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for run in left_out:
        print(f"Not planned, because the sizes of its base are not known: {run}.")
    if not planned and left_out:
        return 0
    if not planned:
        print("Every base of this preset is trained here by notebook 19 and needs no GPU; nothing to plan.")
        return 0
    print(plan_frame(planned, card).to_markdown(index=False))
    shared = {item.base: item.base_download for item in planned}
    adapters = sum(item.download - item.base_download for item in planned)
    disk = sum(shared.values()) + adapters + sum(item.disk for item in planned)
    hours = sum(item.seconds for item in planned) / 3600
    print(f"\nIn all: {hours:.0f} h on one {CARDS[card].name}; {disk / GB:.0f} GB of disk (each base fetched once).")
    if any(item.basis == "scaled" for item in planned):
        print("'scaled': from another base measured on this card, by floating-point operations.")
    if any(item.basis == "assumed" for item in planned):
        print(
            f"'assumed': {ASSUMED_MFU:.0%} of the card's matrix rate, {TOKENS_PER_RECORD} tokens a record, {TOKENS_PER_ANSWER} an answer. "
            "`python benchmarks/gpu_check.py` measures this machine."
        )
    for note in sorted({note for item in planned for note in item.notes}):
        print(f"Before a run: {note}.")
    refused = refusals(planned, card)
    for line in refused:
        print(f"error: {line}", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
