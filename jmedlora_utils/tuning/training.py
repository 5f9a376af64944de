"""Tuning: LoRA, QLoRA or full, on the response only; killed and started again, it ends where it would have ended.

`python -m jmedlora_utils.tuning.training --settings FILE` runs one job from a JSON file; under `accelerate launch` it does so in several
processes (see `launch.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Meter, Record, write_record
from jmedlora_utils.data import prompts
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import attention, encoding, packing, processes, run_folder
from jmedlora_utils.tuning.run_folder import kept_checkpoints, weights_sha256
from jmedlora_utils.tuning.settings import TuneSettings

OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")


def tune(
    settings: TuneSettings,
    run_name: str,
    workspace: paths.Workspace,
    train_file: Path | None = None,
    articles_file: Path | None = None,
) -> Record:
    """Tunes one base; a finished run is not trained again, a killed one goes on from its last checkpoint.

    Writes `adapters/<run_name>/checkpoint-<step>/` (peft format; whole models for `full`) for each kept step, and the
    record `20_tune__<run_name>`. A folder left by a run with other settings or data is moved to `adapters/.superseded/`.

    Args:
        settings: What to train.
        run_name: Name of the run.
        workspace: Where bases, data, adapters and records lie.
        train_file: Instruction records; `data/instructions/train.jsonl` of the workspace by default.
        articles_file: Articles for `pretrain_on`; `data/articles.jsonl` of the workspace by default.

    Raises:
        JmedloraError: The run cannot be right: step 0 differs from the base, the loss is no number.
        JmedloraError, records.RecordError: Data or base cannot be used.
    """
    paths.check_name(run_name, "run_name")
    train_file = train_file or workspace.data / "instructions" / "train.jsonl"
    articles_file = articles_file or workspace.data / "articles.jsonl"
    folder = workspace.adapters / run_name
    record_path = workspace.records / f"20_tune__{run_name}.json"
    base = loading.find_base(settings.base, workspace)
    records = encoding.read_instructions(train_file)
    identity = run_folder.identity_of(settings, base, [train_file, *([articles_file] if settings.pretrain_on else [])])
    with run_folder.alone(folder):
        if done := processes.from_main(lambda: run_folder.begin(folder, record_path, identity)):
            return done
        record = _train(settings, run_name, workspace, base, records, articles_file, folder, identity)
        processes.from_main(lambda: _finish(workspace, folder, record))
    return record


def _train(
    settings: TuneSettings,
    run_name: str,
    workspace: paths.Workspace,
    base: ModelEntry,
    records: Sequence[dict[str, Any]],
    articles_file: Path,
    folder: Path,
    identity: dict[str, Any],
) -> Record:
    meter = Meter()
    from transformers import set_seed

    metrics: dict[str, Any] = {}
    if settings.pretrain_on:
        with meter.stage("pretrain"):
            base, metrics["pretrain_series"] = _pretrain(settings, base, articles_file, folder)
    with meter.stage("load"):
        tokenizer = loading.load_tokenizer(base)
        rows, audit = encoding.encode_records(records, tokenizer, settings.template, settings.max_length, settings.too_long)
        set_seed(settings.seed)
        model = build_model(settings, base)
        metrics["step0_max_difference"] = step_zero_difference(model, rows[0].ids)
    if metrics["step0_max_difference"] != 0.0:
        raise JmedloraError(
            f"{run_name}: at step 0 the adapted model differs from its base by {metrics['step0_max_difference']:.2e}; it must not"
        )
    parameters = loading.count_parameters(model)
    targets = lora_target_names(model)
    with meter.stage("train"):
        outcome = fit(settings, model, tokenizer, rows, folder)
    metrics |= {"series": outcome.series, "final_loss": _tail_mean(outcome.series)}
    meter.timing |= {"train_seconds": outcome.seconds, "tokens_per_second": round(outcome.tokens / max(outcome.seconds, 1e-9), 1)}
    metrics["padding_share"] = round(outcome.padding_share, 4)
    metrics["epochs"] = round(settings.max_steps * outcome.step_rows / len(rows), 4)
    metrics["weights_sha256"] = {str(step): weights_sha256(path) for step, path in kept_checkpoints(folder).items()}
    template = prompts.template_facts(settings.template, tokenizer)
    return Record(
        kind="tune",
        name=f"20_tune__{run_name}",
        preset=workspace.preset,
        seed=settings.seed,
        config=identity["settings"] | {"run_name": run_name, "template_text": template, "processes": identity["processes"]},
        metrics=metrics,
        counts=audit.counts() | {"trainable_parameters": parameters["trainable"]},
        data=identity["data"],
        model={
            "base": settings.base,
            "revision": base.revision or "",
            "fingerprint": identity["base"],
            "architecture": loading.model_family(model),
            "parameters": parameters["total"] - (parameters["trainable"] if settings.method != "full" else 0),
            "quantisation": "nf4" if settings.method == "qlora" else "none",
            "targets": targets,
            "attention": str(model.config._attn_implementation),
        },
        **meter.fields(),
    )


def build_model(settings: TuneSettings, base: ModelEntry) -> Any:
    """Loads the base and puts the adapter on it; call after the seed is set, since the adapter's start is random.

    Raises:
        JmedloraError: The attention kernel asked for cannot run here.
    """
    from transformers import AutoConfig

    mixed = settings.method == "full" and settings.dtype == "bfloat16"
    device = processes.local_device(settings.device)
    model_config = AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False)
    on_cpu = settings.device == "cpu" or processes.sharded()  # sharded weights are tried on the CPU before they are divided
    model, _ = loading.load_base(
        base,
        quantisation="nf4" if settings.method == "qlora" else "none",
        dtype="float32" if mixed else settings.dtype,
        device=device,
        attention=attention.choose(settings.attn_implementation, settings.dtype, model_config, on_cpu),
        quant_storage="bfloat16" if processes.sharded() else "uint8",
    )
    if settings.method == "full":
        return model.requires_grad_(True)
    from peft import get_peft_model

    # peft's prepare_model_for_kbit_training is left out: it casts embeddings, head and norms to float32, and with them every activation.
    tuned = get_peft_model(model, lora_config(settings, base, model))
    if not processes.sharded():  # FSDP gathers a layer's weights when it is called, and the fused pass does not call B
        from jmedlora_utils.tuning import fused_lora

        fused_lora.fuse(tuned)
    return tuned


def lora_config(settings: TuneSettings, base: ModelEntry, model: Any) -> Any:
    """The peft configuration of the adapter."""
    from peft import LoraConfig

    embeddings: list[str] = []
    if settings.train_embeddings:
        wanted = (model.get_input_embeddings(), model.get_output_embeddings())
        embeddings = [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is w for w in wanted)]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=list(settings.target_modules) or loading.lora_targets(base, model),
        modules_to_save=embeddings or None,
        ensure_weight_tying=bool(embeddings) and bool(model.config.tie_word_embeddings),
    )


def preview(settings: TuneSettings, workspace: paths.Workspace) -> tuple[dict[str, Any], dict[str, int]]:
    """What will be trained, without loading a weight: the peft configuration (empty for `full`) and parameter counts.

    Returns:
        The configuration, and `total` (the base's own) and `trainable`.
    """
    import torch
    from accelerate import init_empty_weights
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    base = loading.find_base(settings.base, workspace)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(base.location, revision=base.revision, trust_remote_code=False), dtype=torch.float32
        )
        model.tie_weights()
        total = loading.count_parameters(model)["total"]
        if settings.method == "full":
            return {}, {"total": total, "trainable": total}
        adapted = get_peft_model(model, lora_config(settings, base, model))
    chosen = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias", "task_type")
    config = adapted.peft_config["default"].to_dict()
    shown = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items() if k in chosen}
    return shown, {"total": total, "trainable": loading.count_parameters(adapted)["trainable"]}


def lora_target_names(model: Any) -> list[str]:
    """Names of the layers that carry an adapter, without their place in the model; empty for a full model."""
    if not hasattr(model, "peft_config"):
        return []
    return sorted({name.rsplit(".", 1)[-1] for name in model.targeted_module_names})


def step_zero_difference(model: Any, ids: Sequence[int]) -> float:
    """Largest difference between the logits of the adapted model and of its base on one row; 0 before training.

    LoRA's B starts at zero, so an untrained adapter must change nothing at all.
    """
    if not hasattr(model, "disable_adapter"):
        return 0.0
    import torch

    was_training = model.training
    model.eval()
    row = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.no_grad():
        adapted = model(input_ids=row).logits
        with model.disable_adapter():
            plain = model(input_ids=row).logits
    model.train(was_training)
    return float((adapted.float() - plain.float()).abs().max())


@dataclass(frozen=True)
class Outcome:
    """What a training loop leaves behind.

    Attributes:
        series: One row a step: step, loss, learning rate, gradient norm.
        seconds: Of this session's training.
        tokens: Of this session's rows, padding not counted.
        step_rows: Rows of one optimizer step.
        padding_share: Share of padding among all that the model read, 0 to 1.
    """

    series: list[dict[str, float]]
    seconds: float
    tokens: int
    step_rows: int
    padding_share: float


def fit(settings: TuneSettings, model: Any, tokenizer: Any, rows: Sequence[encoding.Row], folder: Path) -> Outcome:
    """Trains a model that is ready, with checkpoints in `folder`; goes on from the latest complete one.

    Raises:
        JmedloraError: The loss is not finite.
        JmedloraError: Packing is asked for and this model would let packed records read each other.
    """
    from jmedlora_utils.tuning.response_trainer import LossNotFinite, OrderedRows, ResponseTrainer, checkpoints

    cpu = not processes.on_card(model)
    arguments = training_arguments(settings, folder, cpu)
    step_rows = settings.batch_size * settings.gradient_accumulation * arguments.world_size
    lengths = [len(row.ids) for row in rows]
    order = encoding.data_order(lengths, settings.max_steps, step_rows, settings.seed, settings.length_grouped)
    collator = collator_for(settings, model, tokenizer, rows)
    trainer = ResponseTrainer(
        model=model,
        args=arguments,
        train_dataset=OrderedRows(rows, order),
        processing_class=tokenizer,
        keep_steps=settings.kept_steps(),
        checkpoint_every=settings.checkpoint_every,
        collator=collator,
    )
    done = {step: path for step, path in checkpoints(folder).items() if any((path / name).is_file() for name in OPTIMIZER_FILES)}
    start = max(done, default=0)
    began = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(done[start]) if done else None)
    except LossNotFinite as error:
        raise JmedloraError(str(error)) from error
    finally:
        trainer.detach()
    seconds = round(time.perf_counter() - began, 3)
    keys = ("loss", "learning_rate", "grad_norm")
    series = [{"step": row["step"]} | {k: row[k] for k in keys} for row in trainer.state.log_history if "loss" in row]
    tokens = sum(lengths[i] for i in order[start * step_rows :])
    padding = collator.padding_share([lengths[i] for i in order], settings.batch_size)
    return Outcome(series, seconds, tokens, step_rows, padding)


def collator_for(settings: TuneSettings, model: Any, tokenizer: Any, rows: Sequence[encoding.Row]) -> Any:
    """Makes batches of records: padded, or packed if this model keeps packed records apart.

    Raises:
        JmedloraError: It does not.
    """
    if not settings.packing:
        return encoding.Collator(tokenizer.pad_token_id)
    packing.check(model, rows[0].ids, rows[-1].ids)
    flash = model.config._attn_implementation == attention.FLASH
    hidden = model.get_input_embeddings().weight.shape[1]
    return packing.PackingCollator(tokenizer.pad_token_id, settings.max_length, hidden, one_row=flash)


def training_arguments(settings: TuneSettings, folder: Path, cpu: bool) -> Any:
    """The settings in the Trainer's words."""
    from transformers import TrainingArguments

    checkpointing = settings.gradient_checkpointing and not processes.sharded()  # FSDP has its own
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16",  # autocast: the adapter is float32, its products need not be
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        seed=settings.seed,
        use_cpu=cpu,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=settings.report_to,
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        disable_tqdm=True,
    )
    # One process drives one card. Seeing several, the Trainer would copy the model to each and multiply the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def find_finished(
    settings: TuneSettings, run_name: str, workspace: paths.Workspace, count: int = 1, sharded: bool = False
) -> Record | None:
    """The record of this very run if it is finished, with nothing loaded but hashes.

    Args:
        settings: What to train.
        run_name: Name of the run.
        workspace: As for `tune`.
        count: Processes that trained it.
        sharded: Whether weights were divided among them.

    Raises:
        JmedloraError: Another number of processes trained it.
    """
    files = [workspace.data / "instructions" / "train.jsonl", *([workspace.data / "articles.jsonl"] if settings.pretrain_on else [])]
    identity = run_folder.identity_of(settings, loading.find_base(settings.base, workspace), files)
    identity["processes"] = {"count": count, "sharded": sharded}
    return run_folder.finished(workspace.adapters / run_name, workspace.records / f"20_tune__{run_name}.json", identity)


def _finish(workspace: paths.Workspace, folder: Path, record: Record) -> None:
    """Writes the record, then drops what only resuming needs."""
    write_record(workspace.records, record)
    for checkpoint in kept_checkpoints(folder).values():
        run_folder.strip(checkpoint)


def _pretrain(settings: TuneSettings, base: ModelEntry, articles_file: Path, folder: Path) -> tuple[ModelEntry, list[dict[str, float]]]:
    """Continued pretraining: every parameter, next-token loss on articles. Returns the new base and its loss series."""
    from transformers import set_seed

    result, work = folder / "base", folder / "pretraining"
    log = result / "pretrain_series.json"
    if log.is_file():
        return loading.find_base(str(result)), json.loads(log.read_text(encoding="utf-8"))
    plan = replace(
        settings,
        method="full",
        max_steps=settings.pretrain_steps,
        learning_rate=settings.pretrain_learning_rate,
        warmup_steps=min(settings.warmup_steps, settings.pretrain_steps),
        save_steps=(),
        pretrain_on="",
        pretrain_steps=0,
    )
    set_seed(settings.seed)
    model = build_model(plan, base)
    tokenizer = loading.load_tokenizer(base)
    rows, _ = encoding.encode_articles(encoding.read_articles(articles_file), tokenizer, settings.max_length)
    outcome = fit(plan, model, tokenizer, rows, work)
    processes.from_main(lambda: _keep_pretrained(kept_checkpoints(work)[plan.max_steps], outcome.series, result))
    return loading.find_base(str(result)), outcome.series


def _keep_pretrained(last: Path, series: list[dict[str, float]], result: Path) -> None:
    (last / "pretrain_series.json").write_text(json.dumps(series), encoding="utf-8")
    work = last.parent
    os.replace(last, result)
    shutil.rmtree(work)
    run_folder.strip(result)


def _tail_mean(series: Sequence[dict[str, float]]) -> float:
    """Mean loss of the last tenth of the steps."""
    tail = series[-max(1, len(series) // 10) :]
    return sum(row["loss"] for row in tail) / len(tail)


def read_job(path: Path) -> dict[str, Any]:
    """A tuning job as `launch` writes it: settings (see `TuneSettings`), run_name, preset, seed.

    Raises:
        JmedloraError: The file is not there, not JSON, or not of this form.
    """
    wanted = {"settings": dict, "run_name": str, "preset": str, "seed": int}
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise JmedloraError(f"--settings {path}: it cannot be read as JSON ({error}); notebook 20 writes such a file") from error
    wrong = [key for key, kind in wanted.items() if not isinstance(job, dict) or not isinstance(job.get(key), kind)]
    if wrong:
        raise JmedloraError(f"--settings {path}: {wrong[0]!r} is missing or no {wanted[wrong[0]].__name__}; notebook 20 writes such a file")
    if unknown := set(job["settings"]) - {f.name for f in fields(TuneSettings)}:
        raise JmedloraError(f"--settings {path}: no setting {sorted(unknown)[0]!r}; see TuneSettings")
    return job


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one tuning job from a JSON file, in one process or, under `accelerate launch`, in several."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.tuning.training", description=main.__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="JSON: settings (TuneSettings), run_name, preset, seed")
    chosen = parser.parse_args(arguments)
    try:
        job = read_job(chosen.settings)
        record = tune(TuneSettings(**job["settings"]), job["run_name"], paths.Workspace(job["preset"], job["seed"]))
    except JmedloraError as error:
        if processes.is_main():
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        processes.leave()
    if processes.is_main():
        print(json.dumps({"record": record.name}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
