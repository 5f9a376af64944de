"""The book: gathers executed notebooks and pages, and builds it with warnings as errors.

There are two kinds: the book of a preset's run on this machine, and the book of committed evidence, which needs neither a run
nor torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from jmedlora_utils.book import fragments
from jmedlora_utils.book.fragments import Source
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, Preset, declared_parameters, load_preset
from jmedlora_utils.core.records import RecordError, load_records, write_text
from jmedlora_utils.workflow.runner import durations, plain

HTML = paths.ROOT / "_build" / "html"
STAGING = paths.ROOT / "_book"
GENERATED = "_generated"
EVIDENCE = "evidence"
ADDRESS = "JMEDLORA_ADDRESS"
"""Variable of the environment that says where the book will stand; it goes before `html.baseurl` of `_config.yml`."""
BIBLIOGRAPHY = paths.BOOK / "references.bib"
COLAB_NOTEBOOKS = ("20_", "30_")
# Marks a folder as a build of this book and says what it was built from; only such a folder is replaced.
SEAL = ".staged"
NUMBERED_TABLE = re.compile(r"^:::\{table\}.*?^:::$", re.MULTILINE | re.DOTALL)
LIBRARY_WARNING = re.compile(r"^[^\n]*/site-packages/[^\n]*:\d+: \w*Warning: [^\n]*(?:\n  [^\n]*)?\n?", re.MULTILINE)
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|private|work|workspace|mnt|opt|var)/[\w.~-][^\s'\"<>)]*")


def build(preset_name: str = "", html: Path = HTML, jobs: int = 2, strict: bool = False) -> tuple[Path, list[str]]:
    """Builds the book of a preset's last run, or of committed evidence where no preset is named.

    The old book stays in place until the new one is complete; the same input is not built twice.

    Args:
        preset_name: A preset that has run; empty for committed evidence.
        html: Folder of the built book.
        jobs: Analysis notebooks side by side, for committed evidence.
        strict: Refuse a book with warnings, as this project does with its own; a user gets the book and the list of warnings.

    Returns:
        The first page, and what the builder warned of.

    Raises:
        JmedloraError: `html` holds something that is not an earlier build, another build is under way, a notebook failed, or the
            build ended without a book; if `strict`, also any warning.
    """
    refuse_foreign(html)
    with alone(STAGING / ".lock", "the book"):
        return _build(preset_name, html, jobs, strict)


def refuse_foreign(html: Path) -> None:
    """Refuses to replace a folder that this project did not build."""
    if html.exists() and not (html / SEAL).is_file() and (not html.is_dir() or any(html.iterdir())):
        raise JmedloraError(f"{html}: it is not an earlier build of this book, so it is left as it is; name a new or an empty folder")


def _build(preset_name: str, html: Path, jobs: int, strict: bool) -> tuple[Path, list[str]]:
    staged, warned = stage(preset_name) if preset_name else stage_evidence(jobs)
    if strict and warned:
        raise JmedloraError("\n".join(["the notebooks are not fit for the book:", *warned]))
    digest = _digest(staged)
    seal = html / SEAL
    index = html / "index.html"
    if not strict and seal.is_file() and seal.read_text(encoding="utf-8") == digest:
        return index, warned
    work = STAGING / f"{staged.name}.build"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged), "--path-output", str(work)]
    command += ["-n", "-W", "--keep-going"] if strict else ["-n"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    log = write_text(STAGING / f"{staged.name}.log", plain(done.stdout + done.stderr))
    built = work / "_build" / "html"
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if re.search(r"WARNING|ERROR|CRITICAL|Error", line)]
    if (strict and done.returncode != 0) or not (built / "index.html").is_file():
        what = "the book did not build without warnings:" if strict else "the book did not build:"
        raise JmedloraError("\n".join([what, *said[:20], f"full output in {paths.relative(log)}"]))
    write_text(built / SEAL, digest)
    html.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(html, ignore_errors=True)
    shutil.move(built, html)
    shutil.rmtree(work)
    return index, [*warned, *said]


def stage(preset_name: str) -> tuple[Path, list[str]]:
    """Gathers what the book of a preset's last run is built from in `_book/<preset>/`; returns that folder, see `_gather`.

    Raises:
        JmedloraError: No notebook of the preset has run, or one of them is not fit for the book.
    """
    preset = load_preset(preset_name)
    executed = executed_notebooks(preset, paths.runs_root())
    if not executed:
        raise JmedloraError(f"preset {preset_name!r} has not run; run `make reproduce PRESET={preset_name}` first")
    try:
        records = load_records(paths.runs_root() / preset.name, allow_smoke=True)
    except RecordError:
        records = []
    return _gather(Source(preset_name, preset, executed, _listed(), records, durations(preset_name), committed=False))


def stage_evidence(jobs: int = 2) -> tuple[Path, list[str]]:
    """Runs the analysis notebooks on committed evidence and gathers the book in `_book/evidence/`; returns that folder, see `_gather`.

    What ran on this machine does not enter: the notebooks see an empty folder of runs, and no examination. Notebooks that
    train or ask models are shown as code.

    Args:
        jobs: Notebooks side by side.

    Raises:
        JmedloraError: The evidence is missing, or a notebook failed or is not fit for the book.
    """
    preset, evidence, runs = load_preset(fragments.MINI), paths.RESULTS / fragments.MINI, STAGING / f"{EVIDENCE}.runs"
    if not (evidence / "evidence.json").is_file():
        raise JmedloraError(f"{paths.relative(evidence / 'evidence.json')} is missing; `make reproduce` builds the book from a run instead")
    shutil.rmtree(runs, ignore_errors=True)
    environment = os.environ | {"JMEDLORA_RUNS": str(runs), "JMEDLORA_DATA": str(runs / "no-examination")}

    def run(stem: str) -> None:
        command = [sys.executable, "-m", "jmedlora_utils", "run", "--preset", preset.name, "--output", stem, "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=paths.ROOT)
        if done.returncode != 0:
            raise JmedloraError(f"notebook {stem} failed on committed evidence: {plain(done.stderr).strip()[-2000:]}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, preset.analyse))
    executed = executed_notebooks(preset, runs)
    times = [(stem, float(_read(path)["metadata"]["papermill"]["duration"])) for stem, path in sorted(executed.items())]
    return _gather(Source(EVIDENCE, preset, executed, _listed(), load_records(evidence), times, committed=True))


def _gather(source: Source) -> tuple[Path, list[str]]:
    """Lays pages, table of contents and notebooks out as in the repository, under the same names, so that links hold.

    Returns:
        The folder, and what was taken off the notebooks' outputs: text on stderr, paths of this machine.
    """
    folder, warned = STAGING / source.name, []
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(paths.BOOK, folder / "book")
    shutil.copytree(fragments.BENCHMARKS, folder / "benchmarks" / "results")
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))
    address, branch = config["repository"]["url"], config["repository"]["branch"]
    for stem in source.listed:
        if not (paths.NOTEBOOKS / f"{stem}.ipynb").is_file():
            raise JmedloraError(f"_toc.yml names notebooks/{stem}, and there is no such notebook; mend the line")
        if stem in source.executed:
            cleaned, found = clean_notebook(source.executed[stem])
            warned += found
            notebook = with_evidence(cleaned, stem, _parameters(stem, source.executed[stem]))
        elif source.committed:
            notebook = _as_code(stem)
        else:
            write_text(folder / "notebooks" / f"{stem}.md", _stub(source.preset, stem))
            continue
        if address:
            notebook["cells"].insert(1, _launch_cell(address, branch, stem))
        write_text(folder / "notebooks" / f"{stem}.ipynb", json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    shutil.copy(paths.ROOT / "_toc.yml", folder)
    for setting in ("use_repository_button", "use_issues_button"):
        config["html"][setting] = bool(address)
    config["html"]["baseurl"] = os.environ.get(ADDRESS) or config["html"]["baseurl"]
    write_text(folder / "_config.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    _write_fragments(source, folder / "book")
    return folder, warned


def _write_fragments(source: Source, book: Path) -> None:
    """Writes every fragment that a page includes; the others are not made."""
    known = {**fragments.FRAGMENTS, **fragments.STATUS}
    for page in sorted(book.glob("*.md")):
        for name in re.findall(rf"{GENERATED}/(\w+)\.md", page.read_text(encoding="utf-8")):
            if name not in known:
                raise JmedloraError(f"{page.name} includes {GENERATED}/{name}.md, which nothing makes; known: {', '.join(sorted(known))}")
            write_text(book / GENERATED / f"{name}.md", fragments.fragment(name, source, book / GENERATED) + "\n")


def executed_notebooks(preset: Preset, root: Path) -> dict[str, Path]:
    """Notebook stem to the executed copy below `root` that stands in the book.

    A notebook that runs once a seed is shown at the first seed; notebooks 20 and 30 are those of `preset.show`.
    """
    seed = preset.seeds[0]
    found = {}
    for job in preset.jobs():
        shown = {TUNE_NOTEBOOK: f"{TUNE_NOTEBOOK}__{preset.show}", EVALUATE_NOTEBOOK: f"{EVALUATE_NOTEBOOK}__{preset.show}"}
        if job.output != shown.get(job.notebook, job.notebook) or job.seed not in (None, seed):
            continue
        folder = root / preset.name if job.seed is None else root / preset.name / f"seed{seed}"
        path = folder / "notebooks" / f"{job.output}.ipynb"
        if path.is_file():
            found[job.notebook] = path
    return found


def clean_notebook(path: Path) -> tuple[dict[str, Any], list[str]]:
    """An executed notebook without papermill's traces, text on stderr (it is in the notebook's log) and paths of this machine.

    Returns:
        The notebook, and one line for each cell from which something was taken.

    Raises:
        JmedloraError: A cell raised or never ran.
    """
    notebook, warned = _read(path), []
    notebook["metadata"].pop("papermill", None)
    for number, cell in enumerate(notebook["cells"], start=1):
        where = f"{paths.relative(path)}, cell {number}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if cell["cell_type"] != "code":
            continue
        if cell["execution_count"] is None and "".join(cell["source"]).strip():
            raise JmedloraError(f"{where}: the code was not executed; run the notebook again")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise JmedloraError(f"{where}: the code raised {output['ename']}; mend it and run the notebook again")
        said = LIBRARY_WARNING.sub("", "".join("".join(o["text"]) for o in cell["outputs"] if o.get("name") == "stderr")).strip()
        if said:
            warned.append(f"{where}: it wrote to stderr, see the notebook's log: {plain(said.splitlines()[-1])[:200]}")
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        cell["outputs"] = _map_text(cell["outputs"], lambda text: text.replace(f"{paths.ROOT}/", ""))
        if any(MACHINE_PATH.search(text) for text in _texts(cell["outputs"])):
            warned.append(f"{where}: the output shows a path of this machine; print paths.relative(path)")
            cell["outputs"] = _map_text(cell["outputs"], lambda text: MACHINE_PATH.sub(lambda found: Path(found[0]).name, text))
    return notebook, warned


def with_evidence(notebook: dict[str, Any], stem: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Puts a line under each figure and table of an analysis notebook: the files it rests on, and what made it.

    A cell names its files in its metadata, key `evidence`; otherwise those of the whole notebook count (`fragments.EVIDENCE_OF`).
    """
    if stem not in fragments.EVIDENCE_OF:
        return notebook
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell)
        if cell["cell_type"] == "code" and _is_numbered(cell):
            line = fragments.evidence_line(stem, cell["metadata"].get("evidence") or fragments.EVIDENCE_OF[stem], parameters)
            cells[-1] = cell | {"outputs": [_between_tables(output, line) for output in cell["outputs"]]}
            cells.append({"cell_type": "markdown", "id": f"{cell['id'][:50]}-evidence", "metadata": {}, "source": line})
    return notebook | {"cells": cells}


def _between_tables(output: dict[str, Any], line: str) -> dict[str, Any]:
    """The output with the line under each of its tables but the last, which the cell that follows serves."""
    shown = "".join(output.get("data", {}).get("text/markdown", ""))
    if len(ends := [table.end() for table in NUMBERED_TABLE.finditer(shown)]) < 2:
        return output
    pieces = [shown[start:end] for start, end in itertools.pairwise([0, *ends[:-1], len(shown)])]
    return output | {"data": output["data"] | {"text/markdown": f"\n\n{line}\n".join(pieces)}}


def tidy_bibliography(path: Path = BIBLIOGRAPHY) -> bool:
    """Sorts the entries by key and writes them in one layout; returns whether the file changed.

    Raises:
        JmedloraError: The file is not valid BibTeX, or a key stands in it twice.
    """
    from pybtex.database import BibliographyData, parse_file
    from pybtex.exceptions import PybtexError

    try:
        entries = parse_file(path).entries
    except PybtexError as error:
        raise JmedloraError(f"{paths.relative(path)}: {error}; mend the entry") from error
    tidy = BibliographyData({key: entries[key] for key in sorted(entries)}).to_string("bibtex")
    if changed := tidy != path.read_text(encoding="utf-8"):
        write_text(path, tidy)
    return changed


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((paths.ROOT / "constraints.txt").read_bytes())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _listed() -> list[str]:
    """Stems of the notebooks in the table of contents."""
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [Path(page).name for page in chapters if page.startswith("notebooks/")]


def _parameters(stem: str, path: Path) -> dict[str, Any]:
    """What the executed copy was run with, its defaults included."""
    return declared_parameters(stem) | _read(path)["metadata"].get("papermill", {}).get("parameters", {})


def _is_numbered(cell: dict[str, Any]) -> bool:
    """Whether the cell shows a captioned figure or a numbered table."""
    shown = [text for output in cell["outputs"] for text in _texts(output.get("data", {}).get("text/markdown", ""))]
    return "figure" in cell["metadata"].get("mystnb", {}) or any("{table}" in text for text in shown)


def _as_code(stem: str) -> dict[str, Any]:
    """A notebook as it lies in git, with a note that it was not run for this book."""
    notebook = _read(paths.NOTEBOOKS / f"{stem}.ipynb")
    note = (
        ":::{note}\n**Code only.** This copy of the book is built from committed evidence, so this notebook was not run for it. "
        "`make reproduce` runs it and shows its results here. What it left in the committed study is "
        f"{{ref}}`listed on the status page <{fragments.LABEL}{fragments.MINI}>`.\n:::"
    )
    notebook["cells"].insert(1, {"cell_type": "markdown", "id": "not-run", "metadata": {}, "source": note})
    return notebook


def _stub(preset: Preset, stem: str) -> str:
    """A page in place of a notebook that did not run, so that links to it hold."""
    title = "".join(_read(paths.NOTEBOOKS / f"{stem}.ipynb")["cells"][0]["source"]).splitlines()[0]
    return f"{title}\n\nThis copy of the book was built from the preset `{preset.name}`, which does not run this notebook.\n"


def _launch_cell(address: str, branch: str, stem: str) -> dict[str, Any]:
    """Colab, which has GPUs, for the notebooks that use one; Binder for the rest."""
    repository = address.removesuffix("/").removeprefix("https://github.com/")
    if stem.startswith(COLAB_NOTEBOOKS):
        link = f"[Open in Colab](https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{stem}.ipynb)"
    else:
        link = f"[Open in Binder](https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/notebooks/{stem}.ipynb)"
    return {"cell_type": "markdown", "id": "launch", "metadata": {}, "source": link}


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
