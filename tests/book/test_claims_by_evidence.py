"""The figure at the front: every effect that the pages state, with the words of their rules, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from jmedlora_utils.analysis import claims, evidence, published_pairs, registered, small_models
from jmedlora_utils.book import claims_by_evidence, fragments
from jmedlora_utils.core import paths


def test_the_front_figure_repeats_the_effects_of_the_pages(tmp_path: Path) -> None:
    study = evidence.load_study("mini-seeds")
    judged, changed = registered.findings(study), registered.changed_verdicts(study)
    table = claims_by_evidence.effects(judged, changed)
    shown = {e.name for finding in judged for e in finding.estimates} & set(claims_by_evidence.MAIN)
    assert shown == set(claims_by_evidence.MAIN), "every row of the figure is an estimand of the rule"
    for finding in judged:
        mine = table[(table["claim"] == finding.claim) & (table["rung"] == claims_by_evidence.MINIATURE)]
        effects = [tuple(e.interval) for e in finding.estimates if e.name in claims_by_evidence.MAIN]
        assert [tuple(row) for row in mine[["value", "low", "high"]].to_numpy()] == effects
        whole = claims.verdict_text(finding, changed)
        own = [e.verdict for e in finding.estimates if e.name in claims_by_evidence.MAIN]
        assert mine["verdict"].tolist() == [whole if word in ("", finding.verdict) else word for word in own]
        assert all(e.unit == registered.POINTS for e in finding.estimates if e.name in claims_by_evidence.MAIN)
    verdicts = published_pairs.read_tables(tuple(published_pairs.EDITIONS)).verdicts
    published = table[table["rung"] == claims_by_evidence.PUBLISHED]
    assert sorted(published["value"]) == sorted(verdicts.loc[verdicts["decides"], "value"])
    figure = claims_by_evidence.figure(table, tmp_path, "A note.")
    assert ("small real models: not run" in figure) != evidence.has_evidence("small") and "A note." in figure
    with Image.open(tmp_path / "rungs.png") as picture:
        assert picture.height > picture.width, "narrow, for a phone"


def test_the_summary_on_the_front_page_says_what_the_committed_evidence_says() -> None:
    """*In short* is prose: where one of these fails, the sentence beside it has to be written anew."""
    found = registered.findings(evidence.load_study("mini-seeds"))
    effect = {e.name: e.interval for finding in found for e in finding.estimates}
    verdict = {e.name: e.verdict for finding in found for e in finding.estimates}
    margin = registered.read_registration().margin
    assert verdict["knowledge"] == "supported", "LoRA puts taught facts into a model"
    assert verdict["partially: lost with another wording or an example"] == "supported", "part of that is lost"
    assert effect["LoRA minus full tuning: lost, mean of both"].covers(0), "full tuning was not shown to lose less"
    assert effect["middle minus small, in points"].low > 0, "the middle size gained more"
    assert effect["large minus middle, in points"].covers(0), "the largest was not shown to gain more"
    assert verdict["English-centric gain"] == "supported", "English-centric bases gained"
    assert verdict["English minus Japanese"] == "undecided at this size", "whether they gain more stayed open"
    assert effect["Japanese-centric short of half"].high < 0, "the Japanese-centric ones gained more than half as much"
    refused, credited = (effect[name] for name in ("right answers that Exact match refuses", "wrong answers that Accuracy credits"))
    assert refused.low > margin > credited.high, "Accuracy forgives the form of an answer"
    study = evidence.load_study("small")
    gained = small_models.claim_1(study, small_models.bases_of(study)).set_index(["questions", "base"])["verdict"]
    assert set(gained["real questions, memorised"]) == {"supported"}, "the small real models memorised the questions"
    assert sorted(gained["invented facts, other wording"]) == ["supported", "undecided at this size"], "one gained in another wording"
    assert set(gained["invented facts, taught wording"]) == {"undecided at this size"}, "the other results are undecided"
    kept = dict(zip(gained.index, small_models.without_one_seed(study, small_models.bases_of(study)), strict=True))
    assert kept["invented facts, other wording", gained["invented facts, other wording"].eq("supported").idxmax()] != "4 of 4"
    asked = small_models.by_arm(study).query("material == 'real questions' and arm == 'LoRA' and group == 'untaught'")
    assert len(asked) == 2 and ((asked["value"] - asked["chance"]).abs() < margin).all(), "and stayed near guessing on others"
    pairs = published_pairs.read_tables().verdicts.query("claim == 1 and decides")
    assert set(pairs["verdict"]) == {"not supported"} and len(pairs) == 1, "the one published medical LoRA shows no gain"


def test_every_finding_of_the_literature_has_a_source_in_the_bibliography() -> None:
    rows = pd.read_csv(paths.RESULTS / "published" / "literature.csv", keep_default_na=False)
    cited = (paths.BOOK / "references.bib").read_text(encoding="utf-8")
    assert all(f"{{{row.cite}," in cited if row.cite else row.note for row in rows.itertuples())
    assert set(rows["claim"]) <= set(claims.TITLES) and fragments.literature().count("\n") == len(rows) + 1
