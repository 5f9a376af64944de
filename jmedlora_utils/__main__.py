"""The command line: `python -m jmedlora_utils --help`. The Makefile and the Snakefile call it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from jmedlora_utils import book, fetch, workflow
from jmedlora_utils.config import ConfigError, load_preset, preset_names
from jmedlora_utils.exams import ExamError
from jmedlora_utils.records import RecordError


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (book.BookError, fetch.FetchError, workflow.WorkflowError, ConfigError, ExamError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils", description="Runs presets and builds the book.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, run, preset: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about)
        added.set_defaults(run=run)
        if preset:
            added.add_argument("--preset", required=True, help=f"one of {', '.join(preset_names())}")
        return added

    command("plan", "print what a preset runs", _plan)
    run = command("run", "execute one notebook of a preset", _run)
    run.add_argument("--output", required=True, help="stem of the executed copy, for example 20_tune_lora__en-large")
    run.add_argument("--seed", type=int, help="seed of its workspace; leave it out for analysis over all seeds")
    run.add_argument("--threads", type=int, help="processor threads of the notebook")
    reproduce = command("reproduce", "run a preset, build the book, print the times", _reproduce)
    reproduce.add_argument("--jobs", type=int, default=2, help="notebooks side by side")
    reproduce.add_argument("--install-seconds", type=float, default=0.0, help="what the installation took, for the table of times")
    build = command("book", "build the book of a preset's last run", _book)
    for added in (reproduce, build):
        added.add_argument("--html", type=Path, default=book.HTML, help="folder of the built book")
    command("exams", "fetch the examination questions and verify them", _exams, preset=False)
    command("tidy", "sort and tidy the bibliography", _tidy, preset=False)
    return parser


def _plan(options: argparse.Namespace) -> None:
    print(workflow.matrix(load_preset(options.preset)))


def _run(options: argparse.Namespace) -> None:
    step = workflow.find_step(options.preset, options.output, options.seed)
    print(f"start  {step.label}", flush=True)
    seconds = workflow.run_step(step, options.threads)
    every = workflow.steps(load_preset(options.preset))
    done = sum(not workflow.is_stale(other) for other in every)
    print(f"done   {step.label} in {workflow.clock(seconds)}; {done} of {len(every)} notebooks", flush=True)


def _reproduce(options: argparse.Namespace) -> None:
    times = [("install", options.install_seconds)]
    start = time.perf_counter()
    workflow.reproduce(options.preset, options.jobs)
    times.append(("notebooks", time.perf_counter() - start))
    start = time.perf_counter()
    index = book.build(options.preset, options.html)
    times.append(("book", time.perf_counter() - start))
    print(f"\nEach notebook, when it ran ({options.jobs} side by side):")
    print(workflow.time_table(workflow.durations(options.preset)))
    print("\nThis time:")
    print(workflow.time_table(times))
    print(f"\nThe book: {index}")


def _book(options: argparse.Namespace) -> None:
    print(f"The book: {book.build(options.preset, options.html)}")


def _exams(options: argparse.Namespace) -> None:
    years = sorted({int(name.split("/")[2]) for name in fetch.sums() if name.startswith("IgakuQA/data/")})
    print(fetch.ensure(fetch.EXAMS, years).notice())


def _tidy(options: argparse.Namespace) -> int:
    return int(book.tidy_bibliography())


if __name__ == "__main__":
    sys.exit(main())
