"""The figure at the front: every effect that the pages state, with the words of their rules, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from jmedlora_utils.analysis import claims, evidence, published_pairs
from jmedlora_utils.book import claims_by_evidence, fragments
from jmedlora_utils.core import paths


def test_the_front_figure_repeats_the_effects_of_the_pages(tmp_path: Path) -> None:
    study = evidence.load_study("mini-seeds")
    judged = claims.evaluate_claims(study.outcomes)
    table = claims_by_evidence.effects(judged, claims.robustness(study.outcomes))
    for finding in judged:
        mine = table[(table["claim"] == finding.claim.number) & (table["rung"] == claims_by_evidence.MINIATURE)]
        effects = [tuple(p.effect) for p in finding.parts if p.name in claims_by_evidence.MAIN]
        assert [tuple(row) for row in mine[["value", "low", "high"]].to_numpy()] == effects
        assert all(finding.verdict in word or word == claims_by_evidence.NOT_TESTABLE for word in mine["verdict"])
    verdicts = published_pairs.read_tables(tuple(published_pairs.EDITIONS)).verdicts
    published = table[table["rung"] == claims_by_evidence.PUBLISHED]
    assert sorted(published["value"]) == sorted(verdicts.loc[verdicts["decides"], "value"])
    shown = claims_by_evidence.figure(table, tmp_path)
    assert ("small real models: not run" in shown) != evidence.has_evidence("small")
    with Image.open(tmp_path / "rungs.png") as picture:
        assert picture.height > picture.width, "narrow, for a phone"


def test_a_verdict_that_few_other_choices_keep_is_called_fragile() -> None:
    study = evidence.load_study("mini-seeds")
    judged, changed = claims.evaluate_claims(study.outcomes), claims.robustness(study.outcomes)
    words = claims_by_evidence.effects(judged, changed).set_index(["claim", "rung"])["verdict"]
    for number, (same, n) in enumerate(claims.same_verdicts(changed), start=1):
        word = words[number, claims_by_evidence.MINIATURE]
        assert word == claims_by_evidence.NOT_TESTABLE or ("fragile" in word) == (2 * same < n)


def test_every_finding_of_the_literature_has_a_source_in_the_bibliography() -> None:
    rows = pd.read_csv(paths.RESULTS / "published" / "literature.csv", keep_default_na=False)
    cited = (paths.BOOK / "references.bib").read_text(encoding="utf-8")
    assert all(f"{{{row.cite}," in cited if row.cite else row.note for row in rows.itertuples())
    assert set(rows["claim"]) <= {claim.number for claim in claims.CLAIMS} and fragments.literature().count("\n") == len(rows) + 1
