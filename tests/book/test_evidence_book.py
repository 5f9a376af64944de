"""The book of committed evidence is built where torch cannot be imported, in minutes, from nothing that ran on this machine."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jmedlora_utils.book import builder, provenance
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset

ABSENT = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "snakemake")
HTML = paths.ROOT / "_build" / builder.EVIDENCE / "html"  # `.ci/checks` looks at it in Chromium afterwards
CPU_SECONDS = 360  # two cores in three minutes; a busy machine takes longer by the clock
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built book; builder and kernels meet a torch that refuses to be imported, and a run that must not enter."""
    folder = tmp_path_factory.mktemp("evidence")
    for name in ABSENT:
        (folder / "blocked" / name).mkdir(parents=True)
        (folder / "blocked" / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(folder / "blocked"), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "JMEDLORA_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    environment.pop("JMEDLORA_DATA", None)
    shutil.rmtree(HTML, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "jmedlora_utils", "book", "--strict", "--html", str(HTML)]
    done = subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
    assert not (folder / "runs").exists(), "building the book wrote into the runs of this machine"
    return HTML


def test_analysis_pages_show_results_and_the_others_say_that_they_were_not_run(built: Path) -> None:
    def code_only(stem: str) -> bool:
        return "Code only." in (built / "notebooks" / f"{stem}.html").read_text(encoding="utf-8")

    assert not any(map(code_only, load_preset(provenance.MINI).analyse))
    assert all(map(code_only, ("10_prepare_instructions", "20_tune_lora", "30_evaluate_exam")))


def test_figures_carry_a_line_of_evidence_whose_files_can_be_fetched(built: Path) -> None:
    page = (built / "notebooks" / "40_findings.html").read_text(encoding="utf-8")
    notebook = json.loads((builder.STAGING / builder.EVIDENCE / "notebooks" / "40_findings.ipynb").read_text(encoding="utf-8"))
    figures = {cell["id"] for cell in notebook["cells"] if "figure" in cell["metadata"].get("mystnb", {})}
    lines = {cell["id"].removesuffix("-evidence") for cell in notebook["cells"] if cell["id"].endswith("-evidence")}
    assert figures < lines and page.count("jm-evidence") == len(lines)
    files = re.findall(r'class="[^"]*download[^"]*"[^>]*href="([^"]+)"', page)
    assert files and all((built / "notebooks" / name).is_file() for name in files)


def test_first_page_and_status_page_come_from_the_evidence(built: Path) -> None:
    intro, status = ((built / "book" / f"{name}.html").read_text(encoding="utf-8") for name in ("intro", "status"))
    about = json.loads((paths.RESULTS / provenance.MINI / "evidence.json").read_text(encoding="utf-8"))
    assert "story.png" in intro and "判定" in intro and f"{len(about['seeds'])} seeds" in intro
    records = {path.name for path in (paths.RESULTS / provenance.MINI).glob("seed*/records/*.json")}
    assert records and all(name in status for name in records)
    assert "committed evidence alone" in status
