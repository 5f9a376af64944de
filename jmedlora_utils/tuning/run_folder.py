"""The folder of a tuning run: whose it is, whether the run is finished, and that one process alone works in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from jmedlora_utils.core import locks
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.identity import produced_by
from jmedlora_utils.core.records import Record, read_record, sha256_file, sha256_text, write_text
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import processes
from jmedlora_utils.tuning.settings import TuneSettings

RESUME_FILES = ("optimizer.pt", "optimizer.bin", "pytorch_model_fsdp.bin", "scheduler.pt", "trainer_state.json", "rng_state*.pth")
# Settings that do not shape the result.
PASSING = ("report_to", "device", "checkpoint_every")


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a run by step, whole models (`full`) and adapters alike."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdigit() and ((path / "adapter_config.json").is_file() or (path / "config.json").is_file()):
            found[int(step)] = path
    return dict(sorted(found.items()))


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the weight files of a checkpoint or an adapter; those of torch count where there are none of safetensors."""
    files = sorted(folder.glob("*.safetensors")) or sorted({*folder.glob("adapter_model*.bin"), *folder.glob("pytorch_model*.bin")})
    return sha256_text("".join(map(sha256_file, files)))


def finished(folder: Path, record_path: Path, identity: dict[str, Any]) -> Record | None:
    """The record of this very run if it is finished: same settings, data, base and code, all kept checkpoints there and unchanged.

    Raises:
        JmedloraError: All is the same but the number of processes.
    """
    stored = stored_identity(folder)
    if stored is None:
        return None
    kept = kept_checkpoints(folder)
    there = {str(step) for step in kept}
    if stored | {"processes": identity["processes"]} == identity != stored and there:
        made, now = stored["processes"], identity["processes"]
        raise JmedloraError(
            f"{folder.name}: its checkpoints were made by {_in_words(made)}, this run has {_in_words(now)}; the rows of a step and the "
            f"optimizer's state would not fit. Start it with num_processes={made['count']} again, or give it another run_name"
        )
    if stored != identity or not record_path.is_file():
        return None
    record = read_record(record_path)
    intact = all(step in there and weights_sha256(kept[int(step)]) == digest for step, digest in record.metrics["weights_sha256"].items())
    return record if record.status == "done" and intact else None


def _in_words(made_by: dict[str, Any]) -> str:
    count = made_by["count"]
    return f"{count} process{'es' if count > 1 else ''}{' under FSDP' if made_by['sharded'] else ''}"


def identity_of(settings: TuneSettings, base: ModelEntry, files: Sequence[Path]) -> dict[str, Any]:
    """What makes two runs the same run."""
    config = json.loads(json.dumps(asdict(settings)))
    return {
        "settings": {k: v for k, v in config.items() if k not in PASSING},
        "data": {path.name: sha256_file(path) for path in files},
        "base": loading.fingerprint(base),
        "processes": {"count": processes.count(), "sharded": processes.sharded()},
        "produced_by": produced_by("tuning.training"),
    }


def stored_identity(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder said of itself; settings that are younger than it have their defaults."""
    marker = folder / "run.json"
    if not marker.is_file():
        return None
    stored = json.loads(marker.read_text(encoding="utf-8"))
    defaults = {f.name: f.default for f in fields(TuneSettings) if f.default is not MISSING and f.name not in PASSING}
    stored["settings"] = json.loads(json.dumps(defaults)) | stored.get("settings", {})
    return {"processes": {"count": 1, "sharded": False}} | stored


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second process off this run: one that survived a killed notebook, say. The main process of several holds the lock.

    Raises:
        JmedloraError: Another process is training it.
    """
    if not processes.is_main():
        yield
        return
    with locks.alone(folder.parent / f".{folder.name}.lock", f"the training run {folder.name}"):
        yield


def begin(folder: Path, record_path: Path, identity: dict[str, Any]) -> Record | None:
    """The record of a finished run, or None with the folder made this run's: what another run left is moved aside, never deleted."""
    if done := finished(folder, record_path, identity):
        return done
    marker = folder / "run.json"
    if folder.exists() and stored_identity(folder) != identity:
        aside = folder.parent / ".superseded"
        aside.mkdir(exist_ok=True)
        number = sum(p.name.startswith(f"{folder.name}.") for p in aside.iterdir())
        folder.rename(aside / f"{folder.name}.{number}")
    if not marker.is_file():
        write_text(marker, json.dumps(identity, ensure_ascii=False, indent=1) + "\n")
    return None


def strip(checkpoint: Path) -> None:
    """Drops what only resuming needs: optimizer, scheduler, random states."""
    for pattern in RESUME_FILES:
        for path in checkpoint.glob(pattern):
            path.unlink()
