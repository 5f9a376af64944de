"""Kills a run at random moments until it has ended often enough, and compares what it left with an uninterrupted run.

    python benchmarks/kills.py --kills 50

Three kinds of SIGKILL take turns: the command alone (a second call must then be refused while the rest lives), the whole process
group (a lost session, a machine that goes down), and one notebook's kernel (out of memory). Results are the weights of every base and
adapter, every prepared file, every answer, and every record without its times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Meter, Record, load_records, sha256_file, write_record

KINDS = ("command", "group", "kernel")
LOCKED = "another process is at work on it"


class Run:
    """One call of `reproduce` in a folder of its own; its processes are known by the folder in their environment."""

    def __init__(self, folder: Path, preset: str, jobs: int) -> None:
        self.folder, self.preset, self.jobs = folder, preset, jobs
        command = [sys.executable, "-m", "jmedlora_utils", "reproduce", "--preset", preset, "--jobs", str(jobs)]
        self.mark = f"JMEDLORA_RUNS={folder / 'runs'}".encode()
        environment = os.environ | {"JMEDLORA_RUNS": str(folder / "runs"), "JMEDLORA_PROGRESS": "0"}
        with (folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--html", str(folder / "html")], env=environment, cwd=paths.ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()[-2000:]

    def members(self) -> list[int]:
        """Live processes of the folder, whoever is their parent by now."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self.mark in _read(pid, "environ").split(b"\0")]

    def kernels(self) -> dict[int, bytes]:
        """Kernels of the folder, each with the command line of the step that started it."""
        found = [pid for pid in self.members() if b"ipykernel_launcher" in _read(pid, "cmdline")]
        return {pid: _read(_parent(pid), "cmdline") for pid in found}

    def end(self) -> None:
        while members := self.members():
            for pid in members:
                _kill(pid)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()


def _read(pid: int, name: str) -> bytes:
    try:
        return (Path("/proc") / str(pid) / name).read_bytes()
    except OSError:  # it has just ended
        return b""


def _parent(pid: int) -> int:
    return int((_read(pid, "stat").rsplit(b")", 1)[-1].split() or [0, 0])[1])


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Watch:
    """Looks five times a second whether a notebook runs twice at once."""

    def __init__(self, run: Run) -> None:
        self.run, self.fault, self.stop = run, b"", threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.stop.wait(0.2):
            twice = [line for line, n in Counter(self.run.kernels().values()).items() if n > 1 and b"--output" in line]
            self.fault = self.fault or b"".join(twice)

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        if self.fault:
            raise SystemExit(f"ran twice at once: {self.fault!r}")


def results(folder: Path) -> dict[str, str]:
    """What a run leaves: file or record to its sum, without times, memory and machine."""
    found = {}
    for seed in sorted((folder / "runs").glob("*/seed*")):
        files = [p for pattern in ("**/*.safetensors", "data/**/*.json*", "answers/**/*.jsonl") for p in seed.glob(pattern)]
        files = [p for p in files if "checkpoints" not in p.parts and not any(part.startswith(("checkpoint-", ".")) for part in p.parts)]
        found |= {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
        for record in load_records(seed, allow_smoke=True):
            found[f"{seed.name}/{record.name}"] = json.dumps(record.comparable(), sort_keys=True)
    return found


def kill_once(run: Run, kind: str, delay: float) -> bool:
    """Waits and kills, and ends what is left of the run; False where the run ended before."""
    try:
        run.process.wait(delay)
        return False
    except subprocess.TimeoutExpired:
        pass
    if kind == "kernel":
        kernels = list(run.kernels())
        if not kernels:
            kind = "group"
        else:
            _kill(random.choice(kernels))
            run.process.wait()
    if kind == "group":
        os.killpg(run.process.pid, signal.SIGKILL)
    if kind == "command":
        _kill(run.process.pid)
        run.process.wait()
        lives = bool(run.members())
        second = Run(run.folder, run.preset, run.jobs)
        try:
            refused = second.process.wait(30) == 1 and LOCKED in second.log()
        except subprocess.TimeoutExpired:
            refused = False
        if lives and not refused and run.members():
            raise SystemExit(f"a second call was not refused beside a living run: {second.log()}")
        time.sleep(random.uniform(0, 5))
    run.end()
    return True


def killed_round(folder: Path, options: argparse.Namespace, counts: Counter[str]) -> None:
    """Starts the preset again and again in one folder, killing it, until it has come through."""
    folder.mkdir()
    while True:
        run = Run(folder, options.preset, options.jobs)
        if sum(counts.values()) >= options.kills:
            run.process.wait()
        else:
            watch, kind = Watch(run), random.choice(KINDS)
            if kill_once(run, kind, random.uniform(1, options.longest)):
                counts[kind] += 1
                print(f"{folder.name}: {sum(counts.values())} kills {dict(counts)}", flush=True)
                watch.end()
                continue
            watch.end()
        if run.process.returncode:
            raise SystemExit(run.log())
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--longest", type=float, default=25, help="seconds: kills come after a random share of it")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    random.seed(options.seed)
    meter, counts, rounds = Meter(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as root:
        straight = Path(root) / "straight"
        killed_round(straight, argparse.Namespace(**vars(options) | {"kills": 0}), Counter())
        wanted = results(straight)
        print(f"uninterrupted: {len(wanted)} files and records", flush=True)
        while sum(counts.values()) < options.kills:
            rounds += 1
            folder = Path(root) / f"round{rounds}"
            killed_round(folder, options, counts)
            left = results(folder)
            if different := sorted(name for name in wanted.keys() | left.keys() if wanted.get(name) != left.get(name)):
                raise SystemExit(f"{folder.name}: {len(different)} results differ from the uninterrupted run: {different[:5]}")
            print(f"{folder.name}: {len(left)} files and records as without a kill", flush=True)
    found = {"kills": dict(counts), "rounds": rounds, "compared": len(wanted), "different": 0}
    config = {"jobs": options.jobs, "longest": options.longest}
    record = Record("benchmark", "kills", options.preset, options.seed, config=config, metrics=found, **meter.fields())
    print(write_record(options.out, record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
