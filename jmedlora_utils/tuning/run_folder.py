"""The folder of a tuning run: whose it is, whether the run is finished, and that one process alone works in it."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from jmedlora_utils.core import locks
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.identity import produced_by
from jmedlora_utils.core.records import Record, read_json, read_record, sha256_file, sha256_text, write_json
from jmedlora_utils.models import loading
from jmedlora_utils.models.registry import ModelEntry
from jmedlora_utils.tuning import processes
from jmedlora_utils.tuning.settings import TuneSettings

MARKER = "run.json"
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")
RESUME_FILES = (*OPTIMIZER_FILES, "pytorch_model_fsdp.bin", "scheduler.pt", "trainer_state.json", "rng_state*.pth")


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """Checkpoints of a run by step, whole models (`full`) and adapters alike."""
    found = {}
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if step.isdigit() and ((path / "adapter_config.json").is_file() or (path / "config.json").is_file()):
            found[int(step)] = path
    return dict(sorted(found.items()))


def resumable_checkpoints(folder: Path) -> dict[int, Path]:
    """Those of them that training can go on from: a finished run has none."""
    return {step: path for step, path in kept_checkpoints(folder).items() if any((path / name).is_file() for name in OPTIMIZER_FILES)}


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the weight files of a checkpoint or an adapter; those of torch count where there are none of safetensors."""
    files = sorted(folder.glob("*.safetensors")) or sorted({*folder.glob("adapter_model*.bin"), *folder.glob("pytorch_model*.bin")})
    return sha256_text("".join(map(sha256_file, files)))


def identity_of(settings: TuneSettings, base: ModelEntry, files: Sequence[Path]) -> dict[str, Any]:
    """What makes two runs the same run: settings, data, base, processes, and the code and libraries that train."""
    return {
        "settings": settings.shaping(),
        "data": {path.name: sha256_file(path) for path in files},
        "base": loading.fingerprint(base),
        "processes": {"count": processes.count(), "sharded": processes.sharded()},
        "produced_by": produced_by("tuning.training"),
    }


def finished(folder: Path, record_path: Path, identity: dict[str, Any]) -> Record | None:
    """The record of this very run if it is finished: same identity, all kept checkpoints there and with the weights it names."""
    stored = stored_identity(folder)
    if stored is None:
        return None
    same_but_processes = stored != identity and stored | {"processes": identity["processes"]} == identity
    kept = kept_checkpoints(folder)
    if same_but_processes and kept:
        made, now = (_in_words(found["processes"]) for found in (stored, identity))
        raise JmedloraError(
            f"{folder.name}: its checkpoints were made by {made}, this run has {now}; the rows of a step and the optimizer's state would "
            f"not fit. Start it with num_processes={stored['processes']['count']} again, or give it another run_name"
        )
    if stored != identity or not record_path.is_file():
        return None
    record = read_record(record_path)
    sums = {str(step): weights_sha256(path) for step, path in kept.items()}
    intact = all(sums.get(step) == digest for step, digest in record.metrics["weights_sha256"].items())
    return record if record.status == "done" and intact else None


def _in_words(made_by: dict[str, Any]) -> str:
    count = made_by["count"]
    return f"{count} process{'es' if count > 1 else ''}{' under FSDP' if made_by['sharded'] else ''}"


def stored_identity(folder: Path) -> dict[str, Any] | None:
    """The identity that the run in this folder was started with; None where there is none, or none that can be read."""
    try:
        stored = read_json(folder / MARKER)
    except JmedloraError:
        return None
    return stored if isinstance(stored, dict) and isinstance(stored.get("processes"), dict) else None


def alone(folder: Path) -> AbstractContextManager[Any]:
    """Keeps a second process off this run: one that survived a killed notebook, say. The main process of several holds the lock."""
    lock = locks.alone(folder.parent / f".{folder.name}.lock", f"the training run {folder.name}")
    return lock if processes.is_main() else nullcontext()


def begin(folder: Path, record_path: Path, identity: dict[str, Any]) -> Record | None:
    """The record of a finished run, or None with the folder made this run's.

    What another run left there, or a finished run whose weights are gone or changed, is moved to `.superseded/` with its record, never
    deleted.
    """
    if done := finished(folder, record_path, identity):
        return done
    if folder.exists() and (stored_identity(folder) != identity or record_path.is_file()):
        aside = folder.parent / ".superseded"
        aside.mkdir(exist_ok=True)
        aside = next(path for n in itertools.count() if not (path := aside / f"{folder.name}.{n}").exists())
        folder.rename(aside)
        if record_path.is_file():
            record_path.rename(aside / record_path.name)
    if not (folder / MARKER).is_file():
        write_json(folder / MARKER, identity)
    return None


def strip(checkpoint: Path) -> None:
    """Drops what only resuming needs: optimizer, scheduler, random states."""
    for pattern in RESUME_FILES:
        for path in checkpoint.glob(pattern):
            path.unlink()
