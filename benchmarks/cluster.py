"""Runs a preset on a SLURM of one node that it starts on this machine, twice, and writes what the controller recorded.

`python benchmarks/cluster.py --preset smoke` needs root and Debian's `slurm-wlm` and `munge`; it touches no other SLURM of the machine.
The record goes to `book/results/cluster/`, with a table for the page "Scale".
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jmedlora_utils.core import paths, presets  # noqa: E402
from jmedlora_utils.core.records import git_state, write_text  # noqa: E402
from jmedlora_utils.workflow import runner  # noqa: E402
from tests import slurm  # noqa: E402

PACKAGES = ("snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep", "papermill")
# A cluster of one's own has no accounting, and its jobs are short.
HERE = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 5, "latency-wait": 10}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--out", type=Path, default=paths.RESULTS / "cluster")
    options = parser.parse_args()
    if why := slurm.why_no_slurm():
        print(f"error: {why}", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp(prefix="jmedlora-slurm-"))
    cores = os.cpu_count() or 1
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 2000
    with slurm.one_node_slurm(work / "slurm", gpus=1, cores=cores, memory_mb=memory_mb) as environment:
        profile = _profile(work / "profile")
        seconds, states = [], []
        for _ in range(2):
            start = time.perf_counter()
            command = [sys.executable, "-m", "jmedlora_utils", "reproduce", "--preset", options.preset, "--profile", str(profile)]
            done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False)
            seconds.append(round(time.perf_counter() - start, 1))
            states.append(_jobs(os.environ | environment))
            if done.returncode != 0:
                print(
                    f"error: the preset did not finish; logs of the jobs in {paths.relative(paths.runs_root() / 'slurm')}", file=sys.stderr
                )
                return 1
        asked = subprocess.run(["sbatch", "--version"], env=os.environ | environment, capture_output=True, text=True, check=False)
    commit, dirty = git_state()
    record = {
        "preset": options.preset,
        "notebooks": len(runner.steps(presets.load_preset(options.preset))),
        "day": f"{datetime.now(UTC):%Y-%m-%d}",
        "node": f"{cores} cores, {memory_mb:,} MB for jobs",
        "versions": {"slurm": asked.stdout.split()[-1], **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "git_commit": commit,
        "git_dirty": dirty,
        "seconds": {"first run, with the book": seconds[0], "second run": seconds[1]},
        "jobs submitted by the second run": len(states[1]) - len(states[0]),
        "jobs": states[0],
    }
    write_text(options.out / "cluster.json", json.dumps(record, indent=1) + "\n")
    write_text(options.out / "shown.md", _shown(record))
    shutil.rmtree(work)
    return 0


def _profile(folder: Path) -> Path:
    """The project's profile with the settings of `HERE`."""
    shutil.copytree(runner.PROFILES / "slurm", folder)
    with (folder / "config.yaml").open("a", encoding="utf-8") as file:
        file.write("".join(f"{key}: {value}\n" for key, value in HERE.items() if key != "latency-wait"))
    text = (folder / "config.yaml").read_text(encoding="utf-8").replace("latency-wait: 60", f"latency-wait: {HERE['latency-wait']}")
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder


def _jobs(environment: dict[str, str]) -> list[dict[str, str | int]]:
    """Every job that the controller remembers: rule, state, what it asked for, and the seconds it took."""
    done = subprocess.run(["scontrol", "show", "job", "-o"], env=environment, capture_output=True, text=True, check=False)
    found = []
    for line in done.stdout.splitlines():
        said = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "JobState" in said:
            hours, minutes, seconds = (int(n) for n in said["RunTime"].split("-")[-1].split(":"))
            row = {"job": int(said["JobId"]), "rule": said.get("Comment", "").removeprefix("rule_"), "state": said["JobState"]}
            row |= {"exit": said["ExitCode"], "asked": said.get("TRES", ""), "time limit": said["TimeLimit"]}
            found.append(row | {"seconds": 3600 * hours + 60 * minutes + seconds})
    return found


def _shown(record: dict) -> str:
    """The record as the page shows it."""
    jobs = record["jobs"]
    done = sum(job["state"] == "COMPLETED" for job in jobs)
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    longest = max(job["seconds"] for job in jobs)
    return (
        f"Tried on a SLURM of one node on {record['day']}: the preset `{record['preset']}`, {record['notebooks']} notebooks, "
        f"{len(jobs)} jobs, {done} of them `COMPLETED`; the longest took {longest} seconds. The second call submitted "
        f"{record['jobs submitted by the second run']} jobs. Node: {record['node']}; {versions}. "
        "The record is `book/results/cluster/cluster.json`; `benchmarks/cluster.py` makes it anew. It has no card: that a step with a card "
        "asks for one, and that such steps wait for each other, is tested with notebooks that do nothing.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
