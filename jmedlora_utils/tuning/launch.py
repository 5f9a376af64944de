"""Tuning in several processes: `accelerate launch` as a subprocess, since a kernel that has touched a card cannot fork workers."""

import os
import subprocess
import sys
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import quiet
from jmedlora_utils.core.records import Record, read_record, write_json
from jmedlora_utils.models.launch_config import LaunchConfig, read_launch_config
from jmedlora_utils.tuning import training
from jmedlora_utils.tuning.settings import TuneSettings


def tune(settings: TuneSettings, run_name: str, workspace: paths.Workspace) -> Record:
    """Tunes in this process, or in the several that the settings ask for: one on each card.

    A step then takes `batch_size * gradient_accumulation * num_processes` records. What the processes print goes to
    `logs/20_tune__<run_name>.launch.log`; the record is the main process's.
    """
    if settings.num_processes == 1 and not settings.launch_config:
        return training.tune(settings, run_name, workspace)
    paths.check_name(run_name, "run_name")
    config = read_launch_config(settings.launch_config or "ddp")
    made_by = {"count": settings.num_processes, "sharded": config.sharded}
    if done := training.find_finished(settings, run_name, workspace, made_by):
        return done
    log = workspace.logs / f"20_tune__{run_name}.launch.log"
    job = training.Job(settings=settings, run_name=run_name, preset=workspace.preset, seed=workspace.seed)
    job_file = write_json(workspace.logs / f"20_tune__{run_name}.launch.json", job.model_dump())
    if status := _run(command(config, settings, job_file), log):
        raise JmedloraError(f"{run_name}: the {settings.num_processes} processes ended with status {status}: {_cause(log)}")
    return read_record(workspace.records / f"20_tune__{run_name}.json")


def command(config: LaunchConfig, settings: TuneSettings, job_file: Path) -> list[str]:
    """The command that starts the processes; on one machine the port is a free one."""
    given = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config.path)]
    given += ["--num_processes", str(settings.num_processes)]
    given += ["--main_process_port", "0"] if config.machines == 1 else []
    given += ["--fsdp_activation_checkpointing", "true"] if settings.gradient_checkpointing and config.sharded else []
    return [*given, "-m", "jmedlora_utils.tuning.training", "--settings", str(job_file)]


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
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    others = [line for line in lines if "Error: " in line]
    return f"{(own or others or [' / '.join(lines[-3:])])[0]} (log: {paths.relative(log)})"
