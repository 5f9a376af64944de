"""The model card of an adapter: base, data, settings, scores with intervals and licence, in the hub's format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import code
from jmedlora_utils.core.records import Record, load_records, sha256_file, write_text
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
NOTICE = (
    "**For research only, not for medical use.** The model writes wrong answers with the same confidence as right ones. It has not been "
    "examined for any use with patients, and no decision about a person may rest on it."
)


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
    scores: tuple[Record, ...]  #: Records of notebook 30 of these weights, and of the base before tuning

    @property
    def name(self) -> str:
        return f"{self.run}, step {self.step}"


def read_checkpoint(folder: Path) -> Tuned:
    """Reads a kept checkpoint, `.../adapters/<run>/checkpoint-<step>`, and the records beside it.

    Raises:
        JmedloraError: The folder is not the checkpoint of a tuning run, or its base is not known any more.
    """
    folder = folder.resolve()
    step, identity = folder.name.removeprefix("checkpoint-"), folder.parent / "run.json"
    if not step.isdigit() or not identity.is_file():
        raise JmedloraError(f"{paths.relative(folder)} is no checkpoint of a tuning run; name a folder adapters/<run>/checkpoint-<step>")
    settings = json.loads(identity.read_text(encoding="utf-8"))["settings"]
    root, run = folder.parents[2], folder.parent.name
    own_base = (folder.parent / "base" / "config.json").is_file()
    made_here = folder.parent / "base" if own_base else root / "bases" / settings["base"]
    try:
        base = registry.resolve(str(made_here) if (made_here / "config.json").is_file() else settings["base"])
    except JmedloraError as error:
        raise JmedloraError(f"{paths.relative(folder)}: its base {settings['base']!r} is not known any more: {error}") from error
    records = load_records(root, allow_smoke=True) if list((root / "records").glob("*.json")) else []
    scores = [r for r in records if r.kind == "evaluate" and not r.config.get("variant_of")]
    weights = weights_sha256(folder)
    own = [r for r in scores if r.config["run_name"] == run and int(r.config["step"]) == int(step)]
    own = [r for r in own if r.model["weights"].endswith(f"+{weights}")]  # not those of an earlier run of this name
    bases = {r.model["fingerprint"] for r in own}
    before = [r for r in scores if int(r.config["step"]) == 0 and r.model["fingerprint"] in bases]
    by_name = {r.name: r for r in records}
    tuning = by_name.get(f"20_tune__{run}")
    if tuning is not None and tuning.metrics["weights_sha256"].get(step) != weights:
        tuning = None
    prepared = by_name.get("10_prepare_instructions")
    if tuning is None or prepared is None or prepared.data.get("instructions/train.jsonl") != tuning.data.get("train.jsonl"):
        prepared = None  # data that was prepared since says nothing of this adapter
    return Tuned(
        folder=folder,
        run=run,
        step=int(step),
        settings=settings,
        base=base,
        own_base=own_base,
        tuning=tuning,
        prepared=prepared,
        scores=(*own, *_of_same_base(own, before, run)),
    )


def card(tuned: Tuned, merged: str = "") -> str:
    """The card as the text of a README.md.

    Args:
        tuned: The checkpoint.
        merged: A sentence on how the weights were merged into the base; empty for the adapter alone.
    """
    from huggingface_hub import ModelCardData

    whole = bool(merged) or tuned.settings["method"] == "full"
    licence = tuned.base.licence
    data = ModelCardData(
        base_model=tuned.base.hub_id or None,
        library_name="transformers" if whole else "peft",
        language="ja",
        license=licence if tuned.base.hub_id and licence != "unknown" else "unknown",
        tags=["medical", "japanese", "jmedlora", "research-only", *([] if tuned.settings["method"] == "full" else ["lora"])],
        pipeline_tag="text-generation",
        model_name=tuned.name,
        eval_results=_eval_results(tuned) or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {tuned.name}", NOTICE, _what(tuned, merged), _data(tuned), _settings(tuned)]
    parts += [_scores(tuned), _licence(tuned), _origin(tuned)]
    return "\n\n".join(parts) + "\n"


def check(text: str) -> None:
    """Reads a card back as the hub's client does.

    Raises:
        JmedloraError: Its front matter or its results cannot be read.
    """
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text).data
    except (ValueError, yaml.YAMLError) as error:
        raise JmedloraError(f"the card cannot be read back ({error})") from error
    if missing := [key for key in ("library_name", "language", "license", "tags") if not data.get(key)]:
        raise JmedloraError(f"the front matter of the card lacks {missing[0]!r}")


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
    """Writes the card of every kept checkpoint of a preset; runs that were not made are left out."""
    folders = [f for seed in seeds for f in sorted(paths.Workspace(preset, seed).adapters.glob("*/checkpoint-*"))]
    kept = [f for f in folders if (f.parent / "run.json").is_file() and not f.parent.name.startswith(".")]
    return [write(f) for f in kept]


def _of_same_base(own: Sequence[Record], before: Sequence[Record], run: str) -> list[Record]:
    """For each score of the checkpoint that of its base: asked in this run, or in another run on the same base."""
    found: dict[tuple[str, int], Record] = {}
    asked = {(r.config["exam"], int(r.config["shots"])) for r in own}
    for record in sorted(before, key=lambda r: r.config["run_name"] != run):
        key = (record.config["exam"], int(record.config["shots"]))
        if key in asked:
            found.setdefault(key, record)
    return list(found.values())


def _eval_results(tuned: Tuned) -> list[Any]:
    from huggingface_hub import EvalResult

    results = []
    for record in tuned.scores:
        if int(record.config["step"]) != tuned.step:
            continue
        exam, shots = record.config["exam"], int(record.config["shots"])
        for metric, name in (("accuracy", "Accuracy"), ("exact_match", "Exact match")):
            score = record.metrics["journal"]["all"][metric]
            results.append(
                EvalResult(
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
            )
    return results


def _what(tuned: Tuned, merged: str) -> str:
    method = {"lora": "A LoRA adapter", "qlora": "A LoRA adapter, trained on the base in 4 bits (QLoRA),", "full": "A fully tuned model"}
    at = f" at commit `{tuned.base.revision}`" if tuned.base.revision else ""
    base = f"[{tuned.base.hub_id}](https://huggingface.co/{tuned.base.hub_id}){at}" if tuned.base.hub_id else code(_base_name(tuned))
    lines = [f"{method[tuned.settings['method']]} for {base}, made with jmedlora, which repeats JMedLoRA (Sukeda et al., 2024)."]
    if tuned.own_base:
        lines.append("Its base was pretrained further on articles in the same run; without that base the adapter is of no use.")
    if merged:
        lines.append(merged)
    elif tuned.settings["method"] != "full":
        revision = f', revision="{tuned.base.revision}"' if tuned.base.revision else ""
        name = tuned.base.hub_id or "PATH/OF/THE/BASE"
        lines.append(
            "\n```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{name}"{revision})\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}"{revision})\n'
            'model = PeftModel.from_pretrained(base, "PATH/OF/THIS/FOLDER")\n```'
        )
    return "\n".join(lines)


def _data(tuned: Tuned) -> str:
    lines = ["## Training data", ""]
    if tuned.prepared is None:
        lines.append("Where its question-answer pairs come from is not known: no record of their making lies beside the adapter.")
    else:
        config = tuned.prepared.config
        if config.get("source") == "articles":
            generator = config.get("generation", {}).get("generator", "a language model")
            if generator.startswith(("/", "~", ".")):
                generator = Path(generator).name  # the card is for others, a path of this machine is not
            lines.append(
                f"Question-answer pairs that {code(generator)} wrote from the user's own articles. Neither is part of this folder."
            )
        else:
            lines.append("Question-answer pairs of an invented world: its diseases and drugs do not exist.")
    if tuned.tuning is not None:
        counts, articles = tuned.tuning.counts, tuned.prepared.counts["articles"] if tuned.prepared else 0
        lines.append(f"{counts['used']:,} pairs{f' from {articles:,} articles' if articles else ''}.")
        if left_out := counts["read"] - counts["used"]:
            lines.append(f"{left_out:,} more were longer than `max_length` and left out.")
        seen = tuned.tuning.metrics.get("epochs", 0) * tuned.step / tuned.settings["max_steps"]
        lines.append(f"Step {tuned.step} has seen each of them {seen:.2f} times on average.")
        lines += [f"SHA-256 of `{name}`: `{digest}`." for name, digest in sorted(tuned.tuning.data.items())]
    return "\n".join(lines)


def _settings(tuned: Tuned) -> str:
    rows = [(key, tuned.settings[key]) for key in SHOWN if key in tuned.settings]
    rows = [("step", tuned.step), ("of steps", tuned.settings["max_steps"]), *rows]
    if tuned.tuning is not None:
        rows.append(("trained parameters", f"{tuned.tuning.counts['trainable_parameters']:,}"))
        rows.append(("layers with an adapter", ", ".join(tuned.tuning.model.get("targets", [])) or "none: every parameter"))
    shown = [f"| {key.replace('_', ' ')} | {', '.join(map(str, v)) if isinstance(v, list) else v} |" for key, v in rows if v != []]
    return "\n".join(["## Settings", "", "| setting | value |", "| --- | --- |", *shown])


def _scores(tuned: Tuned) -> str:
    if not tuned.scores:
        return "## Scores\n\nThis checkpoint has not been asked any examination."
    lines = ["## Scores", "", "In percent, with the 95 % Wilson interval over questions. Step 0 is the base without the adapter.", ""]
    lines += ["| exam | shots | step | n | Accuracy | Exact match |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    order = sorted(tuned.scores, key=lambda r: (r.config["exam"], int(r.config["shots"]), int(r.config["step"])))
    for record in order:
        scores = record.metrics["journal"]["all"]
        shares = [_share(scores[m]) for m in ("accuracy", "exact_match")]
        where = f"| {record.config['exam']} | {record.config['shots']} | {record.config['step']} | {int(scores['accuracy']['n'])} |"
        lines.append(f"{where} {shares[0]} | {shares[1]} |")
    quantised = {r.config["quantisation"] for r in tuned.scores}
    how = " and ".join({"none": "on the unquantised base", "nf4": "on the base in 4 bits (NF4)"}[q] for q in sorted(quantised))
    preset = " These are scores of a smoke run, which tests the code: no evidence." if tuned.scores[0].preset == "smoke" else ""
    return "\n".join([*lines, "", f"Asked with the adapter unmerged, {how}; Accuracy and Exact match by the journal's formulas.{preset}"])


def _share(score: dict[str, float]) -> str:
    return f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _licence(tuned: Tuned) -> str:
    if not tuned.base.hub_id:
        said = "The base was trained on the user's machine; it states no licence, and who passes the adapter on has to choose one."
    elif tuned.base.licence == "unknown":
        said = "No licence of the base is known; ask its authors before passing the adapter on."
    else:
        said = f"The licence of the base, {code(tuned.base.licence)}, holds for what is made from it."
    return f"## Licence\n\n{said} The texts behind the training data may set limits of their own."


def _origin(tuned: Tuned) -> str:
    digest = "".join(f"\n- `{path.name}`: `{sha256_file(path)}`" for path in sorted(tuned.folder.glob("*.safetensors")))
    made = ""
    if tuned.tuning is not None:
        record = tuned.tuning
        versions = ", ".join(f"{name} {record.versions.get(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
        made = f"Tuned on {record.created[:10]}, {record.device}; {versions}; jmedlora commit `{record.git_commit[:10]}`.\n\n"
    return f"## Origin\n\n{made}SHA-256 of the trained weights:\n{digest}"


def _base_name(tuned: Tuned) -> str:
    return Path(tuned.settings["base"]).name
