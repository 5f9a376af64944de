"""The rule of the verdicts, and the comparisons that it rests on, applied to outcomes whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.analysis import claims, evidence, gains
from jmedlora_utils.analysis.claims import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, UNDECIDED
from jmedlora_utils.analysis.gains import Condition, NotMeasuredError
from jmedlora_utils.core.statistics import Interval

SIZES = {"en-small": 2e5, "en-medium": 8e5, "en-large": 3e6, "ja-medium": 8e5}
N = 60


def study(skill: dict[str, float], seeds: int = 3, held_out: float = 0.5, leak: float = 0.0, near: float = 0.3) -> pd.DataFrame:
    """Outcomes of LoRA runs: `skill` is the share of taught facts learned by the late step."""
    rng, parts = np.random.default_rng(0), []
    for seed in range(1, seeds + 1):
        for base, taught in skill.items():
            for steps, rank in ((0, 0.0), (30, 0.5), (100, 1.0), (200, 1.0)):
                for exam, share in (("mini_trained", 1.0), ("mini_heldout", held_out)):
                    for section in ("taught", "untaught"):
                        p = taught * rank * share if section == "taught" else leak * rank
                        right = ((rng.random(N) < p) | (rng.random(N) < 0.2)).astype(float)
                        exact = right * (rng.random(N) >= near)
                        facts = "taught_held_out_phrasing" if (exam, section) == ("mini_heldout", "taught") else section
                        about = {
                            "seed": seed,
                            "run": f"{base}_lora",
                            "base": base,
                            "size_params": SIZES[base],
                            "method": "lora",
                            "quantisation": "none",
                            "template": "plain",
                        }
                        about |= {"centric": "japanese" if base.startswith("ja") else "english", "steps": steps, "shots": 0, "exam": exam}
                        scores = {"accuracy": right, "exact_match": exact, "gestalt": np.maximum(exact, 0.9 * right)}
                        scores |= {"strict_accuracy": right, "strict_exact_match": exact}
                        ids = [f"{section}{i:02d}" for i in range(N)]
                        parts.append(pd.DataFrame({**about, "facts": facts, "id": ids, "n_select": 1, "chance": 0.2, **scores}))
    return pd.concat(parts, ignore_index=True)


def verdicts(frame: pd.DataFrame, condition: Condition = gains.HEADLINE) -> list[str]:
    return [f.verdict for f in claims.evaluate_claims(frame, condition)]


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
    assert claims.decide(effect) == verdict


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_every_effect_gets_exactly_one_verdict(value, below, above):
    assert claims.decide(Interval(value, value - below, value + above)) in claims.VERDICTS


def test_parts_combine():
    assert claims.combine([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert claims.combine([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert claims.combine([UNDECIDED, NOT_SUPPORTED]) == NOT_SUPPORTED


def test_a_world_as_the_paper_says_supports_all_claims():
    frame = study({"en-small": 0.15, "en-medium": 0.6, "en-large": 0.85, "ja-medium": 0.1})
    assert verdicts(frame) == [SUPPORTED] * 4


def test_a_world_against_the_paper_supports_none():
    frame = study({"en-small": 0.7, "en-medium": 0.1, "en-large": 0.0, "ja-medium": 0.8}, near=0.0)
    assert verdicts(frame) == [NOT_SUPPORTED] * 4


def test_complete_learning_is_not_partial():
    frame = study({"en-small": 1.0, "en-large": 1.0}, held_out=1.0)
    claim = claims.evaluate_claims(frame)[0]
    assert {p.name: p.verdict for p in claim.parts} == {"gain": SUPPORTED, "shortfall": NOT_SUPPORTED}
    assert claim.verdict == NOT_SUPPORTED


def test_a_failed_control_leaves_the_claim_undecided():
    frame = study({"en-small": 0.15, "en-medium": 0.6, "en-large": 0.85, "ja-medium": 0.1}, leak=0.5)
    found = claims.evaluate_claims(frame)
    assert [f.verdict for f in found[:3]] == [UNDECIDED] * 3
    assert "control failed" in found[0].reason
    late = gains.controls(frame).query("steps == 100")
    assert not late["covers"].all()
    assert (late["p_holm"] < 1e-6).all()


def test_the_control_of_a_condition_reads_its_own_phrasing_and_each_fact_once():
    frame = study({"en-large": 0.8})
    leaked = (frame["facts"] == "untaught") & (frame["exam"] == "mini_heldout")
    frame.loc[leaked, "accuracy"] = 1.0
    held_out = Condition(facts="taught_held_out_phrasing")
    assert claims.untaught_at_chance(frame, "en-large_lora").value < 0.1
    assert claims.untaught_at_chance(frame, "en-large_lora", held_out).value == pytest.approx(0.8)
    with pytest.raises(NotMeasuredError, match="untaught"):
        claims.untaught_at_chance(frame[frame["exam"] != "mini_trained"], "en-large_lora")


def test_answers_to_one_fact_are_no_independent_questions():
    """The same answer in both phrasings and from three bases leaves claim 4's interval as wide as one answer a fact does."""
    frame = study({"en-large": 0.8}, seeds=1)
    once = frame[(frame["exam"] == "mini_trained") & (frame["facts"] == "taught")]
    twice = once.assign(exam="mini_heldout", facts="taught_held_out_phrasing")
    both = pd.concat([once, twice])
    copies = [both.assign(run=f"{base}_lora", base=base, size_params=SIZES[base]) for base in ("en-small", "en-medium", "en-large")]
    copied = pd.concat(copies).assign(id=lambda f: f["exam"] + "-" + f["id"])

    def effect(rows: pd.DataFrame) -> Interval:
        return claims._claim_metrics(rows, gains.HEADLINE, pd.DataFrame())[0][0].effect

    assert effect(copied) == pytest.approx(effect(once))


def test_a_missing_base_is_not_measured_and_says_why():
    found = claims.evaluate_claims(study({"en-large": 0.8}))
    assert [f.verdict for f in found] == [SUPPORTED, NOT_MEASURED, NOT_MEASURED, SUPPORTED]
    assert "two sizes" in found[1].reason
    assert "Japanese-centric" in found[2].reason


def test_late_is_the_second_kept_step_and_the_last_where_fewer_were_kept():
    frame = study({"en-large": 0.8})
    assert [gains.step_of(frame, "en-large_lora", rank) for rank in (0, 1, 2, 5)] == [30, 100, 200, 200]


def test_language_pair_takes_the_english_base_of_the_same_size():
    frame = study({"en-small": 0.1, "en-medium": 0.1, "en-large": 0.1, "ja-medium": 0.1}, seeds=1)
    assert claims.language_pair(frame) == ("en-medium_lora", "ja-medium_lora")


def test_a_base_asked_beside_another_run_serves_as_baseline_but_never_one_after_further_pretraining():
    frame = study({"en-large": 0.8}, seeds=1)
    full = frame[frame["steps"] > 0].assign(run="en-large_full", method="full")
    cpt = frame[frame["steps"] == 0].assign(run="a-first", method="cpt-lora", accuracy=1.0)
    joined = pd.concat([frame, full, cpt])
    assert gains.gains(joined, "en-large_full").equals(gains.gains(frame, "en-large_lora"))
    with pytest.raises(NotMeasuredError, match="step 0"):
        gains.gains(full, "en-large_full")


def test_a_run_in_4_bits_is_compared_with_its_base_in_4_bits_and_says_where_there_is_none():
    frame = study({"en-large": 0.8}, seeds=1)
    four_bits = frame.assign(run="en-large_qlora", method="qlora", quantisation="nf4")
    only_tuned = pd.concat([frame, four_bits[four_bits["steps"] > 0]])
    assert gains.baseline_run(only_tuned, "en-large_qlora") == ("en-large_lora", False)
    assert gains.other_loading(only_tuned) == ["en-large_qlora"]
    both = pd.concat([frame, four_bits])
    assert gains.baseline_run(both, "en-large_qlora") == ("en-large_qlora", True)
    assert gains.baseline_run(both, "en-large_lora") == ("en-large_lora", True)
    assert gains.other_loading(both) == []
    bases = both[(both["steps"] > 0) | (both["quantisation"] == "nf4")]
    with pytest.raises(NotMeasuredError, match="step 0"):
        gains.baseline_run(bases, "en-large_lora")


def test_a_base_asked_in_another_template_is_no_baseline():
    frame = study({"en-large": 0.8}, seeds=1)
    frame.loc[frame["steps"] > 0, "template"] = "another"
    with pytest.raises(NotMeasuredError, match="step 0"):
        gains.gains(frame, "en-large_lora")


def test_different_questions_are_refused():
    frame = study({"en-large": 0.8}, seeds=1)
    cut = frame.drop(frame[(frame["steps"] == 0) & (frame["id"] == "taught00")].index)
    with pytest.raises(NotMeasuredError, match="different questions"):
        gains.gains(cut, "en-large_lora")


def test_paired_tests_are_corrected_over_the_whole_grid():
    frame = study({"en-small": 0.0, "en-large": 0.8})
    tests = gains.paired_tests(frame)
    assert len(tests) == 2 * 3 * 2  # runs, kept steps, phrasings
    assert (tests["p_holm"] >= tests["p"]).all()
    late = tests[(tests["run"] == "en-large_lora") & (tests["steps"] == 100) & (tests["facts"] == "taught")].iloc[0]
    assert late["p_holm"] < 0.01
    assert late["gained"] > 5 * late["lost"]


def test_robustness_changes_one_thing_at_a_time():
    found = claims.robustness(study({"en-small": 0.15, "en-large": 0.85}, seeds=2))
    assert found["condition"].tolist()[0] == "headline"
    one_shot = found.set_index("condition").loc["1-shot"]
    assert set(one_shot) == {NOT_MEASURED}  # this study asked without worked examples only


def test_verdicts_are_compared_with_the_headline_where_they_were_measured():
    supported, undecided = claims.SUPPORTED, claims.UNDECIDED
    rows = {
        "headline": (supported, undecided, NOT_MEASURED, supported),
        "1-shot": (supported, undecided, NOT_MEASURED, NOT_MEASURED),
        "early step": (undecided, undecided, supported, supported),
    }
    changed = pd.DataFrame(
        [{"condition": name, **{f"claim {c.number}": v for c, v in zip(claims.CLAIMS, row, strict=True)}} for name, row in rows.items()]
    )
    assert claims.same_verdicts(changed) == [(1, 2), (2, 2), (0, 1), (1, 1)]


def on_exam(frame: pd.DataFrame) -> pd.DataFrame:
    """The same answers as if one published exam had been asked."""
    return frame[(frame["facts"] == "taught")].assign(exam="igakuqa_2018", facts="igakuqa_2018")


def test_published_exams_give_effects_without_a_verdict():
    frame = on_exam(study({"en-small": 0.1, "en-large": 0.8, "ja-medium": 0.1}))
    frame.loc[frame["run"] == "en-large_lora", ["method", "quantisation"]] = ["qlora", "nf4"]
    found = claims.effects_on_exams(frame)
    assert [f.verdict for f in found] == [claims.NO_CONTROL] * 4
    gain = {part.models: part.effect for part in found[0].parts}
    assert gain["en-large_lora"].low > 0.4 and gain["en-small_lora"].value < 0.3
    assert found[1].parts[0].effect.low > 0.2 and found[2].parts[0].models == "en-large_lora - ja-medium_lora"
    alone = claims.effects_on_exams(frame[frame["run"] == "en-small_lora"])
    assert [f.verdict for f in alone] == [claims.NO_CONTROL, NOT_MEASURED, NOT_MEASURED, claims.NO_CONTROL]


def test_evidence_of_a_larger_preset_takes_the_place_of_not_run(monkeypatch):
    found = claims.evaluate_claims(study({"en-large": 0.8}))
    assert {"paper", "modern"} <= set(claims.larger_presets()) and "mini" not in claims.larger_presets()
    frame = on_exam(study({"en-large": 0.8}))
    monkeypatch.setattr(evidence, "has_evidence", lambda name: name == "paper")
    monkeypatch.setattr(evidence, "read_evidence", lambda folder: type("Study", (), {"outcomes": frame}))
    assert claims.glance_table(found)["larger runs"].str.startswith("`paper`: ").all()
    monkeypatch.setattr(evidence, "has_evidence", lambda name: False)
    assert set(claims.glance_table(found)["larger runs"]) == {"at the paper's size: not run"}


def test_tables_show_every_part():
    found = claims.evaluate_claims(study({"en-large": 0.8}))
    table = claims.findings_table(found)
    assert table["claim"].tolist() == [1, 1, 2, 3, 4]
    assert table.loc[0, "value"] > 50
