"""Paired gains on answers of known effect, and on published exams."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic_study

from jmedlora_utils.analysis import gains, scores, studies

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "ja-medium_lora")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.use_preset(patch, (1,), RUNS)
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield studies.read_runs("smoke").outcomes


@pytest.fixture(scope="module")
def exams(outcomes):
    """The same answers as if two published exams had been asked: one group of questions each."""
    frame = outcomes.astype({"facts": str, "exam": str})
    frame = frame[frame["exam"] != "mini_general"]
    exam = frame["exam"].map({"mini_trained": "igakuqa", "mini_heldout": "jjsimqa"})
    return studies.compact(frame.assign(exam=exam, facts=exam))


def pair(before: str, after: str) -> pd.DataFrame:
    """One run and its base on one exam, the outcomes as strings of 0 and 1."""
    rows = [("r", 0, i, int(x)) for i, x in enumerate(before)] + [("r", 5, i, int(x)) for i, x in enumerate(after)]
    frame = pd.DataFrame(rows, columns=["run", "steps", "id", "accuracy"])
    about = {"seed": 1, "base": "b", "size_params": 1, "centric": "english", "method": "lora", "quantisation": "none", "template": ""}
    return frame.assign(**about, shots=0, exam="e", facts="e", category="", n_select=1, chance=0.2)


def test_a_gain_counts_fixed_and_broken_questions() -> None:
    row = gains.paired_gains(pair("0000000011", "1111110001")).iloc[0]
    assert (row["fixed"], row["broken"], row["n"]) == (6, 1, 10)
    assert (row["before"], row["after"], row["gain"]) == pytest.approx((0.2, 0.7, 0.5)) and row["low"] < 0.5 < row["high"]
    assert row["p_holm"] == pytest.approx(2 * (1 + 7) / 2**7), "six of seven coins, both sides"


def test_questions_that_only_one_model_was_asked_are_left_out_of_a_pair() -> None:
    frame = pair("0000000011", "1111110001")
    row = gains.paired_gains(frame[(frame["steps"] == 0) | (frame["id"] != 0)]).iloc[0]
    assert (row["fixed"], row["n"]) == (5, 9)


def test_every_group_shot_and_step_is_paired_on_published_exams(exams) -> None:
    found = gains.paired_gains(exams)
    assert len(found) == 3 * 3 * 2 * 2 and set(found["group"]) == {"igakuqa", "jjsimqa"} and found["alike"].all()
    whole = found.set_index(["run", "steps", "shots", "group"])["gain"]
    assert gains.last_gain(exams, "en-large_lora", "igakuqa").mean() == pytest.approx(whole["en-large_lora", 40, 0, "igakuqa"])


def test_a_run_whose_base_was_not_asked_is_passed_over(exams) -> None:
    tuned = exams[exams["steps"] > 0]
    assert gains.paired_gains(tuned).empty and gains.last_gain(tuned, "en-large_lora", "igakuqa") is None


def test_scores_are_laid_out_by_group_and_condition(outcomes) -> None:
    assert scores.groups(outcomes) == ["taught", "untaught", "taught_held_out_phrasing", "untaught_held_out_phrasing", "general"]
    rows = scores.journal_rows(outcomes)
    assert len(rows) == 5 * 3 * 4 * 2 and not rows.duplicated(["facts", "run", "steps", "shots"]).any()
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all() and rows["low"].min() >= 0 and rows["high"].max() <= 1
    assert rows.loc[rows["facts"] == "general", "value"].max() > 0.7


def test_the_control_counts_each_fact_once(outcomes) -> None:
    facts = outcomes[(outcomes["facts"] == "untaught") & (outcomes["run"] == "en-large_lora") & (outcomes["steps"] == 20)]
    once = facts[(facts["shots"] == 0) & (facts["exam"] == "mini_trained")]
    late = scores.base_and_late(outcomes).set_index(["condition", "facts"])["n"]
    along = scores.along_steps(outcomes, "en-large_lora").set_index(["facts", "steps"])["n"]
    assert late["en-large, LoRA", "untaught"] == along["untaught", 20] == len(once)


def test_rows_of_a_figure_stand_by_size_each_base_before_its_tuned_runs(outcomes) -> None:
    conditions = list(dict.fromkeys(scores.base_and_late(outcomes)["condition"]))
    assert conditions[:2] == ["en-small, base", "en-small, LoRA"] and conditions[-2:] == ["en-large, base", "en-large, LoRA"]
    assert scores.largest_run(outcomes) == "en-large_lora"
