"""Tuning: LoRA, QLoRA or full, on the response only; killed and started again, it ends where it would have ended.

`python -m jmedlora_utils.tuning.training --settings FILE` runs one job, under `accelerate launch` in several processes (`launch.py`).
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Meter, Record, read_json, write_record, write_text
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.data import controlled, prompts
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import adapters, encoding, processes, run_folder
from jmedlora_utils.tuning.run_folder import kept_checkpoints, weights_sha256
from jmedlora_utils.tuning.settings import TuneSettings


class Job(Checked):
    """A tuning run as one process hands it to others."""

    settings: TuneSettings
    run_name: str
    preset: str
    seed: int


def tune(settings: TuneSettings, run_name: str, workspace: paths.Workspace) -> Record:
    """Tunes one base in this process; a finished run is not trained again, a killed one goes on from its last checkpoint.

    Writes `adapters/<run_name>/checkpoint-<step>/` (peft format; whole models for `full`) for each kept step, and the
    record `20_tune__<run_name>`. A folder left by a run with other settings, data or code is moved to `adapters/.superseded/`.
    """
    paths.check_name(run_name, "run_name")
    if processes.sharded():
        settings.check_sharded()
        if settings.gradient_checkpointing and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING") != "true":
            raise JmedloraError(
                "gradient_checkpointing: FSDP does its own; give `accelerate launch` --fsdp_activation_checkpointing true, as `launch` does"
            )
    folder = workspace.adapters / run_name
    record_path = workspace.records / f"20_tune__{run_name}.json"
    base = loading.find_base(settings.base, workspace)
    records = encoding.read_instructions(_train_file(settings, workspace))
    controlled.check_may_teach(records, workspace.preset)
    identity = run_folder.identity_of(settings, base, _data_files(settings, workspace))
    with run_folder.alone(folder):
        if done := processes.from_main(lambda: run_folder.begin(folder, record_path, identity)):
            return done
        record = _train(settings, run_name, workspace, base, records, identity)
        processes.from_main(lambda: _finish(workspace, folder, record))
    return record


def find_finished(settings: TuneSettings, run_name: str, workspace: paths.Workspace, made_by: dict[str, Any]) -> Record | None:
    """The record of this very run if it is finished, with nothing loaded but hashes.

    `made_by` says what processes train it: their `count`, and whether the weights are `sharded` among them.
    """
    base = loading.find_base(settings.base, workspace)
    identity = run_folder.identity_of(settings, base, _data_files(settings, workspace)) | {"processes": made_by}
    return run_folder.finished(workspace.adapters / run_name, workspace.records / f"20_tune__{run_name}.json", identity)


def _train_file(settings: TuneSettings, workspace: paths.Workspace) -> Path:
    return workspace.data / "instructions" / f"{settings.records}.jsonl"


def _data_files(settings: TuneSettings, workspace: paths.Workspace) -> list[Path]:
    files = [_train_file(settings, workspace), *([workspace.data / "articles.jsonl"] if settings.pretrain_on else [])]
    if missing := [path for path in files if not path.is_file()]:
        raise JmedloraError(f"{paths.relative(missing[0])}: no such file; run notebook 10 first, or 12 for records with controls")
    return files


def _train(
    settings: TuneSettings,
    run_name: str,
    workspace: paths.Workspace,
    base: ModelEntry,
    records: Sequence[dict[str, Any]],
    identity: dict[str, Any],
) -> Record:
    meter = Meter()
    from transformers import set_seed

    folder = workspace.adapters / run_name
    metrics: dict[str, Any] = {}
    if settings.pretrain_on:
        with meter.stage("pretrain"):
            base, metrics["pretrain_series"] = _pretrain(settings, base, workspace.data / "articles.jsonl", folder)
    with meter.stage("load"):
        tokenizer = loading.load_tokenizer(base)
        rows, audit = encoding.encode_records(records, tokenizer, settings.template, settings.max_length, settings.too_long)
        set_seed(settings.seed)
        model = adapters.build_model(settings, base)
        metrics["step0_max_difference"] = adapters.step_zero_difference(model, rows[0].ids)
    if metrics["step0_max_difference"] != 0.0:
        raise JmedloraError(
            f"{run_name}: at step 0 the adapted model differs from its base by {metrics['step0_max_difference']:.2e}; it must not"
        )
    parameters = loading.count_parameters(model)
    targets = sorted({name.rsplit(".", 1)[-1] for name in getattr(model, "targeted_module_names", ())})  # none in a full model
    with meter.stage("train"):
        outcome = fit(settings, model, tokenizer, rows, folder)
    meter.timing |= {"train_seconds": outcome.seconds, "tokens_per_second": round(outcome.tokens / max(outcome.seconds, 1e-9), 1)}
    last_tenth = outcome.series[-max(1, len(outcome.series) // 10) :]
    metrics |= {
        "series": outcome.series,
        "final_loss": sum(row["loss"] for row in last_tenth) / len(last_tenth),
        "padding_share": round(outcome.padding_share, 4),
        "epochs": round(settings.max_steps * outcome.step_rows / len(rows), 4),
        "weights_sha256": {str(step): weights_sha256(path) for step, path in kept_checkpoints(folder).items()},
    }
    template = prompts.template_facts(settings.template, tokenizer)
    return Record(
        kind="tune",
        name=f"20_tune__{run_name}",
        preset=workspace.preset,
        seed=settings.seed,
        config=identity["settings"] | {"run_name": run_name, "template_text": template, "processes": identity["processes"]},
        metrics=metrics,
        counts=asdict(audit) | {"trainable_parameters": parameters["trainable"]},
        data=identity["data"],
        model={
            "base": settings.base,
            "revision": base.revision or "",
            "origin": base.came_from,
            "fingerprint": identity["base"],
            "architecture": model.config.model_type,
            "parameters": parameters["total"] - (parameters["trainable"] if settings.method != "full" else 0),
            "quantisation": "nf4" if settings.method == "qlora" else "none",
            "targets": targets,
            "attention": str(model.config._attn_implementation),
        },
        **meter.fields(),
    )


def _finish(workspace: paths.Workspace, folder: Path, record: Record) -> None:
    """Writes the record, then drops what only resuming needs."""
    write_record(workspace.records, record)
    for checkpoint in kept_checkpoints(folder).values():
        run_folder.strip(checkpoint)


@dataclass(frozen=True)
class Outcome:
    """What a training loop leaves behind."""

    series: list[dict[str, float]]  # one row per step: step, loss, learning rate, gradient norm
    seconds: float  # of this session's training
    tokens: int  # of this session's rows, padding not counted
    step_rows: int  # rows of one optimizer step
    padding_share: float  # share of padding among all that the model read, 0 to 1


def fit(settings: TuneSettings, model: Any, tokenizer: Any, rows: Sequence[encoding.Row], folder: Path) -> Outcome:
    """Trains a model that is ready, with checkpoints in `folder`; goes on from the latest complete one."""
    from torch.utils.data import Subset

    from jmedlora_utils.tuning.trainer import ResponseTrainer

    arguments = training_arguments(settings, folder, cpu=not processes.on_card(model))
    step_rows = settings.batch_size * settings.gradient_accumulation * arguments.world_size
    lengths = [len(row.ids) for row in rows]
    order = encoding.data_order(lengths, settings.max_steps, step_rows, settings.seed, settings.length_grouped)
    trainer = ResponseTrainer(
        model=model,
        args=arguments,
        train_dataset=Subset(rows, order),  # a whole run as one long epoch: the order depends on nothing but the seed
        processing_class=tokenizer,
        keep_steps=settings.kept_steps(),
        checkpoint_every=settings.checkpoint_every,
        collator=encoding.Collator(tokenizer.pad_token_id),
    )
    done = run_folder.resumable_checkpoints(folder)
    start = max(done, default=0)
    began = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(done[start]) if done else None)
    finally:
        trainer.detach()
    seconds = round(time.perf_counter() - began, 3)
    keys = ("step", "loss", "learning_rate", "grad_norm")
    series = [{key: row[key] for key in keys} for row in trainer.state.log_history if "loss" in row]
    tokens = sum(lengths[i] for i in order[start * step_rows :])
    padding = encoding.padding_share([lengths[i] for i in order], settings.batch_size)
    return Outcome(series, seconds, tokens, step_rows, padding)


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


def _pretrain(settings: TuneSettings, base: ModelEntry, articles_file: Path, folder: Path) -> tuple[ModelEntry, list[dict[str, float]]]:
    """Continued pretraining: every parameter, next-token loss on articles. Returns the new base and its loss series."""
    from transformers import set_seed

    result, work = folder / "base", folder / "pretraining"
    log = result / "pretrain_series.json"
    if log.is_file():
        return loading.find_base(str(result)), read_json(log)
    plan = settings.changed(
        method="full",
        max_steps=settings.pretrain_steps,
        learning_rate=settings.pretrain_learning_rate,
        warmup_steps=min(settings.warmup_steps, settings.pretrain_steps),
        save_steps=[],
        pretrain_on="",
        pretrain_steps=0,
    )
    set_seed(settings.seed)
    model = adapters.build_model(plan, base)
    tokenizer = loading.load_tokenizer(base)
    rows, _ = encoding.encode_articles(encoding.read_articles(articles_file), tokenizer, settings.max_length)
    outcome = fit(plan, model, tokenizer, rows, work)
    processes.from_main(lambda: _keep_pretrained(kept_checkpoints(work)[plan.max_steps], outcome.series, result))
    return loading.find_base(str(result)), outcome.series


def _keep_pretrained(last: Path, series: list[dict[str, float]], result: Path) -> None:
    write_text(last / "pretrain_series.json", json.dumps(series))
    work = last.parent
    os.replace(last, result)
    shutil.rmtree(work)
    run_folder.strip(result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one tuning job from a JSON file, in one process or, under `accelerate launch`, in several."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.tuning.training", description=main.__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="JSON: settings (TuneSettings), run_name, preset, seed")
    chosen = parser.parse_args(arguments)
    try:
        job = Job.read(read_json(chosen.settings), f"--settings {chosen.settings}")
        record = tune(job.settings, job.run_name, paths.Workspace(job.preset, job.seed))
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
