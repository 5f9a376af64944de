"""What the prose pages of the book include: tables, a figure and a worked example, made when the book is built.

A page includes `_generated/<name>.md`; `FRAGMENTS` knows the maker of each name. Nothing here needs torch or a run.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.core import formatting, paths
from jmedlora_utils.core.presets import Preset, load_preset
from jmedlora_utils.core.records import Record, load_records, package_versions, read_record
from jmedlora_utils.workflow.runner import clock

LABEL = "evidence-"
RUN_RECORDS = "run-records"
MINI = "mini"
# What the figures and tables of a page rest on, where a cell does not say it itself: `outcomes`, `records` and `examples` (answers kept
# for reading) are those of the study, committed or run; `run` is always the run; a name with a slash lies below book/results, and a name
# of the package is code.
STUDY = ("outcomes", "records", "examples", "run")
EVIDENCE_OF: dict[str, tuple[str, ...]] = {
    "31_score_published": ("published/",),
    "32_scores": ("outcomes",),
    "40_findings": ("outcomes",),
    "41_metrics": ("metrics/",),
    "42_cost": ("records",),
    "43_errors": ("outcomes",),
    "50_explore": ("examples",),
}
BENCHMARKS = paths.ROOT / "benchmarks" / "results"
EXAMPLE = (2018, "112C11")
RESPONSES = ("{gold}", "{gold}です。", "{gold}ではない。", "{wrong}ではなく{gold}", "{letter}")
NO_EVIDENCE = "The five-seed evidence of the miniature is not part of this copy of the repository."


@dataclass(frozen=True)
class Source:
    """What one copy of the book is made from.

    Attributes:
        name: Folder below `_book/`.
        preset: Preset whose notebooks stand in the book.
        executed: Notebook stem to executed copy.
        listed: Stems of the notebooks in the table of contents.
        records: Records behind the pages.
        times: Label and seconds of every notebook that ran.
        committed: Whether it is made from committed evidence alone.
    """

    name: str
    preset: Preset
    executed: dict[str, Path]
    listed: list[str]
    records: list[Record]
    times: list[tuple[str, float]]
    committed: bool


def evidence_line(stem: str, entries: Sequence[str], parameters: dict[str, Any]) -> str:
    """The line under a figure or table: the files that it rests on, and the notebook that made it, in MyST.

    Args:
        stem: Notebook.
        entries: See `EVIDENCE_OF`.
        parameters: What the notebook was run with; `preset` and `source` say which study it read.
    """
    shown = "; ".join(_evidence(entry, parameters) for entry in entries)
    return f":::{{container}} jm-evidence\nEvidence: {shown}. Made by notebook {{doc}}`{stem} </notebooks/{stem}>`.\n:::"


def _evidence(entry: str, parameters: dict[str, Any]) -> str:
    from jmedlora_utils.analysis import tables

    if entry in STUDY:
        preset = parameters["preset"]
        if entry == "run" or not tables.is_committed(preset, parameters.get("source", "auto")):
            return f"answers and records of this run, `runs/{preset}/` ({{ref}}`listed here <{RUN_RECORDS}>`)"
        folder = tables.evidence_folder(preset).name
        if entry == "records":
            return f"{{ref}}`records of the study <{LABEL}{folder}>`"
        if entry == "examples":
            kept = sorted(paths.RESULTS.glob(f"{folder}/seed*/examples.jsonl"))
            both = (path.with_name(name) for path in kept for name in (path.name, "questions.jsonl"))
            return ", ".join(_download(str(path.relative_to(paths.RESULTS))) for path in both)
        return f"{_download(f'{folder}/summary.csv')}; {{ref}}`outcomes of every question, and records <{LABEL}{folder}>`"
    if entry.startswith("jmedlora_utils/"):
        return f"the code, `{entry}`"
    if entry.endswith("/"):
        return f"{{ref}}`results/{entry} <{LABEL}{entry.strip('/')}>`"
    return _download(entry)


def _download(name: str, text: str = "") -> str:
    return f"{{download}}`{text or name} </book/results/{name}>`"


# --- what this copy is made from ----------------------------------------------------------------------------------


def run_table(source: Source) -> str:
    """Preset, seeds, device, days and commit, and which notebooks did not run."""
    records = source.records
    days = sorted({record.created[:10] for record in records})
    named = sorted({record.preset for record in records}) or [source.preset.name]
    missing = [stem for stem in source.listed if stem not in source.executed]
    rows = [
        ("Built from", "committed evidence alone; no model was trained or asked for it" if source.committed else "a run on one machine"),
        ("Preset", "; ".join(f"`{name}`: {load_preset(name).about}" for name in named)),
        ("Seeds", ", ".join(map(str, sorted({record.seed for record in records}) or source.preset.seeds))),
        ("Device", "; ".join(sorted({record.device for record in records}))),
        ("Day", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("Commit", ", ".join(sorted({_commit(record) for record in records}))),
        ("Notebooks shown as code" if source.committed else "Notebooks not in this run", ", ".join(f"`{s}`" for s in missing) or "none"),
    ]
    return pipe_table(("what", "this book"), rows)


def times_table(source: Source) -> str:
    """The time of every notebook that ran for this copy."""
    total = ("all, one after another", clock(sum(seconds for _, seconds in source.times)))
    return pipe_table(("notebook", "time"), [*((name, clock(seconds)) for name, seconds in source.times), total])


def versions_table(source: Source) -> str:
    """Package versions of the records, and those of this environment beside them where they differ."""
    here = package_versions()
    then = {name: version for record in source.records for name, version in record.versions.items()} or here
    rows = [(name, version, here.get(name, "")) for name, version in then.items() if version != "not installed"]
    return pipe_table(("package", "when the records were made", "when the book was built"), rows)


def records_table(source: Source) -> str:
    """The records of the run on this machine, one row a run."""
    if source.committed:
        return f"No model was run for this copy. The records of the committed study are {{ref}}`listed below <{LABEL}mini>`."
    heads = ("kind", "run", "seeds", "records", "time", "peak memory", "device", "day")
    return pipe_table(heads, [_record_row(*item) for item in _by_run(source.records)])


def evidence_lists(_: Source) -> str:
    """Every folder of committed evidence: its device, day, commit and versions, and its files to download."""
    parts = []
    for folder in sorted(p for p in paths.RESULTS.iterdir() if p.is_dir()):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md")
        if not files:
            continue
        records = [p for p in files if p.parent.name == "records"]
        loose = [p for p in files if p not in records]
        parts.append(f"({LABEL}{folder.name})=\n\n### `book/results/{folder.name}`\n\n{_origin(folder)}")
        parts.append("Files: " + ", ".join(_download(str(p.relative_to(paths.RESULTS)), str(p.relative_to(folder))) for p in loose) + ".")
        if records:
            parts.append(_downloads(folder))
    return "\n\n".join([*parts, benchmarks_list()])


def benchmarks_list() -> str:
    """The speed benchmarks: where and when each was measured, with which versions."""
    rows = []
    for path in sorted(BENCHMARKS.glob("*.json")):
        record = read_record(path)
        link = f"{{download}}`{path.name} </benchmarks/results/{path.name}>`"
        rows.append((link, record.device, record.created[:10], _commit(record), clock(record.wall_seconds), _versions(record.versions)))
    table = pipe_table(("record", "device", "day", "commit", "time", "versions"), rows)
    return f"({LABEL}benchmarks)=\n\n### `benchmarks/results`\n\nSpeed, measured by the scripts of `benchmarks/`.\n\n{table}"


def _origin(folder: Path) -> str:
    """Where a folder of evidence comes from, by its own about file; its README says the rest."""
    title = (folder / "README.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    about_file = next((folder / name for name in ("evidence.json", "about.json", "cluster.json") if (folder / name).is_file()), None)
    if about_file is None:
        return f"{title}. No file here names a day or a device; {_download(f'{folder.name}/README.md')} says where each comes from."
    about = json.loads(about_file.read_text(encoding="utf-8"))
    said = [f"preset `{about['preset']}`"] if "preset" in about else []
    said += [f"seeds {', '.join(map(str, about['seeds']))}"] if "seeds" in about else []
    said += [about[key] for key in ("device", "node") if key in about]
    said += [about.get("created", about.get("day"))[:10]]
    said += [f"commit `{about['git_commit'][:10]}`"] if about.get("git_commit") else []
    return f"{title}: {', '.join([*said, _versions(about['versions'])])}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")


def _downloads(folder: Path) -> str:
    """The committed records, one row a run and one link a seed."""
    rows = []
    for (kind, run), group in _by_run(load_records(folder)):
        names = sorted({(record.seed, record.name) for record in group})
        links = " ".join(_download(f"{folder.name}/seed{seed}/records/{name}.json", str(seed)) for seed, name in names)
        row = _record_row((kind, run), group)
        rows.append((kind, row[1], links, *row[4:]))
    return pipe_table(("kind", "run", "records, by seed", "time", "peak memory", "device", "day"), rows)


def _by_run(records: Iterable[Record]) -> list[tuple[tuple[str, str], list[Record]]]:
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.kind, record.name.split("__")[1] if "__" in record.name else record.name].append(record)
    return sorted(groups.items())


def _record_row(key: tuple[str, str], group: list[Record]) -> tuple[str, ...]:
    """A run's evaluations, one record for each step, exam and shot, are added up."""
    return (
        key[0],
        f"`{key[1]}`",
        str(len({record.seed for record in group})),
        str(len(group)),
        clock(sum(record.wall_seconds for record in group)),
        f"{max(record.peak_memory_bytes for record in group) / 2**30:.1f} GiB",
        "; ".join(sorted({record.device for record in group})),
        max(record.created for record in group)[:10],
    )


def _commit(record: Record) -> str:
    if not record.git_commit:
        return "outside git"
    return f"`{record.git_commit[:10]}`" + (" with changes" if record.git_dirty else "")


# --- the story and the verdicts, from the five-seed evidence ------------------------------------------------------


def _mini() -> Any:
    """The committed study of the miniature, or None."""
    from jmedlora_utils.analysis import tables

    folder = tables.evidence_folder(MINI)
    return tables.read_evidence(folder) if (folder / "evidence.json").is_file() else None


@cache
def _judged(folder: Path) -> tuple[Any, pd.DataFrame]:
    """The findings of a committed study, and its verdicts with one choice changed at a time."""
    from jmedlora_utils.analysis import findings, tables

    outcomes = tables.read_evidence(folder).outcomes
    return findings.evaluate_claims(outcomes), findings.robustness(outcomes)


def story(folder: Path) -> str:
    """The figure that tells the story at a glance, with its caption; the picture is written to `folder`."""
    from jmedlora_utils.analysis import views
    from jmedlora_utils.figures import plotting

    if (study := _mini()) is None:
        return NO_EVIDENCE
    plotting.use_style()
    figure = plotting.story(views.story_frame(study), views.gains_frame(study), plotting.base_styles(study.outcomes), views.chance(study))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "story.png", metadata={"Software": None})
    alt = "Above: accuracy of the largest model by tuning steps for four groups of facts. Below: gain on taught facts for each base model."
    caption = views.story_caption(study)
    line = evidence_line("40_findings", ("outcomes",), {"preset": MINI, "source": "committed"})
    return f":::{{figure}} {folder.name}/story.png\n:name: fig-story\n:alt: {alt}\n\n{caption}\n:::\n\n{line}"


def verdicts(_: Path) -> str:
    """The verdicts, one row a claim."""
    from jmedlora_utils.analysis import tables, views

    if (study := _mini()) is None:
        return NO_EVIDENCE
    shown = views.glance_table(*_judged(tables.evidence_folder(MINI)))
    columns = {c: views.HEADINGS.get(c, c) for c in shown.columns}
    caption = "The claims: what was published, and what the miniature says."
    line = evidence_line("40_findings", ("outcomes", "published/claims.csv"), {"preset": MINI, "source": "committed"})
    return formatting.numbered(shown, "tab-story", caption, columns, study.source_line()) + "\n" + line


def verdicts_ja(_: Path) -> str:
    """The verdicts in Japanese."""
    from jmedlora_utils.analysis import tables, views

    if (study := _mini()) is None:
        return "五つのシードによる結果は、この複製には含まれていません。"
    rows = views.verdicts_ja(*_judged(tables.evidence_folder(MINI)))
    heads = ("主張", "縮小版での効果(ポイント、95 % 区間)", "判定", "別の条件でも同じ判定")
    return f"{pipe_table(heads, rows)}\n\n{views.summary_ja(study)}"


# --- the paper's settings and a worked example --------------------------------------------------------------------


def paper_settings(_: Path, rows: Sequence[str] = ()) -> str:
    """Table 1 of the journal, from the committed file; all rows, or those named."""

    table = pd.read_csv(paths.RESULTS / "published" / "paper_settings.csv", dtype=str)
    source = table["source"].iloc[0]
    table = table.set_index("setting").loc[list(rows) or table["setting"]].reset_index()
    return formatting.markdown(table.drop(columns="source")) + f"\n\nSource: {source}."


def models(folder: Path) -> str:
    """The rows of the settings that tell the two models apart."""
    return paper_settings(folder, ("method", "fine-tuning steps", "r", "target parameters"))


def example() -> tuple[Any, bool]:
    """A question of the national examination where it lies on this machine, else an invented one; and whether it is real."""
    from jmedlora_utils.data import exams, fetch

    year, wanted = EXAMPLE
    files = [f"IgakuQA/data/{year}/"]
    if not fetch.missing(files):
        fetch.verified(files)
        return next(q for q in exams.load_igakuqa(paths.exam_data_dir(), [year]) if q.id == wanted), True
    choices = ("ギトネクト", "ギトネクトール", "レロネクト", "ミワザフェ", "ゾモギドラン")
    return exams.Question("example", "example", "ja", "鱗条病の治療に用いる薬は何か。", choices, frozenset("a")), False


def question(_: Path) -> str:
    """The example as the examination prints it, with its source, or how to get the real one."""
    asked, real = example()
    lines = [f"> {asked.text}", ">"]
    for letter, choice in zip(asked.letters, asked.choices, strict=True):
        text = f"{letter}. {choice}"
        lines.append(f"> {f'**{text}**' if letter in asked.gold else text}\\")
    quoted = "\n".join(lines).removesuffix("\\")
    year, name = EXAMPLE
    if real:
        return (
            f"This is question {name} of the examination of {year}, as collected by {{cite:t}}`kasai2023igakuqa`. The Ministry of "
            f"Health, Labour and Welfare sets and publishes the examination.\n\n{quoted}\n\nIt asks which kind of endoscopy finds a "
            "tumour below the lining of the stomach. All five choices end in the same word, which will matter below."
        )
    return (
        ":::{note}\nQuestions of the examination are not part of this repository, and they were not at hand when this copy of the book was "
        "built. `make exams` fetches them, `make example` the year of this page alone; a book built after that shows "
        f"question {name} of {year} {{cite:p}}`kasai2023igakuqa` here. In this copy an invented one stands in its place.\n"
        f":::\n\n{quoted}\n\nIt asks for the drug against a disease. Neither exists. The second choice contains the first, which will "
        "matter below."
    )


def prompt(_: Path) -> str:
    """The whole prompt of the example, 0-shot."""
    from jmedlora_utils.data import prompts

    return f"```text\n{prompts.build_exam_prompt(example()[0], 'alpaca_ja')}```"


def training_row(_: Path) -> str:
    """The example as a row of tuning would hold it; what carries loss stands between ⟦ and ⟧, as in `encoding.marked_text`."""
    from jmedlora_utils.data import prompts

    asked, _real = example()
    answer = asked.choice(min(asked.gold))
    return f"```text\n{prompts.build_exam_prompt(asked, 'alpaca_ja')}⟦{answer}<EOS>⟧\n```"


def responses(_: Path) -> str:
    """Responses of known content to the example: distances to each choice, and what each earns."""
    from jmedlora_utils.analysis import metrics_study

    asked, _real = example()
    letter = min(asked.gold)
    wrong = max((asked.choice(x) for x in asked.letters if x not in asked.gold), key=len)
    given = [form.format(gold=asked.choice(letter), wrong=wrong, letter=letter) for form in RESPONSES]
    heads = {"exact_match": "Exact match", "accuracy": "Accuracy", "strict": "Accuracy, `strict`"}
    shown = metrics_study.worked_example(asked, given)
    return formatting.markdown(shown, {c: heads.get(c, c) for c in shown})


# --- speed --------------------------------------------------------------------------------------------------------


def speed(name: str, folder: Path = BENCHMARKS) -> str:
    """The arms of a speed benchmark from its record: seconds, and how long each takes beside this project's.

    Args:
        name: `tuning` or `evaluation`.
        folder: Where the record lies.
    """
    record = read_record(folder / f"{name}.json")
    seconds: dict[str, list[float]] = record.metrics["all_seconds"]
    rows = []
    for arm, taken in seconds.items():
        task, _, _ = arm.rpartition(": ")
        ours = statistics.median(seconds[f"{task}: ours" if task else "ours"])
        middle = statistics.median(taken)
        rows.append((arm, *(f"{value:.2f}" for value in (min(taken), middle, max(taken))), f"{middle / ours:.2f}"))
    note = f"Note of the record: {record.config['note']}\n\n" if record.config.get("note") else ""
    repeats = len(next(iter(seconds.values())))
    made = f"{record.device}, {record.created[:10]}, {repeats} runs of each, in turn; commit {_commit(record)}"
    heads = ("what", "fastest (s)", "median (s)", "slowest (s)", "median ÷ ours")
    return f"{note}{pipe_table(heads, rows)}\n\nFrom `benchmarks/results/{name}.json`: {made}."


FRAGMENTS: dict[str, Callable[[Path], str]] = {
    "story": story,
    "verdicts": verdicts,
    "verdicts_ja": verdicts_ja,
    "models": models,
    "paper_settings": paper_settings,
    "question": question,
    "prompt": prompt,
    "responses": responses,
    "training_row": training_row,
    "speed_tuning": lambda _: speed("tuning"),
    "speed_evaluation": lambda _: speed("evaluation"),
}
STATUS: dict[str, Callable[[Source], str]] = {
    "run": run_table,
    "times": times_table,
    "versions": versions_table,
    "records": records_table,
    "evidence": evidence_lists,
}


def fragment(name: str, source: Source, folder: Path) -> str:
    """The fragment of that name; a picture that it shows is written to `folder`.

    Raises:
        KeyError: Nothing makes it.
    """
    return STATUS[name](source) if name in STATUS else FRAGMENTS[name](folder)


def pipe_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown pipe table of texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
