"""Where the book's numbers come from: the line under each figure and table, and the tables of the page *Status*."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.analysis import evidence
from jmedlora_utils.core import paths
from jmedlora_utils.core.formatting import escape, markdown
from jmedlora_utils.core.presets import Preset, load_preset
from jmedlora_utils.core.records import Record, load_records, package_versions, read_json, read_record
from jmedlora_utils.workflow.runner import clock

LABEL = "evidence-"
RUN_RECORDS = "run-records"
MINI = "mini"
BENCHMARKS = paths.ROOT / "benchmarks" / "results"
# What the figures and tables of a page rest on, where a cell does not say it itself: `outcomes`, `records` and `examples` (answers kept
# for reading) are those of the study, committed or run; `run` is always the run; a name with a slash is below book/results, and a name
# of the package is code.
STUDY = ("outcomes", "records", "examples", "run")
EVIDENCE_OF: dict[str, tuple[str, ...]] = {
    "31_score_published": ("published/",),
    "32_scores": ("outcomes",),
    "33_published_pairs": ("published_pairs/",),
    "40_findings": ("outcomes",),
    "41_metrics": ("metrics/",),
    "42_cost": ("records",),
    "44_small_models": ("outcomes",),
    "45_your_hospital": ("outcomes",),
    "50_explore": ("examples",),
}


@dataclass(frozen=True)
class Edition:
    """What one copy of the book is made from."""

    name: str  #: Folder below `_book/`
    preset: Preset  #: Preset whose notebooks are shown
    executed: dict[str, Path]  #: Notebook stem to executed copy
    listed: list[str]  #: Stems of the notebooks in the table of contents
    records: list[Record]  #: Records behind the pages
    times: list[tuple[str, float]]  #: Label and seconds of every notebook that ran
    committed: bool  #: Whether it is made from committed evidence alone


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of these texts, which are Markdown themselves."""
    return markdown(pd.DataFrame(list(rows), columns=list(heads), dtype=object))


def evidence_line(stem: str, entries: Sequence[str], parameters: dict[str, Any]) -> str:
    """The line under a figure or table, in MyST: the files that it rests on, see `EVIDENCE_OF`, and the notebook that made it.

    `parameters` are those of the notebook; `preset` and `source` say which study it read.
    """
    shown = "; ".join(_evidence(entry, parameters) for entry in entries)
    return f":::{{container}} jm-evidence\nEvidence: {shown}. Made by notebook {{doc}}`{stem} </notebooks/{stem}>`.\n:::"


def _evidence(entry: str, parameters: dict[str, Any]) -> str:
    if entry.startswith("jmedlora_utils/"):
        return f"the code, `{entry}`"
    if entry not in STUDY:
        return f"{{ref}}`results/{entry} <{LABEL}{entry.strip('/')}>`" if entry.endswith("/") else _download(entry)
    preset = parameters["preset"]
    if entry == "run" or not evidence.is_committed(preset, parameters.get("source", "auto")):
        return f"answers and records of this run, `runs/{preset}/` ({{ref}}`listed here <{RUN_RECORDS}>`)"
    folder = evidence.evidence_folder(preset).name
    if entry == "records":
        return f"{{ref}}`records of the study <{LABEL}{folder}>`"
    if entry == "examples":
        kept = sorted(paths.RESULTS.glob(f"{folder}/seed*/examples.jsonl"))
        both = (path.with_name(name) for path in kept for name in (path.name, "questions.jsonl"))
        return ", ".join(_download(str(path.relative_to(paths.RESULTS))) for path in both)
    return f"{_download(f'{folder}/summary.csv')}; {{ref}}`outcomes of every question, and records <{LABEL}{folder}>`"


def _download(name: str, text: str = "") -> str:
    return f"{{download}}`{text or name} </book/results/{name}>`"


def run_table(edition: Edition) -> str:
    """Preset, seeds, device, days and commit, and which notebooks did not run."""
    records = edition.records
    days = sorted({record.created[:10] for record in records})
    named = sorted({record.preset for record in records}) or [edition.preset.name]
    missing = [f"`{stem}`" for stem in edition.listed if stem not in edition.executed]
    rows = [
        ("Built from", "committed evidence alone; no model was trained or asked for it" if edition.committed else "a run on one machine"),
        ("Preset", "; ".join(f"`{name}`: {escape(load_preset(name).about)}" for name in named)),
        ("Seeds", ", ".join(map(str, sorted({record.seed for record in records}) or edition.preset.seeds))),
        ("Device", "; ".join(sorted({escape(record.device) for record in records}))),
        ("Day", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("Commit", ", ".join(sorted({commit_of(record) for record in records}))),
        ("Notebooks shown as code" if edition.committed else "Notebooks not in this run", ", ".join(missing) or "none"),
    ]
    return table_of(("what", "this book"), rows)


def times_table(edition: Edition) -> str:
    """The time of every notebook that ran for this copy."""
    total = ("all, one after another", clock(sum(seconds for _, seconds in edition.times)))
    return table_of(("notebook", "time"), [*((name, clock(seconds)) for name, seconds in edition.times), total])


def versions_table(edition: Edition) -> str:
    """Package versions of the records, and those of this environment beside them."""
    here = package_versions()
    then = {name: version for record in edition.records for name, version in record.versions.items()} or here
    rows = [(name, version, here.get(name, "")) for name, version in then.items() if version != "not installed"]
    return table_of(("package", "when the records were made", "when the book was built"), rows)


def records_table(edition: Edition) -> str:
    """The records of the run on this machine, one row per run."""
    if edition.committed:
        return f"No model was run for this copy. The records of the committed study are {{ref}}`listed below <{LABEL}{MINI}>`."
    heads = ("kind", "run", "seeds", "records", "time", "peak memory", "device", "day")
    return table_of(heads, [_record_row(*item) for item in _by_run(edition.records)])


def evidence_lists() -> str:
    """Every folder of committed evidence: its device, day, commit and versions, and its files to download."""
    parts = []
    for folder in sorted(p for p in paths.RESULTS.iterdir() if p.is_dir()):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md")
        if not files:
            continue
        loose = [p for p in files if p.parent.name != "records"]
        parts.append(f"({LABEL}{folder.name})=\n\n### `book/results/{folder.name}`\n\n{_origin(folder)}")
        parts.append("Files: " + ", ".join(_download(str(p.relative_to(paths.RESULTS)), str(p.relative_to(folder))) for p in loose) + ".")
        if len(loose) < len(files):
            parts.append(_committed_records(folder))
    rows = []
    for path in sorted(BENCHMARKS.glob("*.json")):
        record = read_record(path)
        link = f"{{download}}`{path.name} </benchmarks/results/{path.name}>`"
        rows.append((link, record.device, record.created[:10], commit_of(record), clock(record.wall_seconds), _versions(record.versions)))
    table = table_of(("record", "device", "day", "commit", "time", "versions"), rows)
    parts.append(f"({LABEL}benchmarks)=\n\n### `benchmarks/results`\n\nSpeed, measured by the scripts of `benchmarks/`.\n\n{table}")
    return "\n\n".join(parts)


def _origin(folder: Path) -> str:
    """Where a folder of evidence comes from, by its own about file; its README says the rest."""
    readme = folder / "README.md"
    title = readme.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if readme.is_file() else "Evidence without a README"
    about_file = next((folder / name for name in ("evidence.json", "about.json", "cluster.json") if (folder / name).is_file()), None)
    if about_file is None:
        told = f"; {_download(f'{folder.name}/README.md')} says where each comes from" if readme.is_file() else ""
        return f"{title}. No file here names a day or a device{told}."
    about = read_json(about_file)
    said = [f"preset `{about['preset']}`"] if "preset" in about else []
    said += [f"seeds {', '.join(map(str, about['seeds']))}"] if "seeds" in about else []
    said += [about[key] for key in ("device", "node") if key in about]
    said += [about.get("created", about.get("day"))[:10]]
    said += [f"commit `{about['git_commit'][:10]}`"] if about.get("git_commit") else []
    return f"{title}: {', '.join([*said, _versions(about['versions'])])}."


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")


def _committed_records(folder: Path) -> str:
    """The committed records, one row per run and one link per seed."""
    rows = []
    for (kind, run), group in _by_run(load_records(folder)):
        names = sorted({(record.seed, record.name) for record in group})
        links = " ".join(_download(f"{folder.name}/seed{seed}/records/{name}.json", str(seed)) for seed, name in names)
        row = _record_row((kind, run), group)
        rows.append((kind, row[1], links, *row[4:]))
    return table_of(("kind", "run", "records, by seed", "time", "peak memory", "device", "day"), rows)


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


def commit_of(record: Record) -> str:
    """The commit that made a record, and whether the tree had changes."""
    if not record.git_commit:
        return "outside git"
    return f"`{record.git_commit[:10]}`" + (" with changes" if record.git_dirty else "")
