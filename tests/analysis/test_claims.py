"""The rule of the verdicts, and the comparisons that it rests on, applied to outcomes whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.analysis import claims, evidence, gains
from jmedlora_utils.analysis.claims import NO_CONTROL, NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, UNDECIDED
from jmedlora_utils.analysis.gains import Condition, NotMeasuredError
from jmedlora_utils.core.statistics import Interval

SIZES = {"en-small": 2e5, "en-medium": 8e5, "en-large": 3e6, "ja-medium": 8e5}
AS_PUBLISHED = {"en-small": 0.15, "en-medium": 0.6, "en-large": 0.85, "ja-medium": 0.1}
N = 60


def study(skill: dict[str, float], seeds: int = 3, held_out: float = 0.5, leak: float = 0.0, near: float = 0.3) -> pd.DataFrame:
    """Outcomes of LoRA runs: `skill` is the share of taught facts learned by the late step."""
    rng, parts = np.random.default_rng(0), []
    conditions = [(seed, base, *step) for seed in range(1, seeds + 1) for base in skill for step in ((0, 0), (30, 0.5), (100, 1), (200, 1))]
    for seed, base, steps, rank in conditions:
        about = {"seed": seed, "run": f"{base}_lora", "base": base, "size_params": SIZES[base], "method": "lora", "quantisation": "none"}
        about |= {"template": "plain", "centric": "japanese" if base.startswith("ja") else "english", "steps": steps, "shots": 0}
        for exam, share in (("mini_trained", 1.0), ("mini_heldout", held_out)):
            for section, p in (("taught", skill[base] * rank * share), ("untaught", leak * rank)):
                right = ((rng.random(N) < p) | (rng.random(N) < 0.2)).astype(float)
                exact = right * (rng.random(N) >= near)
                facts = "taught_held_out_phrasing" if (exam, section) == ("mini_heldout", "taught") else section
                question = {"exam": exam, "facts": facts, "id": [f"{section}{i:02d}" for i in range(N)], "n_select": 1, "chance": 0.2}
                scores = {"accuracy": right, "exact_match": exact, "gestalt": np.maximum(exact, 0.9 * right)}
                scores |= {"strict_accuracy": right, "strict_exact_match": exact}
                parts.append(pd.DataFrame({**about, **question, **scores}))
    return pd.concat(parts, ignore_index=True)


def test_the_rule_is_the_one_stated():
    """Changing the rule after the runs must not pass unseen."""
    assert (claims.STATED, claims.MARGIN, claims.ALPHA) == ("2026-11-22", 0.05, 0.01)
    assert Condition(step_rank=1, shots=0, facts="taught", metric="accuracy") == gains.HEADLINE
    assert [c.number for c in claims.CLAIMS] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Interval(0.30, 0.20, 0.40), SUPPORTED),
        (Interval(0.05, 0.01, 0.09), SUPPORTED),
        (Interval(0.04, 0.01, 0.09), UNDECIDED),
        (Interval(0.30, 0.00, 0.60), UNDECIDED),
        (Interval(0.01, -0.02, 0.04), NOT_SUPPORTED),
        (Interval(-0.30, -0.40, -0.20), NOT_SUPPORTED),
    ],
)
def test_one_effect_is_decided_by_interval_and_margin(effect, verdict):
    assert claims.decide(effect, claims.MARGIN) == verdict


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_every_effect_gets_exactly_one_verdict(value, below, above):
    assert claims.decide(Interval(value, value - below, value + above), claims.MARGIN) in claims.VERDICTS


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [([SUPPORTED] * 2, SUPPORTED), ([SUPPORTED, UNDECIDED], UNDECIDED), ([UNDECIDED, NOT_SUPPORTED], NOT_SUPPORTED)],
)
def test_parts_combine(parts, verdict):
    assert claims.combine(parts) == verdict


@pytest.mark.parametrize(
    ("world", "verdicts", "reason"),
    [
        ({"skill": AS_PUBLISHED}, [SUPPORTED] * 4, ""),
        ({"skill": {"en-small": 0.7, "en-medium": 0.1, "en-large": 0.0, "ja-medium": 0.8}, "near": 0.0}, [NOT_SUPPORTED] * 4, ""),
        ({"skill": AS_PUBLISHED, "leak": 0.5}, [UNDECIDED] * 3, "control failed"),
        ({"skill": {"en-large": 0.8}}, [SUPPORTED, NOT_MEASURED, NOT_MEASURED, SUPPORTED], "two sizes.*Japanese-centric"),
        ({"skill": {"en-small": 1.0, "en-large": 1.0}, "held_out": 1.0}, [NOT_SUPPORTED], ""),
    ],
    ids=["as the paper says", "against the paper", "leaked", "one base", "all learned: not partial"],
)
def test_a_world_of_known_truth_gets_the_verdicts_that_follow(world, verdicts, reason):
    found = claims.evaluate_claims(study(**world))
    assert [f.verdict for f in found][: len(verdicts)] == verdicts
    assert pd.Series([" ".join(f.reason for f in found)]).str.contains(reason).all()
    table = claims.findings_table(found)
    assert table["claim"].drop_duplicates().tolist() == [1, 2, 3, 4] and len(table) == sum(max(1, len(f.parts)) for f in found)


def test_the_control_of_a_condition_reads_its_own_phrasing_and_each_fact_once():
    frame = study({"en-large": 0.8})
    frame.loc[(frame["facts"] == "untaught") & (frame["exam"] == "mini_heldout"), "accuracy"] = 1.0
    held_out = Condition(facts="taught_held_out_phrasing")
    assert claims.untaught_at_chance(frame, "en-large_lora").value < 0.1
    assert claims.untaught_at_chance(frame, "en-large_lora", held_out).value == pytest.approx(0.8)
    with pytest.raises(NotMeasuredError, match="untaught"):
        claims.untaught_at_chance(frame[frame["exam"] != "mini_trained"], "en-large_lora")
    late = gains.controls(study({"en-large": 0.8}, leak=0.5)).query("steps == 100")
    assert not late["covers"].any() and (late["p_holm"] < 1e-6).all()


def test_answers_to_one_fact_are_no_independent_questions():
    """The same answer in both phrasings and from three bases leaves claim 4's interval as wide as one answer a fact does."""
    frame = study({"en-large": 0.8}, seeds=1)
    once = frame[(frame["exam"] == "mini_trained") & (frame["facts"] == "taught")]
    both = pd.concat([once, once.assign(exam="mini_heldout", facts="taught_held_out_phrasing")])
    copies = [both.assign(run=f"{base}_lora", base=base, size_params=SIZES[base]) for base in ("en-small", "en-medium", "en-large")]
    copied = pd.concat(copies).assign(id=lambda f: f["exam"] + "-" + f["id"])
    (first,), (second,) = (claims._claim_metrics(rows, gains.HEADLINE, pd.DataFrame())[0] for rows in (once, copied))
    assert second.effect == pytest.approx(first.effect)


def test_late_is_the_second_kept_step_and_the_base_of_equal_size_is_compared():
    frame = study(AS_PUBLISHED, seeds=1)
    assert [gains.step_of(frame, "en-large_lora", rank) for rank in (0, 1, 2, 5)] == [30, 100, 200, 200]
    assert claims.language_pair(frame) == ("en-medium_lora", "ja-medium_lora")


def test_a_base_asked_beside_another_run_serves_as_baseline_but_never_one_after_further_pretraining():
    frame = study({"en-large": 0.8}, seeds=1)
    full = frame[frame["steps"] > 0].assign(run="en-large_full", method="full")
    cpt = frame[frame["steps"] == 0].assign(run="a-first", method="cpt-lora", accuracy=1.0)
    assert gains.gains(pd.concat([frame, full, cpt]), "en-large_full").equals(gains.gains(frame, "en-large_lora"))


def test_a_run_in_4_bits_is_compared_with_its_base_in_4_bits_and_says_where_there_is_none():
    frame = study({"en-large": 0.8}, seeds=1)
    four_bits = frame.assign(run="en-large_qlora", method="qlora", quantisation="nf4")
    only_tuned, both = pd.concat([frame, four_bits[four_bits["steps"] > 0]]), pd.concat([frame, four_bits])
    assert gains.baseline_run(only_tuned, "en-large_qlora") == ("en-large_lora", False)
    assert gains.other_loading(only_tuned) == ["en-large_qlora"] and gains.other_loading(both) == []
    assert [gains.baseline_run(both, f"en-large_{m}") for m in ("qlora", "lora")] == [("en-large_qlora", True), ("en-large_lora", True)]


def untuned(frame: pd.DataFrame) -> pd.Series:
    return frame["steps"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[~untuned(f)], "step 0"),
        (lambda f: f.assign(template=untuned(f).map({True: "plain", False: "another"})), "step 0"),
        (lambda f: f.assign(quantisation=untuned(f).map({True: "nf4", False: "none"})), "step 0"),
        (lambda f: f[~(untuned(f) & (f["id"] == "taught00"))], "different questions"),
    ],
    ids=["no base", "another template", "another precision", "other questions"],
)
def test_a_tuned_model_is_compared_with_no_other_base(change, message):
    with pytest.raises(NotMeasuredError, match=message):
        gains.gains(change(study({"en-large": 0.8}, seeds=1)), "en-large_lora")


def test_paired_tests_are_corrected_over_the_whole_grid():
    tests = gains.paired_tests(study({"en-small": 0.0, "en-large": 0.8}))
    assert len(tests) == 2 * 3 * 2 and (tests["p_holm"] >= tests["p"]).all(), "runs, kept steps, phrasings"
    late = tests.query("run == 'en-large_lora' and steps == 100 and facts == 'taught'").iloc[0]
    assert late["p_holm"] < 0.01 and late["gained"] > 5 * late["lost"]


def test_robustness_changes_one_thing_at_a_time_and_counts_what_was_measured():
    found = claims.robustness(study({"en-small": 0.15, "en-large": 0.85}, seeds=2)).set_index("condition")
    assert found.index[0] == "headline" and set(found.loc["1-shot"]) == {NOT_MEASURED}, "asked without worked examples only"
    rows = {
        "headline": (SUPPORTED, UNDECIDED, NOT_MEASURED, SUPPORTED),
        "1-shot": (SUPPORTED, UNDECIDED, NOT_MEASURED, NOT_MEASURED),
        "early step": (UNDECIDED, UNDECIDED, SUPPORTED, SUPPORTED),
    }
    changed = pd.DataFrame(rows, index=[f"claim {c.number}" for c in claims.CLAIMS]).T.rename_axis("condition").reset_index()
    assert claims.same_verdicts(changed) == [(1, 2), (2, 2), (0, 1), (1, 1)]


def on_exam(frame: pd.DataFrame) -> pd.DataFrame:
    """The same answers as if one published exam had been asked."""
    return frame[(frame["facts"] == "taught")].assign(exam="igakuqa_2018", facts="igakuqa_2018")


def test_published_exams_give_effects_without_a_verdict():
    frame = on_exam(study({"en-small": 0.1, "en-large": 0.8, "ja-medium": 0.1}))
    frame.loc[frame["run"] == "en-large_lora", ["method", "quantisation"]] = ["qlora", "nf4"]
    found = claims.effects_on_exams(frame)
    assert [f.verdict for f in found] == [NO_CONTROL] * 4
    gain = {part.models: part.effect for part in found[0].parts}
    assert gain["en-large_lora"].low > 0.4 and gain["en-small_lora"].value < 0.3
    assert found[1].parts[0].effect.low > 0.2 and found[2].parts[0].models == "en-large_lora - ja-medium_lora"
    alone = claims.effects_on_exams(frame[frame["run"] == "en-small_lora"])
    assert [f.verdict for f in alone] == [NO_CONTROL, NOT_MEASURED, NOT_MEASURED, NO_CONTROL]


def test_evidence_of_a_larger_preset_takes_the_place_of_not_run(monkeypatch):
    found = claims.evaluate_claims(study({"en-large": 0.8}))
    assert {"paper", "modern"} <= set(claims.larger_presets()) and "mini" not in claims.larger_presets()
    frame = on_exam(study({"en-large": 0.8}))
    monkeypatch.setattr(evidence, "has_evidence", lambda name: name == "paper")
    monkeypatch.setattr(evidence, "read_evidence", lambda folder: type("Study", (), {"outcomes": frame}))
    assert claims.glance_table(found)["larger runs"].str.startswith("`paper`: ").all()
    monkeypatch.setattr(evidence, "has_evidence", lambda name: False)
    assert set(claims.glance_table(found)["larger runs"]) == {"at the paper's size: not run"}
