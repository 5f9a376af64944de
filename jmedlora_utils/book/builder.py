"""Builds the book: from the notebooks of a preset's last run, or from committed evidence, which needs neither a run nor torch.

A strict build refuses whatever a notebook or Sphinx warns of; this project's own checks use it. Any other build ends with a book
and returns the warnings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from jmedlora_utils.book import fragments, notebook_pages, provenance
from jmedlora_utils.book.provenance import Edition
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, Preset, load_preset
from jmedlora_utils.core.records import load_records, read_json, sha256_file, sha256_text, write_json, write_text
from jmedlora_utils.workflow.runner import durations, plain, seconds

STAGING = paths.ROOT / "_book"
GENERATED = "_generated"
EVIDENCE = "evidence"
MARKER = ".jmedlora-book.json"
"""In every built book: what it was built from, and the warnings. Only a folder that holds it is ever replaced."""
ADDRESS = "JMEDLORA_ADDRESS"
"""Environment variable with the public address of the book; it overrides `html.baseurl` of `_config.yml`."""
BIBLIOGRAPHY = paths.BOOK / "references.bib"
SHOWS_A_QUESTION = ("44_small_models",)
"""Notebooks that print one question of the examination where it lies on this machine; the others read committed evidence alone."""
_SPHINX_WARNING = re.compile(r"WARNING|ERROR|CRITICAL|Error")


class Built(NamedTuple):
    """A built book: its first page, and what the builder warned of."""

    index: Path
    warnings: list[str]


def refuse_foreign(html: Path) -> None:
    """Refuses a folder that a build would erase: it is neither absent nor empty nor an earlier book of this project.

    Raises:
        JmedloraError: The folder holds something else, or it is a file.
    """
    empty = not any(html.iterdir()) if html.is_dir() else not html.exists()
    if not empty and not (html / MARKER).is_file():
        raise JmedloraError(f"{html}: it is not an earlier build of this book, so it is left as it is; name a new or an empty folder")


def build(preset_name: str = "", html: Path = paths.HTML, jobs: int = 2, strict: bool = False) -> Built:
    """Builds the book of a preset's last run, or of committed evidence where no preset is named.

    The old book in `html` (see `refuse_foreign`) stays in place until the new one is complete; the same input is not built twice.
    For committed evidence, `jobs` analysis notebooks run at the same time.

    Raises:
        JmedloraError: There is nothing to build from, another build is running, or a strict build has warnings.
    """
    html = html.expanduser().resolve()
    refuse_foreign(html)
    with alone(STAGING / ".lock", "the book"):
        staged, warnings = stage(preset_name) if preset_name else stage_evidence(jobs)
        digest = _digest(staged)
        marker = read_json(html / MARKER) if (html / MARKER).is_file() else {}
        if marker.get("digest") == digest:
            warnings = marker["warnings"]
        else:
            warnings += _sphinx(staged, html, digest, warnings, strict)
        if strict and warnings:
            raise JmedloraError("\n".join(["the book has warnings, which --strict refuses:", *warnings[:20]]))
        return Built(html / "index.html", warnings)


def _sphinx(staged: Path, html: Path, digest: str, warnings: list[str], strict: bool) -> list[str]:
    """Runs jupyter-book and moves the result to `html`, except where a strict build has warnings; returns Sphinx's warnings."""
    work = STAGING / f"{staged.name}.build"
    shutil.rmtree(work, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(staged), "--path-output", str(work)]
    command += ["-n", "-W", "--keep-going"] if strict else ["-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    log = write_text(STAGING / f"{staged.name}.log", plain(done.stdout + done.stderr))
    lines = log.read_text(encoding="utf-8").replace(f"{staged}/", "").replace(f"{paths.ROOT}/", "").splitlines()
    said = [line for line in lines if _SPHINX_WARNING.search(line) and "finished with problems" not in line]
    built = work / "_build" / "html"
    if not (built / "index.html").is_file() or (done.returncode != 0 and not said):
        raise JmedloraError("\n".join([f"the book did not build; the full output is in {paths.relative(log)}", *said[:20]]))
    if not (strict and (warnings or said)):
        write_json(built / MARKER, {"digest": digest, "warnings": [*warnings, *said]})
        html.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(html, ignore_errors=True)
        shutil.move(built, html)
    shutil.rmtree(work)
    return said


def stage(preset_name: str) -> tuple[Path, list[str]]:
    """Gathers what the book of a preset's last run is built from in `_book/<preset>/`; returns that folder and the warnings.

    Raises:
        JmedloraError: No notebook of the preset has run, or a cell of one of them failed.
    """
    preset = load_preset(preset_name)
    notebooks = executed_notebooks(preset, paths.runs_root())
    if not notebooks:
        raise JmedloraError(f"preset {preset_name!r} has not run; run `make reproduce PRESET={preset_name}` first")
    has_records = any((paths.runs_root() / preset.name).glob("seed*/records/*.json"))
    records = load_records(paths.runs_root() / preset.name, allow_smoke=True) if has_records else []
    return _gather(Edition(preset_name, preset, notebooks, _listed(), records, durations(preset_name), committed=False))


def stage_evidence(jobs: int = 2) -> tuple[Path, list[str]]:
    """Runs the analysis notebooks on committed evidence and gathers the book in `_book/evidence/`.

    What ran on this machine does not enter: the notebooks see an empty folder of runs, and no examination. Notebooks that
    train or ask models are shown as code.

    Raises:
        JmedloraError: The evidence is missing or damaged.
    """
    preset, evidence, runs = load_preset(provenance.MINI), paths.RESULTS / provenance.MINI, STAGING / f"{EVIDENCE}.runs"
    for folder in {evidence, *(path for path in paths.RESULTS.glob("*") if path.is_dir())}:
        check_manifest(folder)
    shutil.rmtree(runs, ignore_errors=True)
    without_exam = {"JMEDLORA_DATA": str(runs / "no-examination")}

    def run(stem: str) -> None:
        command = [sys.executable, "-m", "jmedlora_utils", "run", "--preset", preset.name, "--output", stem, "--threads", "1"]
        environment = os.environ | {"JMEDLORA_RUNS": str(runs)} | ({} if stem in SHOWS_A_QUESTION else without_exam)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=paths.ROOT)
        if done.returncode != 0:
            said = plain(done.stderr).strip().splitlines() or ["it ended without a message"]
            reason = said[-1].rpartition("JmedloraError: ")[2].partition("; full output in ")[0]
            raise JmedloraError(f"notebook {stem} failed on committed evidence: {reason}")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, preset.analyse))
    notebooks = executed_notebooks(preset, runs)
    times = [(stem, seconds(path)) for stem, path in sorted(notebooks.items())]
    return _gather(Edition(EVIDENCE, preset, notebooks, _listed(), load_records(evidence), times, committed=True))


def _gather(edition: Edition) -> tuple[Path, list[str]]:
    """Lays pages, table of contents and notebooks out as in the repository, under the same names, so that links hold."""
    folder, warnings = STAGING / edition.name, []
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(paths.BOOK, folder / "book")
    shutil.copytree(provenance.BENCHMARKS, folder / "benchmarks" / "results")
    config = yaml.safe_load((paths.ROOT / "_config.yml").read_text(encoding="utf-8"))
    address, branch = config["repository"]["url"], config["repository"]["branch"]
    for stem in edition.listed:
        if not (paths.NOTEBOOKS / f"{stem}.ipynb").is_file():
            raise JmedloraError(f"_toc.yml: names notebooks/{stem}, and there is no such notebook; correct the line")
        if stem in edition.executed:
            notebook, said = notebook_pages.page(edition.executed[stem], stem)
            warnings += said
        elif edition.committed:
            notebook = notebook_pages.code_only(stem)
        else:
            write_text(folder / "notebooks" / f"{stem}.md", notebook_pages.stub(stem, edition.preset.name))
            continue
        if address:
            notebook["cells"].insert(1, notebook_pages.launch_cell(address, branch, stem))
        write_json(folder / "notebooks" / f"{stem}.ipynb", notebook)
    for name in ("_toc.yml", "CITATION.cff"):
        shutil.copy(paths.ROOT / name, folder)
    for setting in ("use_repository_button", "use_issues_button"):
        config["html"][setting] = bool(address)
    config["html"]["baseurl"] = os.environ.get(ADDRESS) or config["html"]["baseurl"]
    write_text(folder / "_config.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    for page in sorted((folder / "book").glob("*.md")):
        for name in re.findall(rf"{GENERATED}/(\w+)\.md", page.read_text(encoding="utf-8")):
            if name not in fragments.FRAGMENTS:
                known = ", ".join(sorted(fragments.FRAGMENTS))
                raise JmedloraError(f"{page.name}: includes {GENERATED}/{name}.md, which nothing makes; there are {known}")
            made = folder / "book" / GENERATED
            made.mkdir(exist_ok=True)
            write_text(made / f"{name}.md", fragments.FRAGMENTS[name](edition, made) + "\n")
    return folder, warnings


def executed_notebooks(preset: Preset, root: Path) -> dict[str, Path]:
    """Notebook stem to the executed copy below `root` that stands in the book.

    A notebook that runs once per seed is shown at the first seed; notebooks 20 and 30 are those of `preset.show`.
    """
    shown = {TUNE_NOTEBOOK: f"{TUNE_NOTEBOOK}__{preset.show}", EVALUATE_NOTEBOOK: f"{EVALUATE_NOTEBOOK}__{preset.show}"}
    found = {}
    for job in preset.jobs():
        if job.output != shown.get(job.notebook, job.notebook) or job.seed not in (None, preset.seeds[0]):
            continue
        folder = root / preset.name if job.seed is None else root / preset.name / f"seed{job.seed}"
        path = folder / "notebooks" / f"{job.output}.ipynb"
        if path.is_file():
            found[job.notebook] = path
    return found


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
        raise JmedloraError(f"{paths.relative(path)}: {error}; correct the entry") from error
    tidy = BibliographyData({key: entries[key] for key in sorted(entries)}).to_string("bibtex")
    if changed := tidy != path.read_text(encoding="utf-8"):
        write_text(path, tidy)
    return changed


def _digest(folder: Path) -> str:
    sums = [f"{path.relative_to(folder)} {sha256_file(path)}" for path in sorted(folder.rglob("*")) if path.is_file()]
    return sha256_text("\n".join([sha256_file(paths.ROOT / "constraints.txt"), *sums]))


def _listed() -> list[str]:
    """Stems of the notebooks in the table of contents."""
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [Path(page).name for page in chapters if page.startswith("notebooks/")]
