"""The rule applied to outcomes whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.analysis import findings
from jmedlora_utils.analysis.findings import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, UNDECIDED, Condition
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
                        about = {"seed": seed, "run": f"{base}_lora", "base": base, "size_params": SIZES[base], "method": "lora"}
                        about |= {"centric": "japanese" if base.startswith("ja") else "english", "steps": steps, "shots": 0, "exam": exam}
                        scores = {"accuracy": right, "exact_match": exact, "gestalt": np.maximum(exact, 0.9 * right)}
                        scores |= {"strict_accuracy": right, "strict_exact_match": exact}
                        ids = [f"{section}{i:02d}" for i in range(N)]
                        parts.append(pd.DataFrame({**about, "facts": facts, "id": ids, "n_select": 1, "chance": 0.2, **scores}))
    return pd.concat(parts, ignore_index=True)


def verdicts(frame: pd.DataFrame, condition: Condition = findings.HEADLINE) -> list[str]:
    return [f.verdict for f in findings.evaluate_claims(frame, condition)]


def test_the_rule_is_the_one_stated():
    """Changing the rule after the runs must not pass unseen."""
    assert (findings.STATED, findings.MARGIN, findings.ALPHA) == ("2026-11-22", 0.05, 0.01)
    assert Condition(step_rank=1, shots=0, facts="taught", metric="accuracy") == findings.HEADLINE
    assert [c.number for c in findings.CLAIMS] == [1, 2, 3, 4]


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
    assert findings.decide(effect) == verdict


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5))
def test_every_effect_gets_exactly_one_verdict(value, below, above):
    assert findings.decide(Interval(value, value - below, value + above)) in findings.VERDICTS


def test_parts_combine():
    assert findings.combine([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert findings.combine([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert findings.combine([UNDECIDED, NOT_SUPPORTED]) == NOT_SUPPORTED


def test_a_world_as_the_paper_says_supports_all_claims():
    frame = study({"en-small": 0.15, "en-medium": 0.6, "en-large": 0.85, "ja-medium": 0.1})
    assert verdicts(frame) == [SUPPORTED] * 4


def test_a_world_against_the_paper_supports_none():
    frame = study({"en-small": 0.7, "en-medium": 0.1, "en-large": 0.0, "ja-medium": 0.8}, near=0.0)
    assert verdicts(frame) == [NOT_SUPPORTED] * 4


def test_complete_learning_is_not_partial():
    frame = study({"en-small": 1.0, "en-large": 1.0}, held_out=1.0)
    claim = findings.evaluate_claims(frame)[0]
    assert {p.name: p.verdict for p in claim.parts} == {"gain": SUPPORTED, "shortfall": NOT_SUPPORTED}
    assert claim.verdict == NOT_SUPPORTED


def test_a_failed_control_leaves_the_claim_undecided():
    frame = study({"en-small": 0.15, "en-medium": 0.6, "en-large": 0.85, "ja-medium": 0.1}, leak=0.5)
    found = findings.evaluate_claims(frame)
    assert [f.verdict for f in found[:3]] == [UNDECIDED] * 3
    assert "control failed" in found[0].reason
    late = findings.controls(frame).query("steps == 100")
    assert not late["covers"].all()
    assert (late["p_holm"] < 1e-6).all()


def test_the_control_of_a_condition_reads_its_own_phrasing_and_each_fact_once():
    frame = study({"en-large": 0.8})
    leaked = (frame["facts"] == "untaught") & (frame["exam"] == "mini_heldout")
    frame.loc[leaked, "accuracy"] = 1.0
    held_out = Condition(facts="taught_held_out_phrasing")
    assert findings.untaught_at_chance(frame, "en-large_lora").value < 0.1
    assert findings.untaught_at_chance(frame, "en-large_lora", held_out).value == pytest.approx(0.8)
    with pytest.raises(findings.FindingError, match="untaught"):
        findings.untaught_at_chance(frame[frame["exam"] != "mini_trained"], "en-large_lora")


def test_answers_to_one_fact_are_no_independent_questions():
    """The same answer in both phrasings and from three bases leaves claim 4's interval as wide as one answer a fact does."""
    frame = study({"en-large": 0.8}, seeds=1)
    once = frame[(frame["exam"] == "mini_trained") & (frame["facts"] == "taught")]
    twice = once.assign(exam="mini_heldout", facts="taught_held_out_phrasing")
    both = pd.concat([once, twice])
    copies = [both.assign(run=f"{base}_lora", base=base, size_params=SIZES[base]) for base in ("en-small", "en-medium", "en-large")]
    copied = pd.concat(copies).assign(id=lambda f: f["exam"] + "-" + f["id"])

    def effect(rows: pd.DataFrame) -> Interval:
        return findings._claim_metrics(rows, findings.HEADLINE, pd.DataFrame())[0][0].effect

    assert effect(copied) == pytest.approx(effect(once))


def test_the_control_holds_where_nothing_leaks():
    found = findings.controls(study({"en-large": 0.8}))
    assert found["covers"].mean() > 0.8
    assert found["p_holm"].min() > 0.05


def test_a_missing_base_is_not_measured_and_says_why():
    found = findings.evaluate_claims(study({"en-large": 0.8}))
    assert [f.verdict for f in found] == [SUPPORTED, NOT_MEASURED, NOT_MEASURED, SUPPORTED]
    assert "two sizes" in found[1].reason
    assert "Japanese-centric" in found[2].reason


def test_late_is_the_second_kept_step_and_the_last_where_fewer_were_kept():
    frame = study({"en-large": 0.8})
    assert [findings.step_of(frame, "en-large_lora", rank) for rank in (0, 1, 2, 5)] == [30, 100, 200, 200]


def test_language_pair_takes_the_english_base_of_the_same_size():
    frame = study({"en-small": 0.1, "en-medium": 0.1, "en-large": 0.1, "ja-medium": 0.1}, seeds=1)
    assert findings.language_pair(frame) == ("en-medium_lora", "ja-medium_lora")


def test_base_asked_in_another_run_serves_as_baseline_but_never_a_pretrained_one():
    frame = study({"en-large": 0.8}, seeds=1)
    full = frame[frame["steps"] > 0].assign(run="en-large_full", method="full")
    cpt = frame[frame["steps"] == 0].assign(run="a-first", method="cpt-lora", accuracy=1.0)
    joined = pd.concat([frame, full, cpt])
    assert findings.gains(joined, "en-large_full").equals(findings.gains(frame, "en-large_lora"))
    with pytest.raises(findings.FindingError, match="step 0"):
        findings.gains(full, "en-large_full")


def test_different_questions_are_refused():
    frame = study({"en-large": 0.8}, seeds=1)
    cut = frame.drop(frame[(frame["steps"] == 0) & (frame["id"] == "taught00")].index)
    with pytest.raises(findings.FindingError, match="different questions"):
        findings.gains(cut, "en-large_lora")


def test_paired_tests_are_corrected_over_the_whole_grid():
    frame = study({"en-small": 0.0, "en-large": 0.8})
    tests = findings.paired_tests(frame)
    assert len(tests) == 2 * 3 * 2  # runs, kept steps, phrasings
    assert (tests["p_holm"] >= tests["p"]).all()
    late = tests[(tests["run"] == "en-large_lora") & (tests["steps"] == 100) & (tests["facts"] == "taught")].iloc[0]
    assert late["p_holm"] < 0.01
    assert late["gained"] > 5 * late["lost"]


def test_robustness_changes_one_thing_at_a_time():
    found = findings.robustness(study({"en-small": 0.15, "en-large": 0.85}, seeds=2))
    assert found["condition"].tolist()[0] == "headline"
    one_shot = found.set_index("condition").loc["1-shot"]
    assert set(one_shot) == {NOT_MEASURED}  # this study asked without worked examples only


def test_verdicts_are_compared_with_the_headline_where_they_were_measured():
    supported, undecided = findings.SUPPORTED, findings.UNDECIDED
    rows = {
        "headline": (supported, undecided, NOT_MEASURED, supported),
        "1-shot": (supported, undecided, NOT_MEASURED, NOT_MEASURED),
        "early step": (undecided, undecided, supported, supported),
    }
    changed = pd.DataFrame(
        [{"condition": name, **{f"claim {c.number}": v for c, v in zip(findings.CLAIMS, row, strict=True)}} for name, row in rows.items()]
    )
    assert findings.same_verdicts(changed) == [(1, 2), (2, 2), (0, 1), (1, 1)]


def test_tables_show_every_part():
    found = findings.evaluate_claims(study({"en-large": 0.8}))
    table = findings.findings_table(found)
    assert table["claim"].tolist() == [1, 1, 2, 3, 4]
    assert table.loc[0, "value"] > 50
    assert len(findings.rules_table()) == sum(len(c.parts) for c in findings.CLAIMS)
