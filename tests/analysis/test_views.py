"""The cards and sentences of the findings pages, from made-up runs in the real formats."""

from __future__ import annotations

import dataclasses
import re

import pytest
import synthetic_study

from jmedlora_utils.analysis import findings, tables, views
from jmedlora_utils.core import formatting

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "ja-medium_lora")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(tables, "load_preset", lambda name: synthetic_study.preset(name, (1, 2), RUNS))
        synthetic_study.write_study("mini-seeds", (1, 2), RUNS, answers=6)
        yield tables.read_runs("mini-seeds")


@pytest.fixture(scope="module")
def found(study):
    return findings.evaluate_claims(study.outcomes)


def test_a_card_goes_from_published_to_verdict(study, found, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: tmp_path / preset)
    card = views.claim_card(found[0], study)
    assert card["where"].tolist() == ["published", "miniature, gain", "miniature, shortfall", "at a larger size", "**verdict**"]
    assert card["result"].iloc[-2:].tolist() == ["not run", f"**{found[0].verdict}**"]
    assert all(f"`{name}`" in card["basis"].iloc[-2] for name in views.LARGER)
    assert "33.1 %" in card["result"].iloc[0] and "jmed-data-for-llm" in card["basis"].iloc[0]
    assert re.fullmatch(r"[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\] points", card["result"].iloc[1])


def test_a_larger_run_with_evidence_takes_the_place_of_not_run(study, found, monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: tmp_path / preset)
    monkeypatch.setattr(tables, "read_evidence", lambda folder: study)
    (tmp_path / "midi").mkdir()
    (tmp_path / "midi" / "evidence.json").write_text("{}")
    card = views.claim_card(found[1], study).set_index("where")
    assert card.loc["`midi`", "result"] == views._effects(found[1])
    assert "`midi`" not in card.loc["at a larger size", "basis"]
    glance = views.glance_table(found)
    assert glance["larger"].str.contains("`midi`: ").all() and glance["larger"].str.endswith("at the paper's size: not run").all()


@pytest.fixture(scope="module")
def changed(study):
    return findings.robustness(study.outcomes)


def test_the_glance_counts_the_changes_that_leave_a_verdict_as_it_is(found, changed):
    shown = views.glance_table(found, changed)
    assert "same" not in views.glance_table(found)
    for finding, said in zip(found, shown["same"], strict=True):
        verdicts = changed.set_index("condition")[f"claim {finding.claim.number}"]
        measured = verdicts[1:][verdicts[1:] != findings.NOT_MEASURED]
        assert verdicts["headline"] == finding.verdict
        assert said == f"{(measured == finding.verdict).sum()} of {len(measured)}"


def test_japanese_verdicts_follow_the_english_ones(found, changed):
    rows = views.verdicts_ja(found, changed)
    assert len(rows) == len(findings.CLAIMS) == len(views.CLAIMS_JA)
    assert [row[2].strip("*") for row in rows] == [views.VERDICTS_JA[f.verdict] for f in found]
    assert [row[3] for row in rows] == [f"{n} 通り中 {same}" for same, n in findings.same_verdicts(changed)]
    assert {part for claim in findings.CLAIMS for part in claim.parts} == set(views.PARTS_JA)
    assert set(views.VERDICTS_JA) == {*findings.VERDICTS, findings.NOT_MEASURED}


def test_sentences_say_what_the_frames_hold(study):
    late = findings.step_of(study.outcomes, "en-large_lora", findings.HEADLINE.step_rank)
    frame = views.story_frame(study).set_index(["facts", "steps"])["value"]
    before, after = (formatting.percent(frame["taught", step]) for step in (0, late))
    assert f"taught facts {before} % → {after} %" in views.seen_facts(study)
    assert f"go from {before} % to {after} %" in views.story_caption(study) and "2 seeds" in views.story_caption(study)
    assert f"{before} % から {after} %" in views.summary_ja(study)
    for row in views.gains_frame(study).itertuples():
        assert formatting.percent(row.value, row.low, row.high, signed=True) in views.seen_size(study)
    assert views.largest(study) == "en-large_lora"


def test_the_control_of_the_story_is_that_of_the_rule(study):
    frame = study.outcomes
    own = frame[(frame["run"] == "en-large_lora") & (frame["shots"] == 0) & (frame["facts"] == "untaught") & (frame["steps"] == 0)]
    trained = own[own["exam"] == "mini_trained"]
    shown = views.story_frame(study).set_index(["facts", "steps"])["n"]
    assert shown["untaught", 0] == len(trained) == len(own) / 2


def test_answers_are_told_apart_by_their_form(study):
    forms = study.forms.assign(n=10, as_asked=5, right=1)
    shown = views.forms_table(dataclasses.replace(study, forms=forms))
    assert shown["of the form asked for"].tolist() == [formatting.percent(0.5)] * 2 and shown["chance"].tolist() == ["20.0", "10.0"]
    assert all(text.startswith("20.0 [") for text in shown["of these right"])
    shown = views.forms_table(dataclasses.replace(study, forms=forms.assign(as_asked=0, right=0)))
    assert shown["of these right"].tolist() == ["no such answer"] * 2
