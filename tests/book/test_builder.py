import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project

from jmedlora_utils.book import builder
from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.records import Record, write_record
from jmedlora_utils.workflow import runner


def executed(path: Path, text: str = "done\n", count: int | None = 1, output: dict[str, Any] | None = None) -> Path:
    """An executed notebook with papermill's traces."""
    stream = output or {"output_type": "stream", "name": "stdout", "text": [text]}
    code = {"cell_type": "code", "id": "a", "metadata": {"papermill": {"duration": 1.0}, "tags": []}, "source": ["1 + 1"]}
    code |= {"outputs": [stream], "execution_count": count}
    title = {"cell_type": "markdown", "id": "t", "metadata": {"papermill": {}}, "source": ["# A title"]}
    trace = {"input_path": "x.ipynb", "duration": 2.5}
    notebook = {
        "cells": [title, code],
        "metadata": {"papermill": trace, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))
    return path


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The dummy project with its notebooks executed, for calls inside this process."""
    monkeypatch.setattr(paths, "ROOT", project.root)
    monkeypatch.setattr(paths, "BOOK", project.root / "book")
    monkeypatch.setattr(paths, "NOTEBOOKS", project.notebooks)
    monkeypatch.setattr(paths, "PRESETS", project.notebooks / "presets")
    monkeypatch.setattr(builder, "STAGING", project.root / "_book")
    monkeypatch.setenv("JMEDLORA_RUNS", str(project.root / "runs"))
    includes = "\n".join(f"```{{include}} _generated/{name}.md\n```" for name in ("run", "times", "records"))
    (project.root / "book" / "status.md").write_text(f"# Status\n\n{includes}\n")
    presets.declared_parameters.cache_clear()
    for step in runner.steps(presets.load_preset("mini")):
        executed(step.target)
    yield project
    presets.declared_parameters.cache_clear()


def test_the_book_is_staged_from_the_executed_copies(here: Project) -> None:
    folder, _ = builder.stage("mini")
    names = sorted(p.name for p in (folder / "notebooks").iterdir())
    executed_copies = ["10_prepare_instructions.ipynb", "20_tune_lora.ipynb"]  # 30 stands in no table of contents here
    assert [name for name in names if name.endswith(".ipynb")] == executed_copies
    text = (folder / "notebooks" / "20_tune_lora.ipynb").read_text()
    assert "done" in text
    assert "papermill" not in text


def test_a_notebook_that_did_not_run_has_a_page_that_says_so(here: Project) -> None:
    folder, _ = builder.stage("mini")
    page = (folder / "notebooks" / "41_metrics.md").read_text()
    assert page.startswith("# 41_metrics\n")
    assert "does not run this notebook" in page
    assert "`41_metrics`" in (folder / "book" / "_generated" / "run.md").read_text()


def test_a_notebook_that_is_not_there_is_refused(here: Project) -> None:
    (here.notebooks / "41_metrics.ipynb").unlink()
    with pytest.raises(JmedloraError, match=r"_toc\.yml names notebooks/41_metrics, and there is no such notebook"):
        builder.stage("mini")


def test_the_shown_run_stands_in_the_book(here: Project) -> None:
    here.preset.write_text("seeds: [4, 5]\nruns: {a: {}, b: {}}\nshow: b\n")
    for step in runner.steps(presets.load_preset("mini")):
        executed(step.target, text=step.label)
    notebook = json.loads((builder.stage("mini")[0] / "notebooks" / "20_tune_lora.ipynb").read_text())
    assert notebook["cells"][1]["outputs"][0]["text"] == ["20_tune_lora__b (seed 4)"]


def test_a_book_of_nothing_is_refused(here: Project) -> None:
    here.preset.write_text("seeds: [9]\nruns: {a: {}}\n")
    with pytest.raises(JmedloraError, match="preset 'mini' has not run; run `make reproduce PRESET=mini` first"):
        builder.stage("mini")


def test_a_failed_cell_is_refused(tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    with pytest.raises(JmedloraError, match=r"a\.ipynb, cell 2: the code raised ValueError"):
        builder.clean_notebook(executed(tmp_path / "a.ipynb", output=error))


def test_a_cell_that_never_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JmedloraError, match=r"a\.ipynb, cell 2: the code was not executed"):
        builder.clean_notebook(executed(tmp_path / "a.ipynb", count=None))


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "name": "stdout", "text": [f"read /{'home'}/someone/data.csv\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": [f"<td>/{'home'}/someone/data.csv", "</td>"]}},
    ],
)
def test_paths_of_this_machine_are_cut_to_their_last_part_and_reported(tmp_path: Path, output: dict[str, Any]) -> None:
    cleaned, warned = builder.clean_notebook(executed(tmp_path / "a.ipynb", output=output))
    assert "someone" not in json.dumps(cleaned) and "data.csv" in json.dumps(cleaned)
    assert len(warned) == 1 and "cell 2: the output shows a path of this machine" in warned[0]


def test_paths_of_the_repository_are_shown_from_its_root(tmp_path: Path) -> None:
    cleaned, warned = builder.clean_notebook(executed(tmp_path / "a.ipynb", text=f"wrote {paths.ROOT}/runs/mini/x.json\n"))
    assert cleaned["cells"][1]["outputs"][0]["text"] == ["wrote runs/mini/x.json\n"] and not warned


def test_text_on_stderr_never_reaches_a_page_and_what_is_no_library_warning_is_reported(tmp_path: Path) -> None:
    folder = "/" + "opt/env/lib/python3.11/site-packages/bitsandbytes/optim"
    warning = f'{folder}/optimizer.py:509: UserWarning: Paged optimizers are not supported on CPU.\n  state["a"] = b\n'
    noise = {"output_type": "stream", "name": "stderr", "text": [warning]}
    cleaned, warned = builder.clean_notebook(executed(tmp_path / "a.ipynb", output=noise))
    assert cleaned["cells"][-1]["outputs"] == [] and not warned
    own = noise | {"text": [warning, "Failed to load an optional kernel\n"]}
    cleaned, warned = builder.clean_notebook(executed(tmp_path / "b.ipynb", output=own))
    assert cleaned["cells"][-1]["outputs"] == []
    assert len(warned) == 1 and warned[0].endswith("cell 2: it wrote to stderr, see the notebook's log: Failed to load an optional kernel")


def test_launch_buttons_stay_off_until_there_is_an_address(here: Project) -> None:
    folder, _ = builder.stage("mini")
    assert "Colab" not in (folder / "notebooks" / "20_tune_lora.ipynb").read_text()
    assert yaml.safe_load((folder / "_config.yml").read_text())["html"]["use_repository_button"] is False
    settings = yaml.safe_load((here.root / "_config.yml").read_text())
    settings["repository"] |= {"url": "https://github.com/someone/jmedlora", "branch": "trunk"}
    (here.root / "_config.yml").write_text(yaml.safe_dump(settings))
    folder, _ = builder.stage("mini")
    tune, prepare = (json.loads((folder / "notebooks" / f"{s}.ipynb").read_text()) for s in ("20_tune_lora", "10_prepare_instructions"))
    assert "colab.research.google.com/github/someone/jmedlora/blob/trunk/notebooks/20_tune_lora.ipynb" in tune["cells"][1]["source"]
    assert "mybinder.org/v2/gh/someone/jmedlora/trunk?urlpath=lab/tree/notebooks/10_prepare" in prepare["cells"][1]["source"]
    assert yaml.safe_load((folder / "_config.yml").read_text())["html"]["use_repository_button"] is True


def test_the_address_of_the_environment_goes_before_that_of_the_settings(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = yaml.safe_load((here.root / "_config.yml").read_text())
    settings["html"]["baseurl"] = "https://old.example.org"
    (here.root / "_config.yml").write_text(yaml.safe_dump(settings))
    for set_to, wanted in (("", "https://old.example.org"), ("https://book.example.org/a", "https://book.example.org/a")):
        monkeypatch.setenv(builder.ADDRESS, set_to)
        assert yaml.safe_load((builder.stage("mini")[0] / "_config.yml").read_text())["html"]["baseurl"] == wanted


def test_the_status_tables_come_from_the_records(here: Project) -> None:
    folder = paths.Workspace("mini", 1).records
    made = Record("tune", "20_tune__a", "mini", 1, wall_seconds=61, peak_memory_bytes=2**30, git_commit="abcdef0123456789")
    write_record(folder, made)
    for step in (0, 10):
        write_record(folder, Record("evaluate", f"30_evaluate__a__step{step}__x__0shot", "mini", 1, wall_seconds=2, git_commit="abc"))
    generated = builder.stage("mini")[0] / "book" / "_generated"
    assert (generated / "records.md").read_text().splitlines()[2:] == [
        f"| evaluate | `a` | 1 | 2 | 4 s | 0.0 GiB | {made.device} | {made.created[:10]} |",
        f"| tune | `a` | 1 | 1 | 1 min 01 s | 1.0 GiB | {made.device} | {made.created[:10]} |",
    ]
    assert "`abcdef0123`" in (generated / "run.md").read_text()
    assert "| all, one after another | 8 s |" in (generated / "times.md").read_text()


def test_only_fragments_that_a_page_includes_are_made_and_unknown_ones_are_refused(here: Project) -> None:
    generated = builder.stage("mini")[0] / "book" / "_generated"
    assert {path.stem for path in generated.iterdir()} == {"run", "times", "records"}
    (here.root / "book" / "intro.md").write_text("# Title\n\n```{include} _generated/stroy.md\n```\n")
    with pytest.raises(JmedloraError, match=r"intro\.md includes _generated/stroy\.md, which nothing makes; known: .*story"):
        builder.stage("mini")


def test_a_book_of_evidence_that_is_not_there_is_refused(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "RESULTS", here.root / "book" / "results")
    with pytest.raises(JmedloraError, match=r"evidence\.json is missing; `make reproduce` builds the book from a run instead"):
        builder.build()


def test_a_notebook_that_evidence_cannot_run_is_shown_as_code(here: Project) -> None:
    notebook = builder._as_code("20_tune_lora")
    assert "**Code only.**" in notebook["cells"][1]["source"]
    assert [c["source"] for c in notebook["cells"] if c["cell_type"] == "code"][-1] == "print('rank', rank)"


def test_figures_and_tables_of_analysis_pages_get_a_line_of_evidence() -> None:
    def cell(name: str, shown: str = "", **metadata: object) -> dict[str, Any]:
        output = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": [shown]}}
        return {"cell_type": "code", "id": name, "metadata": metadata, "source": "", "outputs": [output]}

    cells = [cell("words", "no table"), cell("numbers", ":::{table} Numbers\n:name: tab-x\n:::"), cell("drawn", mystnb={"figure": {}})]
    cells.append(cell("named", mystnb={"figure": {}}, evidence=["published/reported.csv"]))
    lined = builder.with_evidence({"cells": cells}, "40_findings", {"preset": "smoke", "source": "run"})["cells"]
    added = {c["id"]: c["source"] for c in lined if c["cell_type"] == "markdown"}
    assert list(added) == ["numbers-evidence", "drawn-evidence", "named-evidence"]
    assert "`runs/smoke/`" in added["drawn-evidence"] and "{ref}`listed here <run-records>`" in added["numbers-evidence"]
    assert "{download}`published/reported.csv </book/results/published/reported.csv>`" in added["named-evidence"]
    assert all("{doc}`40_findings </notebooks/40_findings>`" in line for line in added.values())
    assert builder.with_evidence({"cells": cells}, "20_tune_lora", {}) == {"cells": cells}


def test_every_table_of_one_cell_gets_its_line() -> None:
    tables = [f":::{{table}} Caption\n:name: tab-{name}\n\n| a |\n|---|\n| 1 |\n:::\n" for name in "xyz"]
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "\n".join([*tables, "foot"])}}
    cell = {"cell_type": "code", "id": "scores", "metadata": {}, "source": "", "outputs": [output]}
    shown, line = builder.with_evidence({"cells": [cell]}, "32_scores", {"preset": "smoke", "source": "run"})["cells"]
    text = shown["outputs"][0]["data"]["text/markdown"]
    assert text.count("jm-evidence") == 2 and line["source"].count("jm-evidence") == 1
    assert [text.index(f"tab-{name}") < text.index("jm-evidence") for name in "xyz"] == [True, False, False]
    assert text.rindex("jm-evidence") < text.index("tab-z") and text.replace(f"\n\n{line['source']}\n", "") == "\n".join([*tables, "foot"])
    assert "jm-evidence" not in output["data"]["text/markdown"]


def test_a_user_gets_a_book_in_every_case_and_the_projects_own_checks_refuse_one_with_warnings(here: Project) -> None:
    """A notebook that writes to stderr, and a page with a dead link: lenient, strict; then the strict refusals leave the old book."""
    html = here.root / "_build" / "html"
    index, warned = builder.build("mini", html)
    assert index.is_file() and not warned
    before = index.stat().st_mtime_ns
    assert builder.build("mini", html)[0].stat().st_mtime_ns == before, "the same input was built twice"
    step = runner.steps(presets.load_preset("mini"))[0]
    good = step.target.read_text()
    executed(step.target, output={"output_type": "stream", "name": "stderr", "text": ["a library's word\n"]})
    with pytest.raises(JmedloraError, match=r"not fit for the book:\n.*cell 2: it wrote to stderr"):
        builder.build("mini", html, strict=True)
    step.target.write_text(good)
    (here.root / "book" / "intro.md").write_text("# Title\n\n[](nowhere.md)\n")
    for _ in range(2):  # a second strict build must not pass because the page was read before
        with pytest.raises(JmedloraError, match=r"did not build without warnings:[\s\S]*nowhere"):
            builder.build("mini", html, strict=True)
    assert index.stat().st_mtime_ns == before
    executed(step.target, output={"output_type": "stream", "name": "stderr", "text": ["a library's word\n"]})
    index, warned = builder.build("mini", html)
    assert index.stat().st_mtime_ns != before
    assert "a library's word" in warned[0] and any("nowhere" in line for line in warned)
    assert all("library's word" not in page.read_text() for page in html.rglob("*.html"))


@pytest.mark.parametrize("kind", ["a folder with a thesis", "a file"])
def test_a_folder_that_is_not_an_earlier_build_is_left_as_it_is(here: Project, tmp_path: Path, kind: str) -> None:
    html = tmp_path / "documents"
    thesis = html if kind == "a file" else html / "thesis.txt"
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("years of work")
    with pytest.raises(JmedloraError, match="documents: it is not an earlier build of this book"):
        builder.build("mini", html)
    assert thesis.read_text() == "years of work"


def test_two_builds_at_once_do_not_mix(here: Project) -> None:
    with alone(builder.STAGING / ".lock", "the book"), pytest.raises(JmedloraError, match="the book: another process is at work on it"):
        builder.build("mini", here.root / "_build" / "html")


def test_the_bibliography_is_sorted_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.bib"
    path.write_text('@article{b, title = "{Two}", author = "B, A", year = "2000"}\n@article{a, title="One", author="A, B", year=1999}\n')
    assert builder.tidy_bibliography(path) is True
    text = path.read_text()
    assert text.index("{a,") < text.index("{b,")
    assert "{Two}" in text
    assert builder.tidy_bibliography(path) is False
    path.write_text(text + text)
    with pytest.raises(JmedloraError, match="repeated bibliography entry: a"):
        builder.tidy_bibliography(path)
