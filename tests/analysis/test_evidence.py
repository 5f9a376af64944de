"""The committed evidence of the mini study: complete, consistent, and strong enough for what the book says."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from jmedlora_utils.analysis import findings, tables
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.records import read_record

FOLDER = paths.RESULTS / "mini"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "evidence.json").is_file(),
    reason="book/results/mini is not frozen yet; run `python -m jmedlora_utils.analysis.tables freeze`",
)


@pytest.fixture(scope="module")
def study():
    return tables.read_evidence(FOLDER)


def test_summary_follows_from_the_outcomes(study):
    keys = [c for c in tables.SUMMARY_COLUMNS if c not in ("value", "n")]
    written = pd.read_csv(FOLDER / "summary.csv").sort_values(keys, ignore_index=True)
    computed = tables.summary(study.outcomes).sort_values(keys, ignore_index=True)
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


def test_late_lora_beats_its_base_on_taught_facts_for_the_largest_base(study):
    """Issue 3, what it must show, 2 and 5."""
    gain = findings.evaluate_claims(study.outcomes)[0].parts[0]
    assert gain.p < 0.01
    late = findings.step_of(study.outcomes, gain.models, findings.HEADLINE.step_rank)
    assert findings.outcomes(study.outcomes, gain.models, late).mean() >= 0.60


def test_untaught_facts_stay_at_chance(study):
    """Issue 3, what it must show, 2: no condition differs from chance beyond what so many comparisons produce by luck."""
    found = findings.controls(study.outcomes)
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
    missed = findings.controls(study.outcomes).query("not covers")
    assert (missed["value"] < missed["chance"]).all()
