"""What the page *Scale* includes of the planner: settings and hours of the paper's Llama 2 models on each card, counted."""

from __future__ import annotations

import pandas as pd

from jmedlora_utils.core import formatting
from jmedlora_utils.models import gpus, memory, planner, registry

MODELS = ("llama-2-7b-chat", "llama-2-13b-chat", "llama-2-70b-chat")
METHODS = ("lora", "qlora")
ADAPTER = {"rank": 64, "length": 1024, "dropout": 0.1}
BATCH, STEPS = 8, 1000


def tables() -> str:
    """Two tables for the paper's batch and its adapter on all linear layers: the fastest settings that fit, and the hours they take."""
    settings, hours, speeds = [], [], gpus.read_speeds()
    tokens = STEPS * BATCH * planner.TOKENS_PER_RECORD
    for name in MODELS:
        for method in METHODS:
            run = memory.Tuning(registry.resolve(name).shape, method, **ADAPTER)
            row = {"model": name, "method": method}
            fitted = {key: memory.fit_tuning(run, BATCH, card.usable()) for key, card in gpus.CARDS.items()}
            best = {f"{key} GB": planner.best_settings(run, BATCH, card) or "no" for key, card in gpus.CARDS.items()}
            settings.append(row | best)
            unfit = {key: "not estimated" if "cards" in words else "no" for key, words in best.items()}
            took = {
                f"{key} GB": planner.hours_in_words(*planner.tuning_seconds(name, fits, tokens, key, speeds))
                for key, fits in fitted.items()
                if fits
            }
            hours.append(row | unfit | took)
    size = f"{STEPS:,} steps of {BATCH} records with {planner.TOKENS_PER_RECORD} tokens each"
    cards = f"Assumed for these cards: {'; '.join(card.name for card in gpus.CARDS.values())}. Multiply by your price of an hour."
    longest = f"The fastest settings that fit each card with records of {ADAPTER['length']:,} tokens, counted."
    first = formatting.numbered(pd.DataFrame(settings), "tab-planner", longest)
    second = formatting.numbered(pd.DataFrame(hours), "tab-planner-hours", f"Hours of one tuning run of {size}, at these settings. {cards}")
    return f"{first}\n{second}\n{measured()}"


def measured() -> str:
    """Whether the counts have been compared with a real card, and how far they were off."""
    checks = gpus.gpu_checks()
    off = [abs(case["peak_bytes_planned"] / case["peak_bytes"] - 1) for record in checks for case in record.metrics["cases"]]
    if not off:
        return "No record of `benchmarks/gpu_check.py` is there: these figures are counted, not measured on a GPU."
    devices = ", ".join(sorted({record.device for record in checks}))
    return f"Measured on {devices}: planned peaks are within {formatting.percent(max(off))} % of the measured."
