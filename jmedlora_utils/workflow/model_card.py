"""The model card of an adapter: base, data, settings, scores with intervals and licence, in the hub's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import code, markdown, percent
from jmedlora_utils.core.identity import LIBRARIES
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import Record, load_records, read_json, sha256_file, write_text
from jmedlora_utils.data.exam_files import TAUGHT_EXAMS
from jmedlora_utils.models import registry
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning.run_folder import weights_sha256

EXAM_NAMES = {
    "igakuqa": "IgakuQA, Japanese national medical examination, text-only five-choice questions",
    "jjsimqa": "JJSIMQA, Journal of the Japanese Society of Internal Medicine, five-choice questions",
    "igakuqa119": "119th Japanese national medical examination (2025), text-only five-choice questions",
    "jmle2026": "120th Japanese national medical examination (2026), text-only five-choice questions",
    "mini_trained": "Invented exam, facts in a phrasing used in tuning",
    "mini_heldout": "Invented exam, the same facts in other words",
    "mini_general": "Invented exam, general domain",
}
SHOWN = ("method", "rank", "alpha", "dropout", "target_modules", "train_embeddings", "learning_rate", "schedule", "warmup_steps")
SHOWN += ("optimizer", "weight_decay", "max_grad_norm", "batch_size", "gradient_accumulation", "max_length", "template", "dtype", "seed")
TEMPLATE = paths.PACKAGE_DATA / "model_card.md"


@dataclass(frozen=True)
class Tuned:
    """One kept checkpoint of a tuning run, with what is recorded of it."""

    folder: Path  #: The checkpoint
    run: str  #: Name of the run
    step: int  #: Step of the checkpoint
    settings: dict[str, Any]  #: Settings of the run
    base: ModelEntry  #: Its base, from the registry or the workspace
    own_base: bool  #: Whether the run made its base itself, by continued pretraining
    tuning: Record | None  #: Record of notebook 20 that names these very weights, or None
    prepared: Record | None  #: Record of notebook 10 that names the very data of `tuning`, or None
    maker: str  #: Another notebook whose record names that data, or empty
    scores: tuple[Record, ...]  #: Records of notebook 30 of these weights, and of the base before tuning

    @property
    def name(self) -> str:
        return f"{self.run}, step {self.step}"

    @property
    def is_whole(self) -> bool:
        """Whether the checkpoint is a model of its own, tuned in full."""
        return self.settings["method"] == "full"


def read_checkpoint(folder: Path) -> Tuned:
    """Reads a kept checkpoint, `.../adapters/<run>/checkpoint-<step>`, and the records beside it.

    Raises:
        JmedloraError: The folder is not the checkpoint of a tuning run, or its base is not known any more.
    """
    folder = folder.resolve()
    step, identity = folder.name.removeprefix("checkpoint-"), folder.parent / "run.json"
    if not step.isdigit() or not identity.is_file():
        raise JmedloraError(f"{paths.relative(folder)} is no checkpoint of a tuning run; name a folder adapters/<run>/checkpoint-<step>")
    settings = read_json(identity)["settings"]
    root, run = folder.parents[2], folder.parent.name
    own_base = (folder.parent / "base" / "config.json").is_file()
    made_here = folder.parent / "base" if own_base else root / "bases" / settings["base"]
    try:
        base = registry.resolve(str(made_here) if (made_here / "config.json").is_file() else settings["base"])
    except JmedloraError as error:
        raise JmedloraError(f"{paths.relative(folder)}: its base {settings['base']!r} is not known any more: {error}") from error
    records = load_records(root, allow_smoke=True) if list((root / "records").glob("*.json")) else []
    by_name, weights = {r.name: r for r in records}, weights_sha256(folder)
    # Only records of these very weights: an earlier run of this name, or data prepared since, says nothing of this adapter.
    tuning, prepared = by_name.get(f"20_tune__{run}"), by_name.get("10_prepare_instructions")
    if tuning and tuning.metrics["weights_sha256"].get(step) != weights:
        tuning = None
    if not (tuning and prepared and prepared.data.get("instructions/train.jsonl") == tuning.data.get("train.jsonl")):
        prepared = None
    made = set(tuning.data.values()) if tuning and not prepared else set()
    maker = next((r.name for r in records if r.kind == "prepare" and made & set(r.data.values())), "")
    scores = tuple(_scores_of(records, run, int(step), weights))
    return Tuned(folder, run, int(step), settings, base, own_base, tuning, prepared, maker, scores)


def _scores_of(records: Sequence[Record], run: str, step: int, weights: str) -> list[Record]:
    """The scores of a checkpoint, then that of its base for each: asked in this run, or in another run on the same base."""
    scores = [r for r in records if r.kind == "evaluate" and not r.config.get("variant_of")]
    own = [r for r in scores if (r.config["run_name"], int(r.config["step"])) == (run, step) and r.model["weights"].endswith(f"+{weights}")]
    alike = {(_condition(r), *_asked_as(r)) for r in own}
    before: dict[tuple[str, int], Record] = {}
    for record in sorted(scores, key=lambda r: r.config["run_name"] != run):
        if int(record.config["step"]) == 0 and (_condition(record), *_asked_as(record)) in alike:
            before.setdefault(_condition(record), record)
    return [*own, *(before[key] for key in dict.fromkeys(map(_condition, own)) if key in before)]


def _asked_as(record: Record) -> tuple[Any, ...]:
    """What two scores of one exam must share to stand side by side: base, prompt and questions; the card names the precisions."""
    asked = record.config.get("settings", {})
    return record.model["fingerprint"], record.config.get("template"), asked.get("limit", 0), asked.get("shuffle_choices", 0)


def _condition(record: Record) -> tuple[str, int]:
    return record.config["exam"], int(record.config["shots"])


def card(tuned: Tuned, merged: str = "") -> str:
    """The card as the text of a README.md, by the template `resources/model_card.md`; `merged` says how the weights were merged, if so."""
    from huggingface_hub import ModelCard, ModelCardData

    hub_id, commit = tuned.base.hub_id, tuned.base.revision
    data = ModelCardData(
        base_model=hub_id or None,
        library_name="transformers" if merged or tuned.is_whole else "peft",
        language="ja",
        license=tuned.base.licence if hub_id else "unknown",
        tags=["medical", "japanese", "jmedlora", "research-only", *([] if tuned.is_whole else ["lora"])],
        pipeline_tag="text-generation",
        model_name=tuned.name,
        eval_results=_eval_results(tuned) or None,
    )
    link = f"[{hub_id}](https://huggingface.co/{hub_id})" + (f" at commit `{commit}`" if commit else "")
    loaded = {"none": "on the unquantised base", "nf4": "on the base in 4 bits (NF4)"}
    shown = {
        "base": link if hub_id else code(Path(tuned.settings["base"]).name),
        "from_pretrained": json.dumps(hub_id or "PATH/OF/THE/BASE") + (f', revision="{commit}"' if commit else ""),
        "writer": _writer(tuned),
        "settings": _settings(tuned),
        "scores": _scores(tuned),
        "loaded": " and ".join(loaded[name] for name in sorted({r.config["quantisation"] for r in tuned.scores})),
        "licence": code(tuned.base.licence),
        "weights": [(path, sha256_file(path)) for path in sorted(tuned.folder.glob("*.safetensors"))],
    }
    if record := tuned.tuning:
        shown["versions"] = ", ".join(f"{name} {record.versions.get(name)}" for name in LIBRARIES)
    return ModelCard.from_template(data, template_path=str(TEMPLATE), tuned=tuned, merged=merged, **shown).content + "\n"


def check(text: str) -> None:
    """Reads a card back as the hub's client does.

    Raises:
        JmedloraError: Its front matter or its results cannot be read.
    """
    from huggingface_hub import ModelCard

    try:
        ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise JmedloraError(f"the card cannot be read back ({error}); report this as a fault of model_card.py") from error


def write(folder: Path) -> Path:
    """Writes README.md into a kept checkpoint; the same card is not written twice.

    Raises:
        JmedloraError: See `read_checkpoint` and `check`.
    """
    text, path = card(read_checkpoint(folder)), folder / "README.md"
    check(text)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def write_all(preset: str, seeds: Sequence[int]) -> list[Path]:
    """Writes the card of every kept checkpoint of the runs that a preset names; runs that were not made are left out."""
    runs = {run.name for run in load_preset(preset).runs}
    folders = [f for seed in seeds for f in sorted(paths.Workspace(preset, seed).adapters.glob("*/checkpoint-*"))]
    return [write(f) for f in folders if (f.parent / "run.json").is_file() and f.parent.name in runs]


def _eval_results(tuned: Tuned) -> list[Any]:
    from huggingface_hub import EvalResult

    results = []
    for record in (r for r in tuned.scores if int(r.config["step"]) == tuned.step):
        exam, shots = _condition(record)
        if exam in TAUGHT_EXAMS:
            continue  # half of their questions were taught
        for metric, name in (("accuracy", "Accuracy"), ("exact_match", "Exact match")):
            score = record.metrics["journal"]["all"][metric]
            result = EvalResult(
                task_type="question-answering",
                task_name="Five-choice examination questions, answer written freely",
                dataset_type=exam,
                dataset_name=EXAM_NAMES.get(exam, exam),
                dataset_split="test",
                dataset_config=f"{shots}-shot",
                metric_type=metric,
                metric_name=f"{name}, journal's formula, {shots}-shot, percent",
                metric_value=round(100 * score["value"], 2),
                metric_args={"n": int(score["n"]), "low_95": round(100 * score["low"], 2), "high_95": round(100 * score["high"], 2)},
            )
            results.append(result)
    return results


def _writer(tuned: Tuned) -> str:
    """The language model that wrote the records from the user's articles; empty where another source was used."""
    config = tuned.prepared.config if tuned.prepared else {}
    if config.get("source") != "articles":
        return ""
    generator = config.get("generation", {}).get("generator", "a language model")
    # The card is for others, a path of this machine is not.
    return code(Path(generator).name if generator.startswith(("/", "~", ".")) else generator)


def _settings(tuned: Tuned) -> str:
    rows = {"step": tuned.step, "of steps": tuned.settings["max_steps"]}
    rows |= {key.replace("_", " "): tuned.settings[key] for key in SHOWN if tuned.settings.get(key, []) != []}
    if tuned.tuning:
        rows["trained parameters"] = f"{tuned.tuning.counts['trainable_parameters']:,}"
        rows["layers with an adapter"] = tuned.tuning.model.get("targets") or "none: every parameter"
    shown = [(name, ", ".join(map(str, value)) if isinstance(value, list) else value) for name, value in rows.items()]
    return markdown(pd.DataFrame(shown, columns=["setting", "value"], dtype=object))


def _scores(tuned: Tuned) -> str:
    if not tuned.scores:
        return ""
    rows = []
    for record in sorted(tuned.scores, key=lambda r: (*_condition(r), int(r.config["step"]))):
        scores = {name: record.metrics["journal"]["all"][name] for name in ("accuracy", "exact_match")}
        shares = (percent(score["value"], score["low"], score["high"]) for score in scores.values())
        rows.append((*_condition(record), int(record.config["step"]), int(scores["accuracy"]["n"]), *shares))
    return markdown(pd.DataFrame(rows, columns=["exam", "shots", "step", "n", "Accuracy", "Exact match"]))
