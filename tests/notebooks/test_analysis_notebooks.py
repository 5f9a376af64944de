"""The analysis notebooks run cell by cell on a small made-up study, and show what they promise."""

import ast
import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import synthetic_study
from IPython.display import Markdown
from matplotlib.figure import Figure

from jmedlora_utils.analysis import evidence, registered, small_models
from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Record
from jmedlora_utils.data import fetch, igakuqa
from tests.analysis.test_registered import learned
from tests.analysis.test_registered import make_study as make_registered
from tests.analysis.test_small_models import BASE, OTHER, make_study

STEMS = ("32_scores", "40_findings", "42_cost")
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
        synthetic_study.use_preset(patch, (1,), RUNS)
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        made = {stem: run_cells(stem, preset="smoke", source="run") for stem in STEMS}
        tables = paths.runs_root() / "smoke" / "tables"
    return SimpleNamespace(shown=made, tables=tables)  # other tests of this file read presets of their own


@pytest.mark.parametrize("stem", STEMS)
def test_pages_say_that_smoke_is_no_evidence_and_show_figures_and_numbered_tables(pages, stem):
    assert "Nothing on this page is evidence" in pages.shown[stem]["banner"].data
    for cell in cells(stem):
        book, shown = cell.metadata.get("mystnb", {}), pages.shown[stem].get(cell.id)
        assert isinstance(shown, Figure) or "figure" not in book, cell.id
        if isinstance(shown, Markdown) and re.search(r"\{table\}|^\|[ :|-]+\|$", shown.data, re.MULTILINE):
            assert book.get("markdown_format") == "myst", f"{stem}, {cell.id}: a table shows as text without markdown_format"


def test_page_41_draws_the_committed_evidence(pages):
    shown = run_cells("41_metrics", preset="smoke", source="committed")
    drawn = {c.id for c in cells("41_metrics") if "figure" in c.metadata.get("mystnb", {})}
    assert len(drawn) == 7 and all(isinstance(shown[name], Figure) for name in drawn)


def test_page_40_names_what_a_run_did_not_measure(pages):
    shown = pages.shown["40_findings"]
    assert shown["verdicts"].data.count("| **not measured** |") == 4 and "no answers of en-large_placebo" in shown["verdicts"].data
    assert "no evidence" in shown["banner"].data and "was not asked" in shown["answers"].data


def test_page_40_counts_what_was_fixed_and_broken_as_its_table_of_flips(pages):
    shown, flipped = pages.shown["40_findings"], pd.read_csv(pages.tables / "flips.csv")
    two_by_two, taught = shown["flips"], flipped[flipped["facts"] == "taught"]
    fixed, broken = ((taught["flip"] == name).sum() for name in ("fixed", "broken"))
    assert (two_by_two.loc["wrong", "right"], two_by_two.loc["right", "wrong"]) == (fixed, broken)
    assert f"{fixed} questions fixed and {broken} broken" in shown["mcnemar"].data
    assert set(flipped["flip"]) <= {"fixed", "broken", "right twice", "wrong twice"}
    assert "distance before" in shown["fixed"].data, "a kept question of each kind is shown"


def test_pages_write_their_tables(pages):
    written = {"estimates.csv", "seeds.csv", "flips.csv", "scores.csv", "gains.csv", "differences.csv", "cost.csv"}
    assert {p.name for p in pages.tables.glob("*.csv")} == written


def test_pages_32_and_42_read_arms_that_were_asked_different_exams(tmp_path, monkeypatch):
    """Real and invented questions have groups of one name, and a base was asked more than each of its arms."""
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    synthetic_study.write_blind_answers("small-smoke")
    shown = run_cells("32_scores", preset="small-smoke", source="run")
    drawn = {text.get_text() for ax in shown["map"].axes for text in ax.get_xticklabels()}
    assert {"small exam 1 taught", "taught"} <= drawn
    differences = pd.read_csv(tmp_path / "small-smoke" / "tables" / "differences.csv").set_index(["run", "minus"])["group"]
    assert "small_exam_1_taught" in set(differences["gemma_exam", "smollm2_exam"])
    assert "taught" in set(differences["gemma_facts", "smollm2_facts"])
    assert ("gemma_exam", "smollm2_facts") not in differences.index
    figure = run_cells("42_cost", preset="small-smoke", source="run")["price"]
    figure.canvas.draw()
    names = {text.get_text().split(",")[0] for text in figure.axes[0].get_yticklabels()}
    assert {"smollm2_exam", "gemma_facts"} <= names


def test_page_32_shows_untuned_bases_with_likelihood_and_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    synthetic_study.write_blind_answers("small-bases")
    shown = run_cells("32_scores", preset="small-bases", source="run")
    assert "jjsimqa 17.5" in shown["chances"].data
    assert "| gemma_1shot | jjsimqa | 0 | 1 | 25.0 | 25.0 | 25.0 | 17.5 | 16 |" in shown["likelihood"].data
    tables = tmp_path / "small-bases" / "tables"
    assert pd.read_csv(tables / "gains.csv").empty and pd.read_csv(tables / "differences.csv").empty


def test_page_44_compares_the_arms_by_the_committed_rule(tmp_path, monkeypatch):
    study = make_study(bases=(BASE, OTHER))
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    monkeypatch.setattr(evidence, "load_study", lambda preset, source: study)
    measured = [("nats per byte", "japanese", 1.5), ("nats per byte", "english", 0.9), ("tuning seconds", "", 90.0), ("peak GiB", "", 2.0)]
    measured += [("tokens read", "", 1234.0), ("likelihood", "mini_trained, 0-shot, taught", 0.2)]
    frame = pd.DataFrame([("smollm2_exam", 1, *row) for row in measured], columns=small_models.MEASURES)
    monkeypatch.setattr(small_models, "measures", lambda preset, seeds: frame)
    shown = run_cells("44_small_models", preset="small-smoke", source="run")
    assert "nothing here is evidence" in shown["banner"].data and "supported" in shown["rule"].data
    assert shown["claim1"].data.count("| supported") == 6 and "+70.0" in shown["claim1"].data
    assert "retrieval, BM25" in shown["scores-table"].data and "20.0" in shown["scores-table"].data
    assert "| 1.500 | 0.900 |" in shown["measures"].data and "| 2.0 | 1,234 | 1.5 |" in shown["cost"].data
    assert "letters alone" in shown["example"].data and "No real question" in shown["example-table"].data
    reported = pd.read_csv(paths.RESULTS / "published" / "reported.csv")
    assert "| Swallow-7B | 18.6 |" in shown["whole-published"].data and "uniform guessing" in shown["whole-published"].data
    assert not [s for s in reported["system"] if re.search(r"[2-9]\dB", s) and s in shown["whole-published"].data]
    written = {p.name for p in (tmp_path / "small-smoke" / "tables").iterdir()}
    assert written == {"summary.csv", "claim_1.csv", "transfer.csv", "arms.csv", "answers.csv", "measures.csv", "example.csv"}


def test_page_44_prints_the_shown_question_as_it_was_asked(tmp_path, monkeypatch):
    years = range(2018, 2022)
    if fetch.missing(f"IgakuQA/data/{year}/" for year in years):
        pytest.skip("the examination is not on this machine: JMEDLORA_DATA, or `make exams`")
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    shown = run_cells("44_small_models", preset="small", source="committed")
    picked = pd.read_csv(paths.RESULTS / "small" / "example.csv").fillna("")
    asked = next(q for q in igakuqa.load_igakuqa(paths.exam_data_dir(), years) if q.id == picked["id"].iloc[0])
    assert asked.text[:20] in shown["example"].data
    right = next(line for line in shown["example-table"].data.splitlines() if "| right |" in line and line[2] in "abcde")
    assert f" {asked.choice(min(asked.gold))} " in right


def test_page_40_judges_by_the_registration_and_warns_of_other_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    counts = pd.DataFrame({"seed": [11, 12, 13], "exam": "mini_lookalike", "n": 40, "non_copies": 36, "right": 30})
    counts = counts.assign(right_not_exact=[28, 29, 27], wrong=10, credited_wrong=[2, 3, 4])
    monkeypatch.setattr(registered, "answer_counts", lambda study: counts.iloc[: len(study.seeds)].assign(seed=study.seeds))
    for seeds in ((11, 12, 13), (101, 102)):
        study = make_registered(learned, seeds)
        outcomes = study.outcomes.assign(quantisation="none", template="", method="lora", category="", n_select=1, chance=0.2)
        scored = {name: outcomes["accuracy"] for name in ("exact_match", "gestalt", "strict_exact_match", "strict_accuracy")}
        study = replace(study, outcomes=outcomes.assign(**scored), records=[base_record(seed) for seed in seeds])
        monkeypatch.setattr(evidence, "load_study", lambda preset, source, study=study: study)
        shown = run_cells("40_findings", preset="mini-seeds", source="run")
        text = "\n".join(cell.data for cell in shown.values() if hasattr(cell, "data") and isinstance(cell.data, str))
        assert ("Not the registered study" in text) == (seeds[0] == 101) and ("provisional" in text) == (seeds[0] == 11)
        assert "**supported" in shown["verdicts"].data and "study 1" in shown["studies"].data
        by_hand, package = shown["by-hand-seen"].data, registered.findings(study)[0].estimates[0].text()
        assert package in by_hand, "the page by hand and the package give the same interval"
    rows = pd.read_csv(tmp_path / "mini-seeds" / "tables" / "estimates.csv")
    assert set(rows["claim"]) == {1, 2, 3, 4} and (rows["low"] <= rows["value"]).all()


def base_record(seed: int) -> Record:
    measured = {"entry": {"0shot": {"accuracy": 0.9}}, "fertility": {"ja": 1.0, "en": 0.3}}
    config, model = {"centric": "english"}, {"base": "en-large"}
    return Record("pretrain", "19_pretrain__en-large", "mini-seeds", seed, config, measured, {"parameters": 10}, model=model)
