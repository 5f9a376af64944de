"""Paired gains on answers of known effect, and on published exams."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic_study

from jmedlora_utils.analysis import gains, scores, studies
from jmedlora_utils.analysis.gains import NotMeasuredError

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "ja-medium_lora")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.use_preset(patch, (1,), RUNS)
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield studies.read_runs("smoke").outcomes


@pytest.fixture(scope="module")
def plain(outcomes):
    """The same with columns of texts, which a test may change."""
    return outcomes.astype(dict.fromkeys(outcomes.select_dtypes("category"), str))


@pytest.fixture(scope="module")
def large(plain):
    return plain[plain["run"] == "en-large_lora"]


@pytest.fixture(scope="module")
def exams(plain):
    """The same answers as if two published exams had been asked: one group of questions each."""
    frame = plain[plain["exam"] != "mini_general"]
    exam = frame["exam"].map({"mini_trained": "igakuqa", "mini_heldout": "jjsimqa"})
    return studies.compact(frame.assign(exam=exam, facts=exam))


def pair(before: str, after: str) -> pd.DataFrame:
    """One run and its base on one exam, the outcomes as strings of 0 and 1."""
    rows = [("r", 0, i, int(x)) for i, x in enumerate(before)] + [("r", 5, i, int(x)) for i, x in enumerate(after)]
    frame = pd.DataFrame(rows, columns=["run", "steps", "id", "accuracy"])
    about = {"seed": 1, "base": "b", "size_params": 1, "centric": "english", "method": "lora", "quantisation": "none", "template": ""}
    return frame.assign(**about, shots=0, exam="e", facts="e", category="", n_select=1, chance=0.2)


def test_a_gain_counts_fixed_and_broken_questions_that_both_models_were_asked() -> None:
    frame = pair("0000000011", "1111110001")
    row = gains.paired_gains(frame).iloc[0]
    assert (row["fixed"], row["broken"], row["n"]) == (6, 1, 10)
    assert (row["before"], row["after"], row["gain"]) == pytest.approx((0.2, 0.7, 0.5)) and row["low"] < 0.5 < row["high"]
    assert row["p_holm"] == pytest.approx(2 * (1 + 7) / 2**7), "six of seven coins, both sides"
    fewer = gains.paired_gains(frame[(frame["steps"] == 0) | (frame["id"] != 0)]).iloc[0]
    assert (fewer["fixed"], fewer["n"]) == (5, 9)


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
    sizes = outcomes["size_params"] + outcomes["seed"]  # the bases of two worlds differ by the tokens of their names
    assert scores.journal_rows(outcomes.assign(size_params=sizes)).drop(columns="run").equals(rows.drop(columns="run"))


def test_the_control_counts_each_fact_once(outcomes) -> None:
    facts = outcomes[(outcomes["facts"] == "untaught") & (outcomes["run"] == "en-large_lora") & (outcomes["steps"] == 20)]
    once = facts[(facts["shots"] == 0) & (facts["exam"] == "mini_trained")]
    along = scores.along_steps(outcomes, "en-large_lora").set_index(["facts", "steps"])["n"]
    assert along["untaught", 20] == len(once)
    assert scores.largest_run(outcomes) == "en-large_lora"


def test_the_last_kept_step_counts_and_a_run_without_one_is_named(outcomes) -> None:
    assert gains.last_step(outcomes, "en-large_lora") == 40
    with pytest.raises(NotMeasuredError, match="'en-large_lora' has no tuned answers"):
        gains.last_step(outcomes[outcomes["steps"] == 0], "en-large_lora")


def test_a_base_asked_beside_another_run_serves_as_baseline_but_never_one_after_further_pretraining(large):
    full = large[large["steps"] > 0].assign(run="en-large_full", method="full")
    cpt = large[large["steps"] == 0].assign(run="a-first", method="cpt-lora", accuracy=1.0)
    assert gains.gains(pd.concat([large, full, cpt]), "en-large_full").equals(gains.gains(large, "en-large_lora"))


def test_a_run_in_4_bits_is_compared_with_its_base_in_4_bits_and_says_where_there_is_none(large):
    four_bits = large.assign(run="en-large_qlora", method="qlora", quantisation="nf4")
    only_tuned, both = pd.concat([large, four_bits[four_bits["steps"] > 0]]), pd.concat([large, four_bits])
    assert gains.baseline_run(only_tuned, "en-large_qlora") == ("en-large_lora", False)
    assert gains.other_loading(only_tuned) == ["en-large_qlora"] and gains.other_loading(both) == []
    assert [gains.baseline_run(both, f"en-large_{m}") for m in ("qlora", "lora")] == [("en-large_qlora", True), ("en-large_lora", True)]


def test_controls_and_variants_of_a_base_are_no_main_runs(plain, large) -> None:
    variant = large[large["steps"] > 0].assign(run="en-large_variant")
    both = pd.concat([plain, variant[variant["id"] != a_taught_question(large)]])
    assert list(gains.main_runs(both)["run"]) == ["en-small_lora", "ja-medium_lora", "en-large_lora"] and len(gains.tuned_runs(both)) == 4
    assert scores.largest_run(both) == "en-large_lora" and len(gains.gains_by_base(both)) == 3


def a_taught_question(frame: pd.DataFrame) -> str:
    return frame.loc[frame["facts"] == "taught", "id"].iloc[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[f["steps"] > 0], "step 0"),
        (lambda f: f.assign(template=f["steps"].gt(0).map({True: "plain", False: "another"})), "step 0"),
        (lambda f: f.assign(quantisation=f["steps"].gt(0).map({True: "none", False: "nf4"})), "step 0"),
        (lambda f: f[(f["steps"] > 0) | (f["id"] != a_taught_question(f))], "different questions"),
    ],
    ids=["no base", "another template", "another precision", "other questions"],
)
def test_a_tuned_model_is_compared_with_no_other_base(large, change, message):
    with pytest.raises(NotMeasuredError, match=message):
        gains.gains(change(large), "en-large_lora")
