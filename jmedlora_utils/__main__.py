"""The command line: `python -m jmedlora_utils --help`. The Makefile and the Snakefile call it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import exit_status
from jmedlora_utils.core.presets import declared_parameters, load_preset, preset_names
from jmedlora_utils.data import fetch
from jmedlora_utils.models import hub
from jmedlora_utils.workflow import runner
from jmedlora_utils.workflow.checks import load_checked

# Each notebook of a run is one call of this module: what loads pandas is imported by the command that needs it. And jsonschema, which
# papermill loads, would build grammars for seconds to check international addresses, of which no notebook has any.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    paths.fix_folders()
    return exit_status(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils", description="Runs presets and builds the book.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, run, preset: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about)
        added.set_defaults(run=run)
        if preset:
            added.add_argument("--preset", required=name != "book", default="", help=f"one of {', '.join(preset_names())}")
        return added

    command("plan", "print what a preset runs", lambda options: print(runner.matrix(load_checked(options.preset))))
    run = command("run", "execute one notebook of a preset", _run)
    run.add_argument("--output", required=True, help="stem of the executed copy, for example 20_tune_lora__en-large")
    run.add_argument("--seed", type=int, help="seed of its workspace; leave it out for analysis over all seeds")
    run.add_argument("--threads", type=_count, help="processor threads of the notebook")
    reproduce = command("reproduce", "run a preset, build the book, print the times", _reproduce)
    reproduce.add_argument("--jobs", type=_count, default=2, help="notebooks side by side")
    reproduce.add_argument("--profile", default="", help="run on a cluster: a folder of profiles/, for example slurm, or one of your own")
    reproduce.add_argument("--install-seconds", type=float, default=0.0, help="what the installation took, for the table of times")
    build = command("book", "build the book of a preset's last run, or of committed evidence where no preset is named", _book)
    build.add_argument("--jobs", type=_count, default=2, help="analysis notebooks side by side, for committed evidence")
    for added in (reproduce, build):
        added.add_argument("--html", type=Path, default=paths.HTML, help="folder of the built book; new, empty or an earlier build")
        added.add_argument("--strict", action="store_true", help="refuse a book with warnings, as the project's own checks do")
    questions = command("exams", "fetch the examination questions and verify them", _exams, preset=False)
    questions.add_argument("--example", action="store_true", help="only the year of the question that the method page shows")
    command("fetch", "download the models of a preset and the examinations, for jobs without a network", _fetch)
    give = command("export", "copy an adapter with its model card to a new folder", _export, preset=False)
    give.add_argument("--adapter", required=True, help="a kept checkpoint, adapters/RUN/checkpoint-STEP")
    give.add_argument("--out", type=Path, required=True, help="the folder to make")
    give.add_argument("--base", default="", help="where its base lies now, if elsewhere: a folder or name@commit")
    give.add_argument("--merge", action="store_true", help="write a whole model: the adapter merged into the unquantised base")
    give.add_argument("--dtype", default="", choices=list(hub.BYTES), help="of the merged weights; default: as the base is stored")
    command("cards", "write a model card into every adapter of a preset", _cards)
    keep = command("freeze", "turn the finished runs of a preset into committed evidence", _freeze)
    keep.add_argument("--folder", type=Path, help="write there instead of book/results/")
    keep.add_argument("--seeds", type=int, nargs="*", default=(), help="only these seeds")
    keep.add_argument("--add", action="store_true", help="keep the other seeds that are committed there already")
    share = command("export-results", "write committed results in the schemas of Every Eval Ever", _export_results, preset=False)
    share.add_argument("--study", nargs="*", default=(), help="names of folders below book/results/; default: all")
    share.add_argument("--out", type=Path, required=True, help="the folder; the files go below its data/")
    command("tidy", "sort and tidy the bibliography", _tidy, preset=False)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    step = runner.find_step(options.preset, options.output, options.seed)
    print(f"start  {step.label}", flush=True)
    seconds = runner.run_step(step, options.threads)
    every = runner.steps(load_preset(options.preset))
    done = sum(not runner.is_stale(other) for other in every)
    print(f"done   {step.label} in {runner.clock(seconds)}; {done} of {len(every)} notebooks", flush=True)


def _reproduce(options: argparse.Namespace) -> None:
    from jmedlora_utils.book import builder
    from jmedlora_utils.workflow import model_card

    builder.refuse_foreign(options.html)
    times = [("install", options.install_seconds)]
    start = time.perf_counter()
    runner.reproduce(options.preset, options.jobs, options.profile)
    times.append(("notebooks", time.perf_counter() - start))
    model_card.write_all(options.preset, load_preset(options.preset).seeds)
    start = time.perf_counter()
    index, warned = builder.build(options.preset, options.html, strict=options.strict)
    times.append(("book", time.perf_counter() - start))
    how = "on the cluster" if options.profile else f"{options.jobs} side by side"
    print(f"\nEach notebook, when it ran ({how}):")
    print(runner.time_table(runner.durations(options.preset)))
    print("\nThis time:")
    print(runner.time_table(times))
    _say_book(index, warned)


def _book(options: argparse.Namespace) -> None:
    from jmedlora_utils.book import builder

    _say_book(*builder.build(options.preset, options.html, options.jobs, options.strict))


def _say_book(index: Path, warned: list[str]) -> None:
    print(f"\nThe book: {index}")
    if warned:
        print("Warnings of the build, for the project's maintainers:", *(f"  {line}" for line in warned), sep="\n")


def _exams(options: argparse.Namespace) -> None:
    from jmedlora_utils.book import fragments

    if options.example:
        print(fetch.ensure(["igakuqa"], [fragments.EXAMPLE[0]]).notice())
    else:
        _every_exam()


def _every_exam(years: Collection[int] = ()) -> None:
    every = sorted({int(name.split("/")[2]) for name in fetch.sums() if name.startswith("IgakuQA/data/")})
    print(fetch.ensure(fetch.EXAMS, sorted(years) or every).notice())


def _fetch(options: argparse.Namespace) -> None:
    for entry, folder in hub.fetch(options.preset):
        print(f"{entry.name}: {folder}")
    jobs = load_preset(options.preset).jobs()
    _every_exam({year for job in jobs for year in (declared_parameters(job.notebook) | job.parameters).get("years", [])})


def _export(options: argparse.Namespace) -> None:
    from jmedlora_utils.workflow import export

    print(export.export(options.adapter, options.out, options.base, options.merge, options.dtype))


def _cards(options: argparse.Namespace) -> None:
    from jmedlora_utils.workflow import model_card

    written = model_card.write_all(options.preset, load_preset(options.preset).seeds)
    print("\n".join(map(str, written)) or f"preset {options.preset!r} has no adapter yet")


def _freeze(options: argparse.Namespace) -> None:
    from jmedlora_utils.analysis import evidence, hospital_answers, registered, small_models, small_models_rule

    own = {small_models_rule.read_rule().preset: small_models.freeze, registered.read_registration().preset: registered.freeze}
    usual = hospital_answers.freeze if hospital_answers.has_quiz(options.preset) else evidence.freeze
    evidence.check_finished(options.preset, options.seeds)
    written = own.get(options.preset, usual)(options.preset, options.folder, options.seeds, options.add)
    print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e6:.2f} MB below {paths.relative(written[0].parent)}")


def _export_results(options: argparse.Namespace) -> None:
    from jmedlora_utils.workflow import results_export

    written = results_export.export(options.out, options.study)
    size = sum(path.stat().st_size for path in written) / 1e6
    print(f"{len(written)} files, {size:.1f} MB below {options.out / 'data'}, each checked against its schema; no text of a question")


def _tidy(options: argparse.Namespace) -> None:
    from jmedlora_utils.book import builder

    builder.tidy_bibliography()


if __name__ == "__main__":
    sys.exit(main())
