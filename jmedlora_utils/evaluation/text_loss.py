"""Loss per byte of running text, before and after tuning: what a model has unlearned of the language itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from jmedlora_utils.core import identity, locks, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Meter, Record, read_record, sha256_file, write_record
from jmedlora_utils.data import prompts
from jmedlora_utils.evaluation.evaluator import Examinee
from jmedlora_utils.tuning import encoding


def measure(examinee: Examinee, run_name: str, workspace: paths.Workspace, names: Sequence[str]) -> list[Record]:
    """The loss per byte of each step on each file `data/texts/<name>.jsonl`; a record each, `30_texts__<run>__step<k>`, made once.

    The examinee is left open.

    Raises:
        JmedloraError: A file is missing or holds no text, the loss is not finite, or the backend is vLLM, which gives no loss.
    """
    if not names:
        return []
    if examinee.settings.backend == "vllm":
        raise JmedloraError("texts: backend 'vllm' only writes answers; leave texts empty, or use backend='transformers'")
    files = {name: workspace.data / "texts" / f"{name}.jsonl" for name in names}
    if missing := [path for path in files.values() if not path.is_file()]:
        raise JmedloraError(f"{paths.relative(missing[0])}: no such file; run notebook 12 first, or leave the name out of texts")
    with locks.alone(workspace.logs / f".30_texts__{run_name}.lock", f"the texts of {run_name}"):
        return [_record(examinee, step, run_name, workspace, files) for step in examinee.settings.steps]


def _record(examinee: Examinee, step: int, run_name: str, workspace: paths.Workspace, files: dict[str, Any]) -> Record:
    meter, name = Meter(), f"30_texts__{run_name}__step{step}"
    config = {"run_name": run_name, "base": examinee.settings.base, "step": step, "dtype": examinee.settings.dtype}
    config |= {"quantisation": examinee.settings.quantisation, "produced_by": identity.produced_by("evaluation.text_loss")}
    config |= {key: value for key, value in examinee.settings.recorded().items() if key == "adapter_mode"}  # where it is no default
    data, weights = {f"texts/{key}": sha256_file(path) for key, path in files.items()}, examinee.checkpoints.keys[step]
    path = workspace.records / f"{name}.json"
    earlier = read_record(path) if path.is_file() else None
    if earlier and (earlier.config, earlier.data, earlier.model.get("weights")) == (config, data, weights):
        return earlier
    texts = {key: encoding.read_articles(path) for key, path in files.items()}
    probe = prompts.encode_prompt(examinee.tokenizer, next(iter(texts.values()))[0])
    if step < examinee.backend.step:
        examinee.backend.close()  # a base gets its adapters in rising order, and exams were asked of later steps before
    examinee.backend.load(step, probe)
    with meter.stage("read"):
        found = {key: loss_per_byte(examinee.backend.model, examinee.tokenizer, rows) for key, rows in texts.items()}
    model = {"base": examinee.settings.base, "weights": weights, "origin": examinee.checkpoints.base.came_from}
    record = Record("texts", name, workspace.preset, workspace.seed, config, found, data=data, model=model, **meter.fields())
    write_record(workspace.records, record)
    return record


def loss_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> dict[str, float]:
    """Negative log-likelihood of whole texts, each read alone, over their bytes in UTF-8.

    Returns:
        `nats_per_byte`, and the `bytes` and `tokens` that it rests on. The first token of a text without a BOS is not predicted.
    """
    import torch

    total, count, size = 0.0, 0, 0
    for text in texts:
        ids = torch.tensor([prompts.encode_prompt(tokenizer, text)], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
        size += len(text.encode("utf-8"))
    if not size or not math.isfinite(total):
        raise JmedloraError("texts: they are empty, or the model computes NaN or infinity; check the file and the weights")
    return {"nats_per_byte": total / size, "bytes": size, "tokens": count}


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per step and file of texts: `step`, `texts`, `bytes`, `nats_per_byte`."""
    rows = [
        {"step": r.config["step"], "texts": name, "bytes": int(found["bytes"]), "nats_per_byte": f"{found['nats_per_byte']:.3f}"}
        for r in records
        for name, found in r.metrics.items()
    ]
    return pd.DataFrame(rows, columns=["step", "texts", "bytes", "nats_per_byte"])
