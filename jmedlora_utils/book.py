"""The book: gathers the executed notebooks of one run with the pages, and builds it with warnings as errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from jmedlora_utils import paths
from jmedlora_utils.config import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, Preset, load_preset
from jmedlora_utils.records import Record, RecordError, load_records, package_versions, write_text
from jmedlora_utils.workflow import clock, durations, plain

HTML = paths.ROOT / "_build" / "html"
STAGING = paths.ROOT / "_book"
GENERATED = "_generated"
BIBLIOGRAPHY = paths.BOOK / "references.bib"
COLAB_NOTEBOOKS = ("20_", "30_")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|private|work|workspace|mnt|opt|var)/[\w.~-][^\s'\"<>)]*")


class BookError(RuntimeError):
    """A page that cannot stand in the book, or a build with warnings."""


def build(preset_name: str, html: Path = HTML) -> Path:
    """Builds the book of a preset's last run; returns its first page.

    The old book stays in place until the new one is complete; the same input is not built twice.

    Raises:
        BookError: A notebook is not fit for the book, or the build warned.
    """
    staged = stage(preset_name)
    digest = _digest(staged)
    seal = html / ".staged"
    index = html / "index.html"
    if seal.is_file() and seal.read_text(encoding="utf-8") == digest:
        return index
    work = STAGING / f"{preset_name}.build"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged), "--path-output", str(work)]
    command += ["-n", "-W", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    log = write_text(STAGING / f"{preset_name}.log", plain(done.stdout + done.stderr))
    built = work / "_build" / "html"
    if done.returncode != 0 or not (built / "index.html").is_file():
        said = [line for line in log.read_text(encoding="utf-8").splitlines() if re.search(r"WARNING|ERROR|Error", line)]
        raise BookError("\n".join(["the book did not build without warnings:", *said[:20], f"full output in {paths.relative(log)}"]))
    write_text(built / ".staged", digest)
    html.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    shutil.move(built, html)
    shutil.rmtree(work)
    return index


def stage(preset_name: str) -> Path:
    """Gathers what the book is built from in `_book/<preset>/` and returns that folder.

    The pages, the table of contents and the executed notebooks lie in it as they do in the repository, under the
    same names, so links and launch buttons hold.

    Raises:
        BookError: No notebook of the preset has run, or one of them is not fit for the book.
    """
    preset = load_preset(preset_name)
    folder = STAGING / preset_name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(paths.BOOK, folder / "book", ignore=shutil.ignore_patterns("README.md"))
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))
    address, branch = config["repository"]["url"], config["repository"]["branch"]
    executed = executed_notebooks(preset)
    if not executed:
        raise BookError(f"preset {preset_name!r} has not run; run `make reproduce PRESET={preset_name}` first")
    for stem, source in executed.items():
        notebook = clean_notebook(source)
        if address:
            notebook["cells"].insert(1, _launch_cell(address, branch, stem))
        write_text(folder / "notebooks" / f"{stem}.ipynb", json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    missing = _missing(toc, folder)
    for stem in missing:
        write_text(folder / "notebooks" / f"{stem}.md", _stub(preset, stem))
    shutil.copy(paths.ROOT / "_toc.yml", folder)
    for setting in ("use_repository_button", "use_issues_button"):
        config["html"][setting] = bool(address)
    write_text(folder / "_config.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    for name, text in _fragments(preset, missing).items():
        write_text(folder / "book" / GENERATED / f"{name}.md", text + "\n")
    return folder


def executed_notebooks(preset: Preset) -> dict[str, Path]:
    """Notebook stem to the executed copy that stands in the book.

    A notebook that runs once a seed is shown at the first seed; notebooks 20 and 30 are those of `preset.show`.
    """
    seed = preset.seeds[0]
    found = {}
    for job in preset.jobs():
        shown = {TUNE_NOTEBOOK: f"{TUNE_NOTEBOOK}__{preset.show}", EVALUATE_NOTEBOOK: f"{EVALUATE_NOTEBOOK}__{preset.show}"}
        if job.output != shown.get(job.notebook, job.notebook) or job.seed not in (None, seed):
            continue
        folder = paths.runs_root() / preset.name if job.seed is None else paths.Workspace(preset.name, seed).root
        path = folder / "notebooks" / f"{job.output}.ipynb"
        if path.is_file():
            found[job.notebook] = path
    return found


def clean_notebook(path: Path) -> dict[str, Any]:
    """An executed notebook without papermill's traces and without the folder of this machine.

    Raises:
        BookError: A cell raised, never ran, or printed a path of this machine.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"], start=1):
        where = f"{paths.relative(path)}, cell {number}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if cell["cell_type"] != "code":
            continue
        if cell["execution_count"] is None and "".join(cell["source"]).strip():
            raise BookError(f"{where}: the code was not executed; run the notebook again")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise BookError(f"{where}: the code raised {output['ename']}; mend it and run the notebook again")
        cell["outputs"] = _map_text(cell["outputs"], lambda text: text.replace(f"{paths.ROOT}/", ""))
        for text in _texts(cell["outputs"]):
            if found := MACHINE_PATH.search(text):
                raise BookError(f"{where}: the output shows a path of this machine, {found.group()!r}; print paths.relative(path)")
    return notebook


def tidy_bibliography(path: Path = BIBLIOGRAPHY) -> bool:
    """Sorts the entries by key and writes them in one layout; returns whether the file changed.

    Raises:
        BookError: The file is not valid BibTeX, or a key stands in it twice.
    """
    from pybtex.database import BibliographyData, parse_file
    from pybtex.exceptions import PybtexError

    try:
        entries = parse_file(path).entries
    except PybtexError as error:
        raise BookError(f"{paths.relative(path)}: {error}; mend the entry") from error
    tidy = BibliographyData({key: entries[key] for key in sorted(entries)}).to_string("bibtex")
    if changed := tidy != path.read_text(encoding="utf-8"):
        write_text(path, tidy)
    return changed


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((paths.ROOT / "constraints.txt").read_bytes())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _missing(toc: dict[str, Any], folder: Path) -> list[str]:
    """Stems of the notebooks in the table of contents that this run does not have."""
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [Path(page).name for page in pages if page.startswith("notebooks/") and not (folder / f"{page}.ipynb").is_file()]


def _stub(preset: Preset, stem: str) -> str:
    """A page in place of a notebook that did not run, so that links to it hold."""
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    if not path.is_file():
        raise BookError(f"_toc.yml names notebooks/{stem}, and there is no such notebook; mend the line")
    title = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).splitlines()[0]
    return f"{title}\n\nThis copy of the book was built from the preset `{preset.name}`, which does not run this notebook.\n"


def _launch_cell(address: str, branch: str, stem: str) -> dict[str, Any]:
    """Colab, which has GPUs, for the notebooks that use one; Binder for the rest."""
    repository = address.removesuffix("/").removeprefix("https://github.com/")
    if stem.startswith(COLAB_NOTEBOOKS):
        link = f"[Open in Colab](https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{stem}.ipynb)"
    else:
        link = f"[Open in Binder](https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/notebooks/{stem}.ipynb)"
    return {"cell_type": "markdown", "id": "launch", "metadata": {}, "source": link}


def _fragments(preset: Preset, missing: list[str]) -> dict[str, str]:
    """The tables of the status page, by file name."""
    try:
        records = load_records(paths.runs_root() / preset.name, allow_smoke=True)
    except RecordError:
        records = []
    days = sorted({record.created[:10] for record in records})
    about = [
        ("Preset", f"`{preset.name}`: {preset.about}"),
        ("Seeds", ", ".join(map(str, preset.seeds))),
        ("Device", "; ".join(sorted({record.device for record in records}))),
        ("Day", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("Commit", ", ".join(sorted({_commit(record) for record in records}))),
        ("Notebooks not in this run", ", ".join(f"`{stem}`" for stem in missing) or "none"),
    ]
    times = durations(preset.name)
    versions = {name: v for record in records for name, v in record.versions.items()} or package_versions()
    return {
        "run": _table(("what", "this book"), about),
        "times": _table(
            ("notebook", "time"), [*((name, clock(s)) for name, s in times), ("all, one after another", clock(sum(s for _, s in times)))]
        ),
        "versions": _table(("package", "version"), [(name, v) for name, v in versions.items() if v != "not installed"]),
        "records": _table(("kind", "run", "seeds", "records", "time", "peak memory"), _record_rows(records)),
    }


def _record_rows(records: list[Record]) -> list[tuple[str, ...]]:
    """One row a run: a run's evaluations, one record for each step, exam and shot, are added up."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        run = record.name.split("__")[1] if "__" in record.name else record.name
        groups[record.kind, run].append(record)
    return [
        (
            kind,
            f"`{run}`",
            str(len({r.seed for r in group})),
            str(len(group)),
            clock(sum(r.wall_seconds for r in group)),
            f"{max(r.peak_memory_bytes for r in group) / 2**30:.1f} GiB",
        )
        for (kind, run), group in sorted(groups.items())
    ]


def _commit(record: Record) -> str:
    if not record.git_commit:
        return "outside git"
    return f"`{record.git_commit[:10]}`" + (" with changes" if record.git_dirty else "")


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _texts(value: Any) -> Iterator[str]:
    """Every text in an output, images left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            yield "".join(value)
        else:
            for item in value:
                yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/"):
                yield from _texts(item)


def _map_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map_text(item, change) for key, item in value.items()}
    return value
