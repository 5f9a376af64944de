"""Planner: what a preset takes before it starts (memory, time, disk), and what each card can do with it. Needs no torch and no GPU.

`python -m jmedlora_utils.models.planner --preset paper` prints the matrix and ends with status 1 where a run cannot fit the card. Memory is
counted (`memory.py`); time needs a rate, measured by `benchmarks/gpu_check.py` or assumed, and says which.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.data import exam_files
from jmedlora_utils.models import cpu_time, registry
from jmedlora_utils.models.gpus import CARDS, GB, MEASURED, Card, Speeds, card_at_hand, read_speeds
from jmedlora_utils.models.launch_config import read_launch_config
from jmedlora_utils.models.memory import (
    Memory,
    Tuning,
    adapter_parameters,
    fit_tuning,
    generation_memory,
    sharded_total,
    step_flops,
    trained_parameters,
    tuning_memory,
)
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.models.shape import ARCHITECTURES, Shape

if TYPE_CHECKING:
    import pandas as pd

# Only for times without a measured rate.
ASSUMED_MFU = 0.25
ASSUMED_BANDWIDTH_SHARE = 0.3
TOKENS_PER_RECORD = 256
TOKENS_PER_PROMPT = 300
TOKENS_PER_ANSWER = 64
LONGEST_PROMPT = 1024
# Text questions with five choices, by year of IgakuQA (the counts of jungokasai/IgakuQA, 1,455 in all).
IGAKUQA_QUESTIONS = {2018: 284, 2019: 292, 2020: 284, 2021: 298, 2022: 297}


@dataclass(frozen=True)
class PlannedRun:
    """One notebook run of a preset, planned."""

    run: str  #: Name of the run
    step: str  #: `tune` or `evaluate`
    base: str  #: Name of the base
    bytes: int  #: Peak memory with the preset's own settings
    best: dict[int, str | None]  #: For each card (its key in `CARDS`), the settings that fit, in words; None where nothing does
    fits: bool  #: Whether the preset's own settings fit the chosen card
    seconds: float  #: On the chosen card
    #: Where the rate behind `seconds` comes from: `measured` on this base and card; `scaled` from another base on this card, tuned by the
    #: same method; `assumed`
    basis: str
    base_download: int  #: Bytes of the base to fetch, which other runs on it share
    adapter_download: int = 0  #: Bytes of the adapter to fetch
    disk: int = 0  #: Bytes that the run writes
    notes: tuple[str, ...] = ()  #: What has to be done before it starts

    @property
    def download(self) -> int:
        """Bytes to fetch for this run alone."""
        return self.base_download + self.adapter_download


def plan_preset(name: str, card: int = 80, measured: Path = MEASURED) -> list[PlannedRun]:
    """Plans every run of a preset; bases that the preset trains itself, and those named by `unplanned`, are left out."""
    if card not in CARDS:
        raise JmedloraError(f"no card of {card} GB is known; choose one of {', '.join(map(str, CARDS))}")
    preset = presets.load_preset(name)
    speeds = read_speeds(measured)
    planned: list[PlannedRun] = []
    for run, base in _published(preset):
        if base.shape is None:
            continue
        if run.tune is not None:
            planned.append(_plan_tuning(run, base, base.shape, card, speeds))
        planned.append(_plan_evaluation(run, base, base.shape, card, speeds, _years(preset)))
    return planned


def unplanned(name: str) -> list[str]:
    """Runs of a preset that `plan_preset` leaves out because the sizes of their base are not known, each with its base."""
    return [f"{run.name} (base {base.name})" for run, base in _published(presets.load_preset(name)) if base.shape is None]


def _published(preset: presets.Preset) -> Iterator[tuple[presets.Run, ModelEntry]]:
    """The runs whose base the preset does not train itself, with what is known of that base."""
    made = preset.bases_made()
    for run in preset.runs:
        base = (run.all_tuning() if run.tune is not None else run.all_evaluation())["base"]
        if base not in made:
            yield run, registry.resolve(base)


def _years(preset: presets.Preset) -> list[int]:
    """The years of IgakuQA that notebook 11 of the preset prepares."""
    notebook = "11_prepare_exams"
    return (presets.declared_parameters(notebook) | preset.prepare.get(notebook, {}))["years"]


def exam_questions(exam: str, years: Sequence[int] = tuple(IGAKUQA_QUESTIONS)) -> int:
    """Questions that a text model is asked: of `exam_files.WHOLE`, `igakuqa` of the years, or `exam_files.years_named`."""
    if exam in exam_files.WHOLE:
        return exam_files.WHOLE[exam]
    if exam in exam_files.PREPARED:
        return 0  # seconds on any card
    asked = years if exam == "igakuqa" else exam_files.years_named(exam)
    if asked and set(asked) <= set(IGAKUQA_QUESTIONS):
        return sum(IGAKUQA_QUESTIONS[year] for year in asked)
    raise JmedloraError(
        f"no exam {exam!r} to plan for; known: {', '.join((*exam_files.PREPARED, *exam_files.WHOLE))}, igakuqa_<year> and "
        f"igakuqa_<first>_<last> of {min(IGAKUQA_QUESTIONS)} to {max(IGAKUQA_QUESTIONS)}"
    )


def tuning_of(parameters: dict[str, Any], base: ModelEntry) -> Tuning:
    """The memory settings behind the parameters of notebook 20."""
    if base.shape is None:
        raise JmedloraError(f"{base.name}: its sizes are not known; only {', '.join(ARCHITECTURES)} can be planned")
    parameters = with_expert(parameters, base.name)
    mixed = parameters.get("dtype", "float32") == "bfloat16"
    return Tuning(
        shape=base.shape,
        method=parameters["method"],
        rank=parameters["rank"],
        targets=tuple(parameters["target_modules"]) or base.lora_targets,
        embeddings=parameters.get("train_embeddings", False),
        optimizer=parameters.get("optimizer", "adamw_torch_fused"),
        micro_batch=parameters["batch_size"],
        length=parameters["max_length"],
        checkpointing=parameters.get("gradient_checkpointing", False),
        accumulating=parameters.get("gradient_accumulation", 1) > 1,
        dropout=parameters.get("dropout", 0.0),
        mixed=mixed,
        weight_bytes=2 if mixed else 4,
    )


def tuning_seconds(base: str, run: Tuning, tokens: float, card: int, speeds: Speeds) -> tuple[float, str]:
    """Seconds of tuning a registry base over `tokens` real tokens (all steps) on a card, and the basis as in `PlannedRun`."""
    if rate := speeds.rates.get((base, "tune", card)):
        return tokens / rate, "measured"
    reached = speeds.flops.get((run.method, card))
    return step_flops(run, 1) * tokens / (reached or ASSUMED_MFU * CARDS[card].flops), "scaled" if reached else "assumed"


def generation_seconds(shape: Shape, quantisation: str, prompts: int, batch: int, card: Card) -> float:
    """Seconds to answer `prompts` questions: reading them at the assumed matrix rate, then one pass over the weights per token."""
    reading = 2 * shape.parameters() * TOKENS_PER_PROMPT * prompts / (ASSUMED_MFU * card.flops)
    passes = TOKENS_PER_ANSWER * prompts / batch
    return reading + passes * shape.load_bytes(quantisation) / (ASSUMED_BANDWIDTH_SHARE * card.bandwidth)


def _plan_tuning(run: presets.Run, base: ModelEntry, shape: Shape, card: int, speeds: Speeds) -> PlannedRun:
    parameters = run.all_tuning()
    wanted = tuning_of(parameters, base)
    rows = parameters["batch_size"] * parameters.get("gradient_accumulation", 1)
    config = parameters.get("launch_config")
    sharded = bool(config) and read_launch_config(config).sharded
    need = sharded_total(wanted, parameters["num_processes"]) if sharded else tuning_memory(wanted).total
    # Of one process: several read as many tokens side by side.
    tokens = parameters["max_steps"] * rows * min(TOKENS_PER_RECORD, parameters["max_length"])
    seconds, basis = tuning_seconds(base.name, wanted, tokens, card, speeds)
    kept = len({*parameters["save_steps"], parameters["max_steps"]} - {0})
    return PlannedRun(
        run=run.name,
        step="tune",
        base=base.name,
        bytes=need,
        best={key: best_settings(wanted, rows, kind) for key, kind in CARDS.items()},
        fits=need <= CARDS[card].usable(),
        seconds=seconds,
        basis=basis,
        base_download=base.download_bytes(),
        disk=kept * 4 * trained_parameters(wanted) + 8 * trained_parameters(wanted),
        notes=_notes(base),
    )


def _plan_evaluation(run: presets.Run, base: ModelEntry, shape: Shape, card: int, speeds: Speeds, years: Sequence[int]) -> PlannedRun:
    parameters = run.all_evaluation()
    quantisation = parameters["quantisation"]
    if quantisation == "auto":
        quantisation = "nf4" if run.tune and run.tune.get("method") == "qlora" else "none"
    notes, fetched, adapter = _notes(base), 0, 0
    if run.tune is not None and parameters["adapter"] == run.name:
        tune = run.all_tuning()
        targets = tuple(tune["target_modules"]) or base.lora_targets
        adapter = adapter_parameters(shape, tune["rank"], targets, tune.get("train_embeddings", False))
    elif parameters["adapter"]:
        entry = registry.resolve(parameters["adapter"])
        notes, fetched = notes + _notes(entry), entry.download_bytes()
        adapter = adapter_parameters(shape, entry.rank, entry.lora_targets)

    def memory(batch: int) -> Memory:
        return generation_memory(shape, quantisation, batch, LONGEST_PROMPT, TOKENS_PER_ANSWER, adapter)

    batch = parameters["batch_size"]
    sizes = sorted({batch, *(2**n for n in range(8) if 2**n < batch)}, reverse=True)
    questions = sum(parameters["limit"] or exam_questions(exam, years) for exam in parameters["exams"])
    prompts = questions * len(parameters["steps"]) * len(parameters["shots"])
    rate = speeds.rates.get((base.name, "generate", card))
    return PlannedRun(
        run=run.name,
        step="evaluate",
        base=base.name,
        bytes=memory(batch).total,
        best={key: next((f"batch {n}" for n in sizes if memory(n).total <= kind.usable()), None) for key, kind in CARDS.items()},
        fits=memory(batch).total <= CARDS[card].usable(),
        seconds=prompts * TOKENS_PER_ANSWER / rate if rate else generation_seconds(shape, quantisation, prompts, batch, CARDS[card]),
        basis="measured" if rate else "assumed",
        base_download=base.download_bytes(),
        adapter_download=fetched,
        notes=notes,
    )


def best_settings(run: Tuning, batch: int, card: Card) -> str | None:
    """The fastest way to tune with this batch on a card, in words: the settings that trade time for memory, or the cards needed."""
    if option := fit_tuning(run, batch, card.usable()):
        paged = ", paged optimizer" if option.optimizer.startswith("paged") else ""
        return f"batch {option.micro_batch}{', checkpointing' if option.checkpointing else ''}{paged}"
    smallest = replace(run, micro_batch=1, checkpointing=True, accumulating=True)
    return next((f"{cards} cards (FSDP)" for cards in (2, 4, 8) if sharded_total(smallest, cards) <= card.usable()), None)


def _notes(entry: ModelEntry) -> tuple[str, ...]:
    unpinned = (f"pin {entry.name}: its revision is unknown",) if not entry.local and not entry.revision else ()
    key = "HF_TOKEN" if entry.origin == "hub" else f"JMEDLORA_ACCEPT={entry.name}"
    return unpinned + ((f"{entry.name} is gated: {key}",) if entry.gated else ())


def hours_in_words(seconds: float, basis: str) -> str:
    return f"{seconds / 3600:.1f}{'' if basis == 'measured' else f' ({basis})'}"


def plan_frame(planned: Sequence[PlannedRun], card: int) -> pd.DataFrame:
    """The matrix as a table, one row per run and step; sizes in GB (10^9 bytes)."""
    import pandas as pd

    rows = []
    for item in planned:
        row: dict[str, Any] = {"run": item.run, "step": item.step, "base": item.base, "GB as set": round(item.bytes / GB, 1)}
        row |= {f"{key} GB card": item.best[key] or "no" for key in CARDS}
        row[f"hours on {card} GB"] = hours_in_words(item.seconds, item.basis)
        rows.append(row | {"fetch GB": round(item.download / GB, 1), "write GB": round(item.disk / GB, 1)})
    return pd.DataFrame(rows)


def refusals(planned: Sequence[PlannedRun], card: int) -> list[str]:
    """What cannot run on the chosen card as the preset sets it, each with what would help."""
    kind = CARDS[card]
    found = []
    for item in planned:
        if not item.fits:
            best = item.best[card]
            advice = f"it would fit with {best}" if best else "no setting helps; take a larger card or a smaller base"
            needs = f"needs {item.bytes / GB:.1f} GB, {kind.name} leaves {kind.usable() / GB:.1f}"
            found.append(f"{item.run}, {item.step}: {needs}; {advice}")
    return found


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
    except JmedloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if cores := cpu_time.said(options.preset):
        print(f"{cores}\nOn a card:\n")
    for run in left_out:
        print(f"Not planned, because the sizes of its base are not known: {run}.")
    if not planned:
        if not left_out:
            print("Every base of this preset is trained here by notebook 19 and needs no GPU; nothing to plan.")
        return 0
    print(plan_frame(planned, card).to_markdown(index=False))
    bases = {item.base: item.base_download for item in planned}
    disk = sum(bases.values()) + sum(item.adapter_download + item.disk for item in planned)
    hours = sum(item.seconds for item in planned) / 3600
    print(f"\nIn all: {hours:.0f} h on one {CARDS[card].name}; {disk / GB:.0f} GB of disk (each base fetched once).")
    bases_of_hours = {item.basis for item in planned}
    if "scaled" in bases_of_hours:
        print("'scaled': from another base measured on this card, by floating-point operations.")
    if "assumed" in bases_of_hours:
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
