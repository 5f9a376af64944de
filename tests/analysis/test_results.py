"""The journal's table and paired differences, on a made-up study with a known skill."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jmedlora_utils.analysis import findings, results, tables, views
from jmedlora_utils.core import statistics
from jmedlora_utils.core.records import Record

sys.path.insert(0, str(Path(__file__).resolve().parent))
import synthetic_study

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "ja-medium_lora")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(tables, "load_preset", lambda name: synthetic_study.preset(name, (1,), RUNS))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield tables.load_study("smoke", "run")


@pytest.fixture(scope="module")
def exams(study):
    """The same answers as if two published exams had been asked: one group each."""
    frame = study.outcomes.astype({"facts": str, "exam": str})
    frame = frame[frame["exam"] != "mini_general"]
    frame = frame.assign(exam=frame["exam"].map({"mini_trained": "igakuqa", "mini_heldout": "jjsimqa"}))
    return tables.Study(study.preset, study.origin, tables.compact(frame.assign(facts=frame["exam"])), *_rest(study))


def _rest(study):
    return study.records, study.examples, study.questions, study.forms, study.about


def test_every_model_step_and_shot_has_a_row_with_every_metric(study) -> None:
    assert results.groups(study) == ["taught", "untaught", "taught_held_out_phrasing", "untaught_held_out_phrasing", "general"]
    shown = results.score_table(study, "taught")
    assert len(shown) == 3 * 4 * 2
    row = shown[(shown["run"] == "en-large_lora") & (shown["steps"] == 40) & (shown["shots"] == 0)].iloc[0]
    frame = study.outcomes
    own = frame[(frame["run"] == "en-large_lora") & (frame["steps"] == 40) & (frame["shots"] == 0) & (frame["facts"] == "taught")]
    assert row["accuracy"].startswith(f"{100 * own['accuracy'].mean():.1f} [") and row["n"] == len(own)
    assert float(row["exact_match"]) < float(row["accuracy"].split(" ")[0])
    assert set(shown.loc[shown["steps"] == 0, "method"]) == {"base"}


def test_published_exams_get_a_table_each(exams) -> None:
    text = results.score_tables(exams)
    assert "tab-scores-igakuqa" in text and "tab-scores-jjsimqa" in text and text.count("{table}") == 2


def test_gains_are_paired_and_corrected(exams) -> None:
    found = results.gains_frame(exams).set_index(["run", "steps", "shots", "group"])
    assert len(found) == 3 * 3 * 2 * 2
    row = found.loc[("en-large_lora", 40, 0, "igakuqa")]
    assert row["gain"] == pytest.approx(row["after"] - row["before"]) and row["low"] < row["gain"] < row["high"]
    assert row["fixed"] - row["broken"] == pytest.approx(row["gain"] * row["n"])
    raw = statistics.mcnemar_exact([1] * int(row["broken"]) + [0] * int(row["fixed"]), [0] * int(row["broken"]) + [1] * int(row["fixed"])).p
    assert (found["p"] <= 1).all() and raw < row["p"] <= min(1, raw * len(found))
    assert "tab-scores-gains" in results.gains_table(exams)


def test_questions_that_only_one_model_was_asked_are_left_out_of_a_pair(exams) -> None:
    frame = exams.outcomes
    lost = (frame["run"] == "en-large_lora") & (frame["steps"] == 40) & (frame["id"] == frame.loc[frame["exam"] == "igakuqa", "id"].iloc[0])
    fewer = tables.Study(exams.preset, exams.origin, frame[~lost], *_rest(exams))
    whole, less = (results.gains_frame(s).set_index(["run", "steps", "shots", "group"]) for s in (exams, fewer))
    key = ("en-large_lora", 40, 0, "igakuqa")
    assert less.loc[key, "n"] == whole.loc[key, "n"] - 1


def test_differences_and_leniency_name_both_models_and_every_exam(exams) -> None:
    text = results.differences_table(exams)
    assert "en-large_lora - en-small_lora" in text and "en-small_lora - en-large_lora" not in text
    assert results.leniency_table(exams).count("| jjsimqa |") == 3


def test_an_adapter_without_a_base_to_compare_with_is_no_error(exams) -> None:
    frame = exams.outcomes
    tuned_only = tables.Study(exams.preset, exams.origin, frame[frame["steps"] > 0], *_rest(exams))
    assert results.gains_frame(tuned_only).empty
    assert "nothing to compare" in results.gains_table(tuned_only)
    assert "no two tuned bases" in results.differences_table(tuned_only)


def test_errors_and_cost_pages_take_published_exams(exams) -> None:
    flipped = views.flips(exams, "en-large_lora")
    assert set(flipped["facts"]) == {"igakuqa", "jjsimqa"}
    asked, about = views.main_questions(flipped.assign(category=None))
    assert len(asked) == len(flipped) and set(asked["category"]) == {"not named"} and about == "Questions of every exam"
    assert len(views.price_frame(exams)) == 3


def test_the_miniature_still_looks_into_taught_facts(study) -> None:
    asked, about = views.main_questions(views.flips(study, "en-large_lora"))
    assert set(asked["facts"].astype(str)) == {findings.HEADLINE.facts} and about.startswith("Taught facts")


def test_an_adapter_tuned_elsewhere_has_the_method_of_its_evaluation() -> None:
    config = {"run_name": "jmedlora-900", "method": "lora", "quantisation": "nf4"}
    record = Record("evaluate", "30_evaluate__x", "mini", 1, config)
    assert tables.method_of([record], "jmedlora-900") == "qlora"
    assert tables.method_of([record], "another") == "none"


@pytest.mark.parametrize(
    ("base", "language"), [("qwen3-8b", "multilingual"), ("llama-2-70b-chat", "english"), ("open-calm-7b", "japanese")]
)
def test_a_published_base_has_size_and_language_from_the_registry(base: str, language: str) -> None:
    assert tables.base_facts([], base)[1] == language
