"""Runs the notebooks of a preset: job cards for Snakemake, one papermill run per job, and the times they took."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jmedlora_utils.core import identity, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.notebook import RUNNER
from jmedlora_utils.core.presets import Job, Preset, check_parameters, declared_parameters, load_preset, notebook_cells, require_device
from jmedlora_utils.core.records import git_state, read_json, sha256_file, sha256_text, write_text
from jmedlora_utils.data import fetch
from jmedlora_utils.data.articles import SUFFIXES, visible
from jmedlora_utils.models import registry
from jmedlora_utils.workflow.checks import load_checked

HEARTBEAT_SECONDS = 20
PROFILES = paths.ROOT / "profiles"
READ_EXAMINATIONS = ("31_", "33_", "41_", "44_", "50_")  # analysis of published examinations; see `_reads_examinations`
# What a step may take on a cluster: host memory in MB, and minutes. A step that is stopped by them goes on where it stopped when it
# is tried again, with more memory and the same time (Snakefile).
GPU_STEPS = {
    "19_": {"mem_mb": 32_000, "runtime": 720},
    "20_": {"mem_mb": 64_000, "runtime": 2_880},
    "30_": {"mem_mb": 64_000, "runtime": 1_440},
}
CPU_STEP = {"mem_mb": 4_000, "runtime": 120}


@dataclass(frozen=True)
class Step:
    """One job as Snakemake sees it."""

    job: Job  #: What papermill runs
    #: JSON file with the parameters and the hashes of the code; rewritten only when one of them changes, so its modification time says
    #: whether the executed copy is stale
    card: Path
    target: Path  #: The executed notebook
    log: Path  #: What the notebook printed
    after: tuple[Path, ...]  #: Executed notebooks that must exist before
    threads: int  #: Processor threads of the notebook
    resources: dict[str, int]  #: For a cluster: cards, memory in MB, minutes

    @property
    def label(self) -> str:
        return self.job.output if self.job.seed is None else f"{self.job.output} (seed {self.job.seed})"


def steps(preset: Preset) -> list[Step]:
    """Every step of a preset, in an order that respects what waits for what. Writes nothing."""
    jobs = preset.jobs()
    per_seed = tuple(_folder(preset, job) / "notebooks" / f"{job.output}.ipynb" for job in jobs if job.seed is not None)
    analysed: tuple[Path, ...] = ()
    found = []
    for job in jobs:
        folder = _folder(preset, job)
        target = folder / "notebooks" / f"{job.output}.ipynb"
        if job.seed is None:
            after = per_seed + tuple(path for path in analysed if path.name < target.name)
            analysed = (*analysed, target)
        else:
            after = tuple(folder / "notebooks" / f"{name}.ipynb" for name in job.after)
        cards, resources = _needs(preset, job)
        found.append(
            Step(
                job=job,
                card=folder / "jobs" / f"{job.output}.json",
                target=target,
                log=folder / "logs" / f"{job.output}.log",
                after=after,
                threads=4 * cards or 1,
                resources={"gpu": cards, **resources},
            )
        )
    return found


def plan(preset_name: str) -> list[Step]:
    """Checks a preset and brings its job cards up to date; called when the Snakefile is read.

    Raises:
        JmedloraError: The preset or one of its parameters is not known; nothing has been written then.
    """
    found = steps(load_checked(preset_name))
    for step in found:
        write_card(step)
    return found


def write_card(step: Step) -> None:
    """Brings a step's job card up to date; rewritten only on change, because its modification time marks the step as stale."""
    card = {
        "notebook": step.job.notebook,
        "parameters": step.job.parameters,
        "notebook_sha256": _notebook_hash(step.job.notebook),
        "examinations": fetch.here() if _reads_examinations(step.job) else {},
        "package_sha256": _package_hash(step.job.notebook),
        "files": _files_read(step.job),
    }
    text = json.dumps(card, ensure_ascii=False, indent=1) + "\n"
    if not step.card.is_file() or step.card.read_text(encoding="utf-8") != text:
        write_text(step.card, text)


def _files_read(job: Job) -> dict[str, str]:
    """Sums of the user's own files that a step's parameters name, so that it runs again when one is changed.

    A missing or unreadable file is left to the notebook, which names it.
    """
    given, found = declared_parameters(job.notebook) | job.parameters, {}
    names = [given.get(key) for key in ("articles_path", "records_path", "corrections")]
    names += [name for name in given.get("check_exams", ()) if name.endswith(".jsonl")]
    for name in filter(None, names):
        path = paths.NOTEBOOKS / Path(name).expanduser()
        inside = [p for p in visible(path) if p.suffix.lower() in SUFFIXES] if path.is_dir() else [path]
        readable = (p for p in inside if p.is_file() and os.access(p, os.R_OK))
        found[name] = sha256_text("".join(f"{p.relative_to(path)} {sha256_file(p)}\n" for p in readable))
    return found


def _reads_examinations(job: Job) -> bool:
    """Whether the step reads published examinations, so that it must run again once they have come to this machine."""
    given = declared_parameters(job.notebook) | job.parameters
    if job.notebook.startswith("10_"):
        return given.get("source") == "articles"
    if job.notebook.startswith("11_"):
        return set(given.get("exams", [])) != {"mini"}
    return job.notebook.startswith(READ_EXAMINATIONS)


def is_stale(step: Step) -> bool:
    """Whether the executed copy or its job card is missing, or the copy is older than the card."""
    if not step.target.is_file() or not step.card.is_file():
        return True
    return step.target.stat().st_mtime < step.card.stat().st_mtime


def find_step(preset_name: str, output: str, seed: int | None) -> Step:
    """The step of a preset that writes `<output>.ipynb` at a seed (None for analysis over all seeds).

    Raises:
        JmedloraError: The preset has no such step.
    """
    every = steps(load_checked(preset_name))
    for step in every:
        if (step.job.output, step.job.seed) == (output, seed):
            return step
    if seeds := [step.job.seed for step in every if step.job.output == output]:
        known = "over all seeds" if seeds == [None] else f"with seed {', '.join(map(str, seeds))}"
        raise JmedloraError(f"preset {preset_name!r} runs {output} {known}, not with seed {seed}; correct --seed, or seeds in the preset")
    known = ", ".join(dict.fromkeys(step.job.output for step in every))
    raise JmedloraError(f"preset {preset_name!r} has no notebook {output!r}; it has: {known}")


def run_step(step: Step, threads: int | None = None) -> float:
    """Executes one notebook with papermill and returns the seconds it took.

    The executed copy appears at its target only if every cell ran. A failed copy stays beside it as
    `<name>.failed.ipynb` for the reader; running the step again starts the notebook afresh, and the notebook finds
    what it had already finished.

    Raises:
        JmedloraError: A parameter is not the notebook's, a cell raised, or the kernel died; names cell, failed copy and log.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    check_parameters(step.job.notebook, step.job.parameters, where=step.label)
    running = step.target.with_name(f".{step.job.output}.running.ipynb")
    failed = step.target.with_name(f"{step.job.output}.failed.ipynb")
    for folder in (step.target.parent, step.log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    write_card(step)
    _prepare_environment(threads or step.threads)
    start = time.perf_counter()
    # A lock of its own: after a kill of what started it, this step goes on, and a second call must not run it beside itself.
    with alone(step.card.with_name(f".{step.job.output}.lock"), step.label), _log_to(step.log), _heartbeat(step, start):
        try:
            papermill.execute_notebook(
                paths.NOTEBOOKS / f"{step.job.notebook}.ipynb",
                running,
                parameters=step.job.parameters,
                kernel_name="python3",
                cwd=paths.NOTEBOOKS,
                progress_bar=False,
                log_output=True,
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            logging.getLogger("papermill").error("%s", plain("\n".join(getattr(error, "traceback", [str(error)]))))
            os.replace(running, failed)
            raise JmedloraError(_failure(step, error, failed)) from error
    os.replace(running, step.target)
    return time.perf_counter() - start


def reproduce(preset_name: str, jobs: int, profile: str = "") -> None:
    """Runs what is missing or stale of a preset: here, `jobs` notebooks side by side, or as the jobs of a cluster.

    `profile` is a Snakemake profile, by its name in `profiles/` or its folder; it says how many jobs a cluster takes.

    Raises:
        JmedloraError: Preset, parameter, device or profile is not as it must be, a notebook failed, or the preset is running already.
    """
    preset = load_checked(preset_name)
    where = _cluster(profile) if profile else _this_machine(preset, jobs)
    commit, dirty = git_state()
    os.environ["JMEDLORA_GIT_COMMIT"] = commit
    os.environ["JMEDLORA_GIT_DIRTY"] = str(int(dirty))
    folder = paths.runs_root() / preset_name
    with alone(folder / ".lock", f"{paths.relative(folder)}: a run of this preset") as lock:
        # Our own lock dies with its processes, Snakemake among them; Snakemake's own stays after a kill and would refuse to resume.
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(paths.ROOT / "Snakefile"), "--directory", str(paths.ROOT)]
        command += ["--nolock", "--rerun-incomplete", "--keep-going", "--rerun-triggers", "mtime", "--scheduler", "greedy"]
        command += [*where, "--config", f"preset={preset_name}"]
        if subprocess.run(command, check=False, pass_fds=[lock]).returncode != 0:
            raise JmedloraError(
                f"preset {preset_name!r} did not finish; the messages above name the notebook and its log. "
                "Run the same command again to go on: what is finished is not repeated"
            )


def _this_machine(preset: Preset, jobs: int) -> list[str]:
    """Snakemake's options for this machine: steps that use a card wait for each other."""
    require_device(preset.device)
    cards = max([1, *(step.resources["gpu"] for step in steps(preset))])
    return ["--cores", str(jobs), "--resources", f"gpu={cards}", "--quiet", "all"]


def _cluster(profile: str) -> list[str]:
    """Snakemake's options for a cluster; the machine that submits needs no card."""
    folder = next((f for f in (PROFILES / profile, Path(profile).expanduser()) if list(f.glob("config*.yaml"))), None)
    if folder is None:
        known = ", ".join(sorted(p.parent.name for p in PROFILES.glob("*/config.yaml")))
        raise JmedloraError(f"no profile {profile!r}: neither a folder with a config.yaml nor one of {known}")
    return ["--profile", str(folder.resolve())]


def durations(preset_name: str) -> list[tuple[str, float]]:
    """Step label and seconds of every executed notebook of a preset."""
    return [(step.label, seconds(step.target)) for step in steps(load_preset(preset_name)) if step.target.is_file()]


def seconds(path: Path) -> float:
    """What an executed notebook took, as papermill measured it."""
    return float(read_json(path)["metadata"]["papermill"]["duration"])


def time_table(rows: list[tuple[str, float]]) -> str:
    """A plain table of steps and times for the terminal."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {clock(seconds)}" for name, seconds in rows)


def clock(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `3 min 05 s`."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def plain(text: str) -> str:
    """Text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def matrix(preset: Preset) -> str:
    """The runs of a preset as a Markdown table: what each one tunes and evaluates."""
    lines = [f"{preset.name}: {preset.about}".strip(), ""]
    lines += [f"device: {preset.device}; seeds: {', '.join(map(str, preset.seeds))}; {len(preset.jobs())} notebooks to run", ""]
    lines += ["| run | tune | evaluate |", "| --- | --- | --- |"]
    for run in preset.runs:
        tune = "-" if run.tune is None else _short(run.tune)
        lines.append(f"| {run.name} | {tune} | {_short(run.evaluate)} |")
    own = [p for p in preset.prepare.values() if p.get("source") == "articles" and not (p.get("articles_path") and p.get("generator"))]
    if own:
        lines += ["", "Before a run: name your articles and the model that writes records from them (book/own_articles.md)."]
    return "\n".join(lines)


def _needs(preset: Preset, job: Job) -> tuple[int, dict[str, int]]:
    """Cards of a step, and its host memory (MB) and time (minutes) on a cluster."""
    found = GPU_STEPS.get(job.notebook[:3]) if preset.device == "cuda" else None
    if found is None:
        return 0, CPU_STEP
    cards = int(job.parameters.get("num_processes", 1))
    return cards, {**found, "mem_mb": found["mem_mb"] * cards}


def _folder(preset: Preset, job: Job) -> Path:
    return paths.runs_root() / preset.name if job.seed is None else paths.Workspace(preset.name, job.seed).root


def _notebook_hash(stem: str) -> str:
    """Hash of the cells, prose included: the book shows the executed copy."""
    cells = read_json(paths.NOTEBOOKS / f"{stem}.ipynb")["cells"]
    shown = [[c["cell_type"], c["metadata"], "".join(c["source"])] for c in cells]
    return sha256_text(json.dumps(shown, sort_keys=True))


def _package_hash(stem: str) -> str:
    """Hash of the package modules that a notebook reaches through its imports, and of the package's data files."""
    code = "\n".join(source for source, _ in notebook_cells(stem))
    data = [path for path in (paths.PACKAGE / "resources").rglob("*") if path.is_file()]
    data += [own for own in [registry.own_models_file()] if own and own.is_file()]
    sums = [f"{path.name} {sha256_file(path)}" for path in sorted(data)]
    return sha256_text("\n".join([identity.code_sha256(identity.files_reached(code)), *sums]))


def _prepare_environment(threads: int) -> None:
    """What the kernel inherits."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["JMEDLORA_PROGRESS"] = "0"
    os.environ[RUNNER] = str(os.getpid())
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one in the user's home
    if "SLURM_JOB_ID" in os.environ:
        # A compute node has no network: models come from the cache that `make fetch` filled, at once or not at all.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    logger = logging.getLogger("papermill")
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _heartbeat(step: Step, start: float) -> Iterator[None]:
    """Says every so often how long a step has been running, with the last line that its notebook printed."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            lines = step.log.read_text(encoding="utf-8", errors="replace").splitlines()
            last = next((line.strip()[:120] for line in reversed(lines) if line.strip()), "starting")
            print(f"  ...  {step.label} {clock(time.perf_counter() - start)}: {last}", flush=True)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _failure(step: Step, error: Exception, failed: Path) -> str:
    where = f"full output in {paths.relative(failed)} and {paths.relative(step.log)}"
    again = "fix it and run the same command again; finished steps are not repeated"
    cell = getattr(error, "exec_count", None)
    if cell is None:
        return f"{step.label}: the kernel died (out of memory?); {where}; {again}"
    return f"{step.label}: code cell {cell} raised {error.ename}: {error.evalue}; {where}; {again}"


def _short(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in parameters.items())
