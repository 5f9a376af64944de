"""A user always gets a book, the project's own checks refuse a flawed one, and nothing else on the disk is touched."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project, write_notebook

from jmedlora_utils.__main__ import main
from jmedlora_utils.book import builder, notebook_pages
from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.manifest import write_manifest
from jmedlora_utils.core.records import Record, write_record
from jmedlora_utils.workflow import runner

STDERR = {"output_type": "stream", "name": "stderr", "text": ["a library's word\n"]}


def write_executed(path: Path, text: str = "done\n", count: int | None = 1, output: dict[str, Any] | None = None) -> Path:
    """An executed notebook with papermill's traces."""
    stream = output or {"output_type": "stream", "name": "stdout", "text": [text]}
    code = {"cell_type": "code", "id": "a", "metadata": {"papermill": {"duration": 1.0}, "tags": []}, "source": ["1 + 1"]}
    code |= {"outputs": [stream], "execution_count": count}
    title = {"cell_type": "markdown", "id": "t", "metadata": {"papermill": {}}, "source": ["# A title"]}
    metadata = {"papermill": {"input_path": "x.ipynb", "duration": 2.5}, "language_info": {"name": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": [title, code], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def ran(here: Project) -> Project:
    """The dummy project with its notebooks executed, and a page of the tables made from their records."""
    includes = "\n".join(f"```{{include}} _generated/{name}.md\n```" for name in ("run", "times", "records"))
    (here.root / "book" / "status.md").write_text(f"# Status\n\n{includes}\n")
    for step in runner.steps(presets.load_preset("mini")):
        write_executed(step.target)
    return here


def staged(name: str = "mini") -> Path:
    return builder.stage(name)[0]


def test_the_book_is_made_of_the_executed_copies_and_says_what_did_not_run(ran: Project) -> None:
    folder = staged()
    text = (folder / "notebooks" / "20_tune_lora.ipynb").read_text()
    assert "done" in text and "papermill" not in text and "Colab" not in text
    assert not (folder / "notebooks" / "30_evaluate_exam.ipynb").exists(), "it is not in the table of contents"
    page = (folder / "notebooks" / "41_metrics.md").read_text()
    assert page.startswith("# 41_metrics\n") and "does not run this notebook" in page
    assert "`41_metrics`" in (folder / "book" / "_generated" / "run.md").read_text()


def test_the_run_that_the_preset_names_is_shown_at_the_first_seed(ran: Project) -> None:
    ran.preset.write_text("seeds: [4, 5]\nruns: {a: {}, b: {}}\nshow: b\n")
    for step in runner.steps(presets.load_preset("mini")):
        write_executed(step.target, text=step.label)
    notebook = json.loads((staged() / "notebooks" / "20_tune_lora.ipynb").read_text())
    assert notebook["cells"][1]["outputs"][0]["text"] == "20_tune_lora__b (seed 4)"


def test_a_book_that_cannot_be_made_is_refused_in_words(ran: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    page, notebook = ran.root / "book" / "intro.md", ran.notebooks / "41_metrics.ipynb"
    page.write_text("# Title\n\n```{include} _generated/stroy.md\n```\n")
    with pytest.raises(JmedloraError, match=r"intro\.md: includes _generated/stroy\.md, which nothing makes; there are .*story"):
        builder.stage("mini")
    notebook.rename(ran.root / "elsewhere")
    with pytest.raises(JmedloraError, match=r"_toc\.yml: names notebooks/41_metrics, and there is no such notebook"):
        builder.stage("mini")
    ran.preset.write_text("seeds: [9]\nruns: {a: {}}\n")
    with pytest.raises(JmedloraError, match="preset 'mini' has not run; run `make reproduce PRESET=mini` first"):
        builder.stage("mini")
    monkeypatch.setattr(paths, "RESULTS", ran.root / "book" / "results")
    with pytest.raises(JmedloraError, match=r"mini: no evidence is here; .*`make reproduce`"):
        builder.build()


def test_damaged_evidence_ends_the_command_in_one_line(ran: Project, monkeypatch, capsys) -> None:
    evidence = ran.root / "book" / "results" / "mini" / "evidence.json"
    evidence.parent.mkdir(parents=True)
    evidence.write_text("{")
    monkeypatch.setattr(paths, "RESULTS", ran.root / "book" / "results")
    command = ["book", "--html", str(ran.root / "html")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "mini/manifest.json: missing" in said and "git checkout -- " in said and said.count("\n") == 1
    write_manifest(evidence.parent)
    ran.preset.write_text(ran.preset.read_text() + "analyse: {41_metrics: {}}\n")
    code = "from jmedlora_utils.core.errors import JmedloraError\nraise JmedloraError('evidence.json: it is cut short; fetch it again')"
    notebook = json.loads((ran.notebooks / "41_metrics.ipynb").read_text())
    notebook["cells"].append(notebook["cells"][-1] | {"id": "c9", "source": code, "metadata": {}})
    (ran.notebooks / "41_metrics.ipynb").write_text(json.dumps(notebook))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said == "error: notebook 41_metrics failed on committed evidence: evidence.json: it is cut short; fetch it again\n"


def test_addresses_come_from_the_settings_or_the_environment(ran: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ran.root / "_config.yml"
    settings = yaml.safe_load(path.read_text())
    assert yaml.safe_load((staged() / "_config.yml").read_text())["html"]["use_repository_button"] is False
    settings["repository"] |= {"url": "https://github.com/someone/jmedlora", "branch": "trunk"}
    settings["html"]["baseurl"] = "https://old.example.org"
    path.write_text(yaml.safe_dump(settings))
    folder = staged()
    pages = [folder / "notebooks" / f"{stem}.ipynb" for stem in ("20_tune_lora", "10_prepare_instructions")]
    links = [json.loads(page.read_text())["cells"][1]["source"] for page in pages]
    assert "colab.research.google.com/github/someone/jmedlora/blob/trunk/notebooks/20_tune_lora.ipynb" in links[0]
    assert "mybinder.org/v2/gh/someone/jmedlora/trunk?urlpath=lab/tree/notebooks/10_prepare" in links[1]
    html = yaml.safe_load((folder / "_config.yml").read_text())["html"]
    assert html["use_repository_button"] is True and html["baseurl"] == "https://old.example.org"
    monkeypatch.setenv(builder.ADDRESS, "https://book.example.org/a")
    assert yaml.safe_load((staged() / "_config.yml").read_text())["html"]["baseurl"] == "https://book.example.org/a"


def test_the_status_tables_come_from_the_records(ran: Project) -> None:
    folder, about = paths.Workspace("mini", 1).records, {"git_commit": "abcdef0123456789"}
    made = Record("tune", "20_tune__a", "mini", 1, wall_seconds=61, peak_memory_bytes=2**30, **about)
    evaluated = [Record("evaluate", f"30_evaluate__a__step{step}__x__0shot", "mini", 1, wall_seconds=2, **about) for step in (0, 10)]
    for record in (made, *evaluated):
        write_record(folder, record)
    generated = staged() / "book" / "_generated"
    assert {path.stem for path in generated.iterdir()} == {"run", "times", "records"}, "a fragment that no page includes was made"
    assert (generated / "records.md").read_text().splitlines()[2:] == [
        f"| evaluate | `a` | 1 | 2 | 4 s | 0.0 GiB | {made.device} | {made.created[:10]} |",
        f"| tune | `a` | 1 | 1 | 1 min 01 s | 1.0 GiB | {made.device} | {made.created[:10]} |",
    ]
    assert "`abcdef0123`" in (generated / "run.md").read_text()
    assert "| all, one after another | 8 s |" in (generated / "times.md").read_text()


def test_a_user_gets_a_book_in_every_case_and_the_projects_own_checks_refuse_one_with_warnings(ran: Project) -> None:
    html = ran.root / "_build" / "html"
    index, warnings = builder.build("mini", html, strict=True)
    assert index.is_file() and not warnings
    before = index.stat().st_mtime_ns
    assert builder.build("mini", html)[0].stat().st_mtime_ns == before, "the same input was built twice"
    write_executed(runner.steps(presets.load_preset("mini"))[0].target, output=STDERR)
    (ran.root / "book" / "intro.md").write_text("# Title\n\n[](nowhere.md)\n")
    with pytest.raises(JmedloraError, match=r"--strict refuses:\n.*cell 2: wrote to stderr: a library's word[\s\S]*nowhere"):
        builder.build("mini", html, strict=True)
    assert index.stat().st_mtime_ns == before, "a refused book took the place of a good one"
    index, warnings = builder.build("mini", html)
    assert index.stat().st_mtime_ns != before
    assert "a library's word" in warnings[0] and any("nowhere" in line for line in warnings)
    assert all("library's word" not in page.read_text() for page in html.rglob("*.html"))
    assert builder.build("mini", html).warnings == warnings, "the warnings of a book that is not built again are gone"
    with pytest.raises(JmedloraError, match="--strict refuses"):
        builder.build("mini", html, strict=True)


def test_what_a_library_says_while_a_notebook_runs_costs_nobody_the_book(project: Project) -> None:
    """A notebook that warns and writes to stderr, run through Snakemake and papermill: a book, its log, and a strict refusal."""
    common = 'preset = "mini"  # preset\nseed = 1  # seed\nbase = "en"  # base\nbases = ["en"]  # bases\n'
    says = "import sys, warnings\nprint('an optional', 'kernel is missing', file=sys.stderr)\nwarnings.warn('this will change')"
    write_notebook(project.notebooks / "10_prepare_instructions.ipynb", common, says)
    run = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1", "--html", "html")
    assert run.returncode == 0, run.stdout + run.stderr
    address, _, warned = run.stdout.partition("The book: ")[2].partition("\n")
    assert Path(address).is_file() and "an optional kernel is missing" in warned + run.stderr
    log = (project.root / "runs/mini/seed1/logs/10_prepare_instructions.log").read_text()
    assert "an optional kernel is missing" in log and "this will change" in log
    assert all("optional kernel" not in page.read_text() for page in Path(address).parent.rglob("*.html"))
    strict = project.run("jmedlora_utils", "book", "--preset", "mini", "--html", "html", "--strict")
    assert strict.returncode == 1 and "an optional kernel is missing" in strict.stderr


@pytest.mark.parametrize("thesis", ["documents/thesis.txt", "documents/.hidden", "documents"])
def test_a_folder_that_is_not_an_earlier_build_is_left_as_it_is(ran: Project, tmp_path: Path, thesis: str) -> None:
    file = tmp_path / thesis
    file.parent.mkdir(exist_ok=True)
    file.write_text("years of work")
    with pytest.raises(JmedloraError, match="documents: it is not an earlier build of this book"):
        builder.build("mini", tmp_path / "documents")
    assert file.read_text() == "years of work"


def test_two_builds_at_once_do_not_mix(ran: Project) -> None:
    with alone(builder.STAGING / ".lock", "the book"), pytest.raises(JmedloraError, match="the book: another process is at work on it"):
        builder.build("mini", ran.root / "_build" / "html")


# --- one executed notebook ----------------------------------------------------------------------------------------


def shown(path: Path) -> tuple[str, list[str]]:
    """The outputs of the code cell on the page, and the warnings."""
    notebook, warnings = notebook_pages.page(path, "20_tune_lora")
    return json.dumps(notebook["cells"][1]["outputs"]), warnings


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"output": {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}}, "the code raised ValueError"),
        ({"count": None}, "the code was not executed"),
    ],
)
def test_a_notebook_that_failed_is_refused(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=rf"a\.ipynb, cell 2: {message}"):
        shown(write_executed(tmp_path / "a.ipynb", **made))


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "name": "stdout", "text": [f"read /{'home'}/someone/data.csv\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": [f"<td>/{'home'}/someone/data.csv", "</td>"]}},
    ],
)
def test_paths_of_this_machine_are_cut_and_reported(tmp_path: Path, output: dict[str, Any]) -> None:
    text, warnings = shown(write_executed(tmp_path / "a.ipynb", output=output))
    assert "someone" not in text and "data.csv" in text
    assert len(warnings) == 1 and "cell 2: the output shows" in warnings[0]
    text, warnings = shown(write_executed(tmp_path / "b.ipynb", text=f"wrote {paths.ROOT}/runs/mini/x.json\n"))
    assert '"wrote runs/mini/x.json\\n"' in text and not warnings


@pytest.mark.parametrize(
    ("said", "reported"),
    [
        ("/" + 'opt/env/lib/python3.11/site-packages/x/y.py:509: UserWarning: Not on CPU.\n  state["a"] = b\n', ""),
        ("Failed to load CPU gemm_4bit_forward from kernels-community: no network. Please make sure it is installed.\n", ""),
        ("our own word\n", "our own word"),
    ],
)
def test_stderr_never_reaches_a_page_and_what_no_library_said_is_reported(tmp_path: Path, said: str, reported: str) -> None:
    text, warnings = shown(write_executed(tmp_path / "a.ipynb", output=STDERR | {"text": [said]}))
    assert text == "[]"
    assert [line.partition("stderr: ")[2] for line in warnings] == ([reported] if reported else [])


def test_every_figure_and_table_of_an_analysis_page_gets_a_line_of_evidence() -> None:
    def cell(name: str, text: str = "", **metadata: object) -> dict[str, Any]:
        output = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": [text]}}
        return {"cell_type": "code", "id": name, "metadata": metadata, "source": "", "outputs": [output]}

    tables = [f":::{{table}} Caption\n:name: tab-{name}\n\n| a |\n|---|\n| 1 |\n:::\n" for name in "xyz"]
    cells = [cell("words", "no table"), cell("numbers", "\n".join([*tables, "foot"])), cell("drawn", mystnb={"figure": {}})]
    cells.append(cell("named", mystnb={"figure": {}}, evidence=["published/reported.csv"]))
    lined = notebook_pages._with_evidence({"cells": cells}, "40_findings", {"preset": "smoke", "source": "run"})["cells"]
    added = {c["id"]: c["source"] for c in lined if c["cell_type"] == "markdown"}
    assert list(added) == ["numbers-evidence", "drawn-evidence", "named-evidence"]
    assert all("{doc}`40_findings </notebooks/40_findings>`" in line for line in added.values())
    assert "`runs/smoke/`" in added["drawn-evidence"] and "{download}`published/reported.csv" in added["named-evidence"]
    text = lined[1]["outputs"][0]["data"]["text/markdown"]
    assert text.count("jm-evidence") == 2, "tables within one cell"
    assert text.replace(f"\n\n{added['numbers-evidence']}\n", "") == "\n".join([*tables, "foot"])
    assert notebook_pages._with_evidence({"cells": cells}, "20_tune_lora", {}) == {"cells": cells}


def test_the_bibliography_is_sorted_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.bib"
    path.write_text('@article{b, title = "{Two}", author = "B, A", year = "2000"}\n@article{a, title="One", author="A, B", year=1999}\n')
    assert builder.tidy_bibliography(path) is True
    text = path.read_text()
    assert text.index("{a,") < text.index("{b,") and "{Two}" in text
    assert builder.tidy_bibliography(path) is False
    path.write_text(text + text)
    with pytest.raises(JmedloraError, match="repeated bibliography entry: a"):
        builder.tidy_bibliography(path)
