"""The analysis pages run on smoke records, cell by cell, and say that smoke is no evidence."""

from __future__ import annotations

import ast
import re
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.display import Markdown
from matplotlib.figure import Figure

from jmedlora_utils.analysis import exam_errors, tables
from jmedlora_utils.core import paths

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import synthetic_study

STEMS = ("40_findings", "42_cost", "43_errors")
RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "en-large_full", "ja-medium_lora")]


def cells(stem: str) -> list:
    return nbformat.read(paths.NOTEBOOKS / f"{stem}.ipynb", as_version=4).cells


def run_cells(stem: str, **parameters: object) -> dict[str, object]:
    """Runs the code cells in this process and returns what each shows, by cell id; papermill itself is tested by the smoke preset."""
    scope: dict[str, object] = {}
    shown: dict[str, object] = {}
    for cell in (c for c in cells(stem) if c.cell_type == "code"):
        tree = ast.parse(cell.source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell.id, "exec"), scope)
        if "parameters" in cell.metadata.get("tags", []):
            scope |= parameters
        if last is not None:
            shown[cell.id] = eval(compile(ast.Expression(last.value), cell.id, "eval"), scope)
    return shown


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(tables, "load_preset", lambda name: synthetic_study.preset(name, (1,), RUNS))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        made = {stem: run_cells(stem, preset="smoke", source="run") for stem in STEMS[:2]}
        made["43_errors"] = run_cells("43_errors", preset="smoke", source="run", run_name="en-large_lora")
        yield SimpleNamespace(shown=made, tables=paths.runs_root() / "smoke" / "tables")


@pytest.mark.parametrize("stem", STEMS)
def test_smoke_pages_carry_a_banner(pages, stem):
    assert "Nothing on this page is evidence" in pages.shown[stem]["banner"].data


@pytest.mark.parametrize("stem", STEMS)
def test_figure_cells_show_a_figure_and_table_cells_a_numbered_table(pages, stem):
    for cell in cells(stem):
        book = cell.metadata.get("mystnb", {})
        shown = pages.shown[stem].get(cell.id)
        if "figure" in book:
            assert isinstance(shown, Figure), cell.id
            assert book["figure"]["caption"] and book["figure"]["name"].startswith("fig-") and book["image"]["alt"], cell.id
        elif "markdown_format" in book and isinstance(shown, Markdown) and "{table}" in shown.data:
            assert re.search(r"^:name: tab-[\w-]+$", shown.data, re.MULTILINE), cell.id
        if isinstance(shown, Markdown) and re.search(r"\{table\}|^\|[ :|-]+\|$", shown.data, re.MULTILINE):
            assert book.get("markdown_format") == "myst", f"{stem}, {cell.id}: a table shows as text without markdown_format"


def test_labels_are_used_once():
    labels = [c.metadata["mystnb"]["figure"]["name"] for s in STEMS for c in cells(s) if "figure" in c.metadata.get("mystnb", {})]
    labels += [name for s in STEMS for c in cells(s) for name in re.findall(r'"(tab-[\w-]+)"', c.source)]
    assert len(labels) == len(set(labels))


def test_every_claim_gets_a_card_from_published_to_verdict(pages):
    shown = pages.shown["40_findings"]
    for number in (1, 2, 3, 4):
        card = shown[f"claim{number}-card"].data
        assert f":name: tab-claim-{number}" in card
        rows = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("|")][2:]
        assert rows[0] == "published" and rows[-1] == "**verdict**" and rows[-2] == "at a larger size"
        assert any(row.startswith("miniature, ") for row in rows) and "not run" in card
    assert "33.1 %" in shown["claim1-card"].data
    assert shown["verdicts"].data.count("at the paper's size: not run") == 4


def test_what_figures_show_is_said_in_numbers(pages):
    for cell in ("claim1-steps-seen", "claim1-facts-seen", "claim2-figure-seen", "claim3-figure-seen", "forgetting-seen"):
        assert re.search(r"\d", pages.shown["40_findings"][cell].data), cell


def test_limits_count_seeds_and_random_answers(pages):
    shown = pages.shown["40_findings"]["limits-counted"].data
    # 1,000 documents, 90 and 40 % Japanese: 400 × 0.32 of either; 0.2 of 400, and of 900 what these leave, in the shares of the others.
    assert "128 against 128" in shown and "227 against 80" in shown
    assert "**One seed.**" in shown and "luck" in shown
    assert "corrected on" in pages.shown["40_findings"]["rule-text"].data


def test_pages_write_their_tables(pages):
    assert {p.name for p in pages.tables.iterdir()} == {
        "findings.csv",
        "summary.csv",
        "cost.csv",
        "flips.csv",
        *exam_errors.TABLES.values(),
    }


def test_flips_add_up(pages):
    import pandas as pd

    flipped = pd.read_csv(pages.tables / "flips.csv")
    assert set(flipped["flip"]) <= {"fixed", "broken", "right twice", "wrong twice"}
    gain = (flipped["flip"] == "fixed").sum() - (flipped["flip"] == "broken").sum()
    assert gain == flipped["after"].sum() - flipped["before"].sum()


def test_errors_of_published_systems_stand_beside_those_of_the_miniature(pages):
    shown = pages.shown["43_errors"]
    assert "gpt4 from" in shown["exam-students-seen"].data
    assert "blind picks" in shown["exam-prohibited"].data and "gpt3 → chatgpt" in shown["exam-students-flips"].data
    assert "was asked IgakuQA before and after tuning" in shown["exam-candidates"].data


def test_an_example_shows_the_distance_of_every_choice(pages):
    card = pages.shown["43_errors"]["fixed"].data
    assert "distance before" in card
    assert len(re.findall(r"^\| [a-e] \|", card, re.MULTILINE)) == 5


@pytest.mark.parametrize("stem", STEMS)
def test_cells_are_small(stem):
    sizes = [sum(bool(line.strip()) for line in c.source.splitlines()) for c in cells(stem) if c.cell_type == "code"]
    assert statistics.median(sizes) <= 8
    assert max(sizes) <= 20


def test_analysis_needs_no_torch():
    import subprocess

    code = (
        "import sys; from jmedlora_utils.analysis import findings, tables, views; "
        "from jmedlora_utils.figures import exam_plots, metrics_plots, style, tuning_plots; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=False).returncode == 0
