"""SLURM for tests: commands that only write down what they are asked, and a real cluster of one node on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_port, wait_for

COMMANDS = ("sbatch", "squeue", "sacct", "sacctmgr", "sshare", "sinfo", "scontrol", "scancel")
DAEMONS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm", "srun": "slurm-wlm"}

# Stands for every command. `sbatch` keeps its arguments and makes the notebook that the job would leave, unless the job is to fail.
FAKE = """#!{python}
import fcntl, json, os, sys
from pathlib import Path
state, name, asked = Path({state!r}), Path(sys.argv[0]).name, sys.argv[1:]
if name == "sbatch":
    with open(state / "submitted.jsonl", "a+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        tries = [json.loads(line)["rule"] for line in log]
        rule = asked[asked.index("--comment") + 1].removeprefix("rule_")
        fails = rule in os.environ.get("FAIL_ONCE", "").split() and rule not in tries
        log.write(json.dumps(dict(rule=rule, arguments=asked, fails=fails, seed=rule.split("__")[0])) + "\\n")
    if not fails:
        seed, _, output = rule.partition("__") if rule.startswith("seed") else ("", "", rule)
        target = Path(os.environ["JMEDLORA_RUNS"]) / os.environ["FAKE_PRESET"] / seed / "notebooks" / (output + ".ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{{}}")
    print(len(tries) + 1)
elif name == "sacct" and "-X" in asked:
    rows = [json.loads(line) for line in open(state / "submitted.jsonl")]
    print("\\n".join(f"{{n}}|{{'FAILED' if row['fails'] else 'COMPLETED'}}" for n, row in enumerate(rows, start=1)))
elif name == "sinfo":
    print("PARTITION\\ngpu*")
"""


class FakeSlurm:
    """A folder of commands for the beginning of PATH."""

    def __init__(self, folder: Path, preset: str) -> None:
        self.folder = folder
        commands = folder / "commands"
        commands.mkdir(parents=True)
        for name in COMMANDS:
            (commands / name).write_text(FAKE.format(python=sys.executable, state=str(folder)))
            (commands / name).chmod(0o755)
        self.environment = {"PATH": f"{commands}:{os.environ['PATH']}", "FAKE_PRESET": preset, "JMEDLORA_RUNS": str(folder / "runs")}

    def submitted(self) -> list[dict]:
        """Every call of sbatch: rule, arguments, and whether the job fails."""
        log = self.folder / "submitted.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def why_no_slurm() -> str:
    """Why a real one-node SLURM cannot be started here; empty where it can."""
    missing = [name for name in DAEMONS if not _find(name)]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt-get install {' '.join(sorted({DAEMONS[m] for m in missing}))})"
    return "" if os.geteuid() == 0 else "a SLURM of one's own needs root, to start jobs"


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def one_node_slurm(folder: Path, gpus: int = 1, cores: int = 8, memory_mb: int = 200_000) -> Iterator[dict[str, str]]:
    """A SLURM of one node, all state below `folder`, that claims cards, cores and memory. Yields the environment of its commands."""
    folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().split(".")[0]
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = f"""
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
MinJobAge=3600
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    (folder / "slurm.conf").write_text(configuration)
    cards = [folder / f"card{n}" for n in range(gpus)]
    for card in cards:
        card.touch()
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={card}\n" for card in cards))
    commands = folder / "commands"
    for made in (folder / "state", folder / "spool", commands):
        made.mkdir(exist_ok=True)
    # The executor takes SLURM's variables, SLURM_CONF too, from the step that it starts inside a job.
    (commands / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {_find("srun")} "$@"\n')
    (commands / "srun").chmod(0o755)
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{commands}:{os.environ['PATH']}:/usr/sbin:/sbin"}
    munge = ["--foreground", "--force", "--socket", f"{folder}/munge.socket", "--key-file", str(key), "--pid-file", f"{folder}/munged.pid"]
    munge += ["--log-file", f"{folder}/munged.log", "--seed-file", f"{folder}/munged.seed"]
    daemons = []
    try:
        for name, arguments in (("munged", munge), ("slurmctld", ["-D"]), ("slurmd", ["-D"])):
            log = (folder / f"{name}.out").open("w")
            command = [_find(name) or name, *arguments]
            daemons.append(subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True))
            time.sleep(0.5)
        wait_for(lambda: _is_idle(os.environ | environment), 60)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _is_idle(environment: dict[str, str]) -> bool:
    said = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
    return said.stdout.strip() == "idle"


def completed_jobs(folder: Path) -> list[dict[str, str]]:
    """What the controller wrote of every finished job: `JobState`, `Name`, `TimeLimit` and the like."""
    lines = (folder / "completed.txt").read_text().splitlines() if (folder / "completed.txt").is_file() else []
    return [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines]
