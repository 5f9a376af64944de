"""Tuning in several processes: `accelerate launch` as a subprocess, since a kernel that has touched a card cannot fork workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import quiet
from jmedlora_utils.core.records import Record, read_record, write_text
from jmedlora_utils.tuning import training
from jmedlora_utils.tuning.training import TuneSettings

CONFIGS = paths.PRESETS / "accelerate"


def tune(settings: TuneSettings, run_name: str, workspace: paths.Workspace, num_processes: int = 1, launch_config: str = "") -> Record:
    """Tunes in this process, or in several: one on each card.

    A step then takes `batch_size * gradient_accumulation * num_processes` records. What the processes print goes to
    `logs/20_tune__<run_name>.launch.log`; the record is the main process's.

    Args:
        settings: What to train.
        run_name: Name of the run.
        workspace: As for `training.tune`.
        num_processes: Processes on this machine, or on all machines that `launch_config` names.
        launch_config: Configuration of accelerate: `ddp`, `fsdp2_nf4`, or a YAML file. Empty for `ddp` where there are several
            processes, and for none where there is one.

    Raises:
        JmedloraError: The configuration is not there or does not fit the settings, or a process failed; with its message.
    """
    if num_processes < 1:
        raise JmedloraError(f"num_processes is {num_processes}; it must be at least 1")
    if num_processes == 1 and not launch_config:
        return training.tune(settings, run_name, workspace)
    config = find_config(launch_config or "ddp")
    kind, machines = _read_config(config)
    if num_processes == 1 and kind == "ddp":
        raise JmedloraError(f"launch_config {launch_config!r} is for several processes; raise num_processes, or leave launch_config empty")
    if done := training.find_finished(settings, run_name, workspace, num_processes, kind == "fsdp"):
        return done
    log = workspace.logs / f"20_tune__{run_name}.launch.log"
    job = {"settings": asdict(settings), "run_name": run_name, "preset": workspace.preset, "seed": workspace.seed}
    job_file = write_text(workspace.logs / f"20_tune__{run_name}.launch.json", json.dumps(job, ensure_ascii=False, indent=1) + "\n")
    status = _run(command(config, num_processes, job_file, settings.gradient_checkpointing and kind == "fsdp", machines), log)
    if status:
        raise JmedloraError(f"{run_name}: the {num_processes} processes ended with status {status}: {_cause(log)}")
    return read_record(workspace.records / f"20_tune__{run_name}.json")


def find_config(name: str) -> Path:
    """The configuration of that name in `notebooks/presets/accelerate/`, or the file of that path.

    Raises:
        JmedloraError: There is neither.
    """
    for path in (CONFIGS / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
    raise JmedloraError(f"launch_config {name!r} is no file, and no configuration has that name; known: {known}")


def is_sharded(name: str) -> bool:
    """Whether a configuration divides the base's weights over the processes (FSDP).

    Raises:
        JmedloraError: There is no such configuration, or it is malformed.
    """
    return _read_config(find_config(name))[0] == "fsdp"


def command(config: Path, num_processes: int, job_file: Path, checkpointing: bool = False, machines: int = 1) -> list[str]:
    """The command that starts the processes; on one machine the port is a free one.

    Args:
        config: Configuration of accelerate.
        num_processes: Processes in all.
        job_file: JSON file for `python -m jmedlora_utils.tuning.training`.
        checkpointing: Whether FSDP computes activations again.
        machines: Machines that take part.
    """
    given = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(num_processes)]
    given += ["--main_process_port", "0"] if machines == 1 else []
    given += ["--fsdp_activation_checkpointing", "true"] if checkpointing else []
    return [*given, "-m", "jmedlora_utils.tuning.training", "--settings", str(job_file)]


def _read_config(path: Path) -> tuple[str, int]:
    """Kind (`ddp` or `fsdp`) and number of machines."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise JmedloraError(f"{paths.relative(path)}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(raw, dict):
        raise JmedloraError(f"{paths.relative(path)}: not a mapping of settings; `accelerate config` writes one")
    kinds = {"MULTI_GPU": "ddp", "FSDP": "fsdp"}
    kind = raw.get("distributed_type")
    if kind not in kinds:
        raise JmedloraError(f"{paths.relative(path)}: distributed_type is {kind!r}; it takes {' or '.join(kinds)}")
    if kind == "FSDP" and int((raw.get("fsdp_config") or {}).get("fsdp_version", 1)) != 2:
        raise JmedloraError(f"{paths.relative(path)}: fsdp_version must be 2; version 1 is gone from transformers")
    return kinds[kind], int(raw.get("num_machines", 1))


def _run(given: list[str], log: Path) -> int:
    """Runs a command to its end, its output in a log file; stops it where this process is interrupted."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(paths.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    if not quiet():
        print(f"follow it with: tail -f {paths.relative(log)}")
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(given, stdout=file, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _cause(log: Path) -> str:
    """What the log says of a failure: the project's own message, else the first error (those after it follow from it), else its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    for wanted in ("error: ", "Error: "):
        found = [line for line in lines if line.startswith("error: ") or (wanted == "Error: " and wanted in line)]
        if found:
            return f"{found[0].removeprefix('error: ')} (log: {paths.relative(log)})"
    return f"{' / '.join(lines[-3:])} (log: {paths.relative(log)})"
