"""Hours of a preset on two processor cores, from rates measured here: for presets whose published models need no GPU."""

from __future__ import annotations

from typing import Any

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.records import read_yaml
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.models import registry

FILE = paths.PACKAGE_DATA / "cpu_rates.yaml"


class Rates(Checked):
    """What one base does on one core, measured."""

    tune_tokens: float  #: Tokens of training a second, with LoRA
    qlora_slower: float  #: Times as long with the base in 4 bits
    ask_tokens: float  #: Tokens of prompts a second in one pass over questions; writing is one, log-likelihood another
    record_tokens: dict[str, float]  #: Records by name to their mean tokens
    question_tokens: dict[str, float]  #: Exam by name to the mean tokens of a prompt


class Measured(Checked):
    """The file of rates."""

    machine: str
    overhead_seconds: float  #: Start of a notebook, loading and checks
    questions: dict[str, int]  #: Exam by name to its number of questions
    bases: dict[str, Rates]


def read_rates() -> Measured:
    """The committed rates."""
    return Measured.read(read_yaml(FILE), FILE.name)


def seed_seconds(preset: presets.Preset, measured: Measured) -> dict[str, float] | None:
    """Seconds of one core for each run of one seed; None where a base or an exam has no measured rate."""
    found: dict[str, float] = {}
    for run in preset.runs:
        asked, tuned = run.all_evaluation(), run.all_tuning()
        rates = measured.bases.get(registry.resolve(asked["base"]).name) if asked["base"] not in preset.bases_made() else None
        exams = asked["exams"]
        if rates is None or set(exams) - rates.question_tokens.keys():
            return None
        seconds = measured.overhead_seconds + _asking(asked, rates, measured)
        if run.tune is not None:
            records = tuned.get("records", "train")
            if records not in rates.record_tokens:
                return None
            tokens = tuned["max_steps"] * tuned["batch_size"] * tuned["gradient_accumulation"] * rates.record_tokens[records]
            slower = rates.qlora_slower if tuned["method"] == "qlora" else 1.0
            seconds += measured.overhead_seconds + slower * tokens / rates.tune_tokens
        found[run.name] = seconds
    return found


def _asking(asked: dict[str, Any], rates: Rates, measured: Measured) -> float:
    tokens = sum(min(asked["limit"] or 10**9, measured.questions[exam]) * rates.question_tokens[exam] for exam in asked["exams"])
    return tokens * len(asked["steps"]) * len(asked["shots"]) * (1 + asked["likelihood"]) / rates.ask_tokens


def said(name: str) -> str:
    """What the preset takes on two cores, in words; empty where its models have no measured rate."""
    preset, measured = presets.load_preset(name), read_rates()
    seconds = seed_seconds(preset, measured) if preset.runs and preset.device == "any" else None
    if not seconds:
        return ""
    hours = sum(seconds.values()) / 2 / 3600
    return (
        f"On two processor cores, without a GPU: about {hours:.1f} hours per seed, {hours * len(preset.seeds):.1f} in all "
        f"({len(preset.seeds)} seeds; rates measured on {measured.machine}, resources/{FILE.name})."
    )
