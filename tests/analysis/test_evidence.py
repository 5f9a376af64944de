"""The committed evidence of the mini study: complete, consistent, and strong enough for what the book says."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from jmedlora_utils.analysis import claims, evidence, gains, scores
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.records import read_record

FOLDER = paths.RESULTS / "mini"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "evidence.json").is_file(),
    reason="book/results/mini is not frozen yet; run `python -m jmedlora_utils freeze`",
)


@pytest.fixture(scope="module")
def study():
    return evidence.read_evidence(FOLDER)


def test_summary_follows_from_the_outcomes(study):
    keys = [c for c in scores.SUMMARY_COLUMNS if c not in ("value", "n")]
    written = pd.read_csv(FOLDER / "summary.csv").sort_values(keys, ignore_index=True)
    computed = scores.summary(study.outcomes).sort_values(keys, ignore_index=True)
    assert written[keys].astype(str).equals(computed[keys].astype(str))
    assert written["n"].tolist() == computed["n"].tolist()
    assert (written["value"] - computed["value"]).abs().max() < 0.001


def test_records_are_named_after_their_run_and_no_smoke(study):
    for path in FOLDER.glob("seed*/records/*.json"):
        record = read_record(path)
        assert path.stem == record.name
        assert (record.preset, record.status, f"seed{record.seed}") == (study.preset, "done", path.parent.parent.name)


def test_every_seed_holds_every_condition(study):
    conditions = study.outcomes.groupby("seed")[["run", "steps", "shots", "exam"]].apply(lambda g: len(g.drop_duplicates()))
    assert conditions.nunique() == 1
    assert len(study.seeds) >= 2


def test_evidence_is_small_and_names_no_machine():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 3_000_000
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not any(f in text for f in ("/root/", "/home/", "/tmp/", "/work/")), path


def test_the_verdicts_are_those_that_the_book_reports(study):
    """A change of code must not move them unseen; new evidence may."""
    found = claims.evaluate_claims(study.outcomes)
    parts = {p.name: tuple(round(100 * x, 1) for x in p.effect) for f in found for p in f.parts}
    assert [f.verdict for f in found] == [claims.SUPPORTED, claims.UNDECIDED, claims.SUPPORTED, claims.NOT_SUPPORTED]
    assert parts["gain"] == (77.7, 70.1, 85.2) and parts["size"] == (16.0, -0.7, 32.7) and parts["language"] == (14.3, 2.1, 26.5)
    assert claims.same_verdicts(claims.robustness(study.outcomes)) == [(5, 5), (4, 5), (1, 5), (5, 5)]
    assert gains.other_loading(study.outcomes) == ["en-medium_qlora"]


def test_untaught_facts_stay_at_chance(study):
    """No condition differs from chance beyond what so many comparisons produce by luck."""
    found = gains.controls(study.outcomes)
    assert found["p_holm"].min() > 0.05 and (~found["covers"]).mean() <= 0.05


def test_answers_of_the_form_asked_for_are_right_as_often_as_a_blind_pick(study):
    """Answers that cannot be right pull a condition below chance and could hide a leak: there are few, and the others are at chance."""
    untaught = study.outcomes[study.outcomes["facts"] == "untaught"]
    assert study.forms["n"].sum() == len(untaught)
    for n_select, group in study.forms.groupby("n_select"):
        seeds = group.groupby("seed")[["as_asked", "right"]].sum()
        shares = seeds["right"] / seeds["as_asked"]
        assert statistics.seed_interval([[share] for share in shares]).covers(1 / math.comb(5, n_select))
    assert study.forms["as_asked"].sum() > 0.95 * study.forms["n"].sum()
    missed = gains.controls(study.outcomes).query("not covers")
    assert (missed["value"] < missed["chance"]).all()
