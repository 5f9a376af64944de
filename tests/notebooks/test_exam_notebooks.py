"""Notebooks 11, 31 and 33, run by papermill from a folder that is not the repository's."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_data, needs_recent_data, pair, question, write_lines

from jmedlora_utils.analysis.exam_card import COLUMNS
from jmedlora_utils.core import paths
from jmedlora_utils.data.igakuqa import SYSTEMS
from jmedlora_utils.data.questions import read_exam, write_exam
from tests import executed as notebooks


@pytest.fixture
def run(tmp_path):
    """Runs a notebook with parameters; without `data`, as on a machine without the examinations."""
    return lambda stem, data=None, **parameters: notebooks.run_papermill(stem, tmp_path, data or tmp_path / "no-data", **parameters)


def shown(notebook: Path) -> str:
    return re.sub(" +", " ", notebooks.shown(notebook))


def pictures(notebook: Path) -> list[str]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [c["id"] for c in cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]


@needs_data
def test_31_scores_two_years_from_a_named_folder_into_a_named_folder(run, tmp_path):
    done, executed = run("31_score_published", data_dir=str(data_dir()), years=[2018, 2021], out_dir="card")
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "card" / "exam_card.csv")
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(SYSTEMS) * 2
    assert table.set_index(["system", "year"]).loc[("gpt4", 2018), ["points", "passed"]].tolist() == [382, True]
    assert pictures(executed) == ["marks-figure", "text-figure", "fields-figure", "exam-students-figure", "sources-figure"]
    assert (tmp_path / "card" / "error_flips.csv").is_file()
    assert "unknown parameter" not in done.stderr
    assert str(data_dir()) not in shown(executed)


def test_31_shows_the_committed_card_where_there_is_no_examination(run, tmp_path):
    done, executed = run("31_score_published", on_missing="committed")
    assert done.returncode == 0, done.stderr[-2000:]
    written = tmp_path / "runs" / "smoke" / "tables" / "exam_card.csv"
    assert written.read_bytes() == (paths.RESULTS / "published" / "exam_card.csv").read_bytes()
    assert "these are the committed figures" in shown(executed)


def test_33_shows_the_committed_pairs_where_the_examinations_are_not_there(run, tmp_path):
    done, executed = run("33_published_pairs", on_missing="committed", out_dir="pairs")
    assert done.returncode == 0, done.stderr[-2000:]
    for path in sorted((tmp_path / "pairs").glob("*.csv")):
        assert path.read_bytes() == (paths.RESULTS / "published_pairs" / path.name).read_bytes()
    assert "These are the committed tables" in shown(executed).replace("&#46;", ".") and "not official" in shown(executed)
    assert pictures(executed) == ["forest", "ladder"]


@needs_recent_data
def test_33_reads_a_named_folder_with_a_further_file_and_a_corrected_key(run, tmp_path):
    shutil.copytree(data_dir() / "JMLE2026-Bench", tmp_path / "mine" / "JMLE2026-Bench")
    results = tmp_path / "mine" / "JMLE2026-Bench" / "results"
    copy = (results / "openai_gpt-oss-20b_low.json").read_text(encoding="utf-8")
    copy = copy.replace("gpt-oss-20b (low)", "gpt-oss-20b (again)", 1).replace('"low"', '"high"', 1)
    (results / "openai_gpt-oss-20b_high.json").write_text(copy, encoding="utf-8")
    (tmp_path / "key.csv").write_text("id,answer,source\n120A1,withdrawn,a test\n", encoding="utf-8")
    done, executed = run("33_published_pairs", data_dir="mine", exams=["jmle2026"], corrections="key.csv", out_dir="pairs")
    assert done.returncode == 0, done.stderr[-2000:]
    systems = pd.read_csv(tmp_path / "pairs" / "systems.csv").set_index("system")
    assert len(systems) == 14 and set(systems["max_points"]) == {499}
    assert systems.loc["gpt-oss-20b (again)", ["right", "points"]].tolist() == [303, 382]
    assert len(pd.read_csv(tmp_path / "pairs" / "pairs.csv")) == 4
    assert "the key was corrected by key" in shown(executed)


def test_11_checks_and_sums_up_the_mini_exams_and_says_what_it_skips(run, tmp_path):
    folder = tmp_path / "runs" / "smoke" / "seed1" / "data" / "exams"
    write_exam(folder / "mini_trained.jsonl", [question(exam="mini_trained"), pair(id="2", exam="mini_trained")])
    done, executed = run("11_prepare_exams", exams=["mini", "igakuqa"], on_missing="skip")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "igakuqa is not on this machine" in shown(executed)
    record = json.loads((folder.parents[1] / "records" / "11_prepare_exams.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["counts"]["mini_trained"]["asked"]) == ("prepare", 2)
    write_lines(folder / "mini_trained.jsonl", [{"id": "1"}])
    done, _ = run("11_prepare_exams")
    assert done.returncode != 0
    assert "mini_trained.jsonl:1: field 'exam' is missing" in done.stderr


@needs_data
def test_11_prepares_the_published_exams_with_the_counts_of_the_paper_notes(run, tmp_path):
    done, executed = run("11_prepare_exams", data=data_dir(), exams=["igakuqa", "jjsimqa"])
    assert done.returncode == 0, done.stderr[-2000:]
    text = shown(executed)
    assert "| igakuqa | all | 1600 | 1991 | 1170 | 430 | 1158 |" in text
    assert "| jjsimqa | all | 460 | 460 | 460 | 0 | 460 |" in text
    folder = tmp_path / "runs" / "smoke" / "seed1" / "data" / "exams"
    sizes = {p.stem: len(read_exam(p)) for p in folder.glob("*.jsonl")}
    real = {"igakuqa": 1158, "igakuqa_full": 1600, "igakuqa_shots": 3}
    assert sizes == real | {"jjsimqa": 459, "jjsimqa_full": 460, "jjsimqa_shots": 3}
    assert read_exam(folder / "igakuqa.jsonl")[0].text not in text


@needs_data
def test_31_refuses_a_changed_file(run, tmp_path):
    shutil.copytree(data_dir() / "IgakuQA", tmp_path / "copy" / "IgakuQA")
    changed = tmp_path / "copy" / "IgakuQA" / "data" / "2018" / "112-A.jsonl"
    changed.write_text(changed.read_text(encoding="utf-8").replace('"answer": ["e"]', '"answer": ["a"]', 1), encoding="utf-8")
    done, _ = run("31_score_published", data_dir="copy", years=[2018], out_dir="card")
    assert done.returncode != 0
    assert "112-A.jsonl: not the published file" in done.stderr
    assert not (tmp_path / "card").exists()
