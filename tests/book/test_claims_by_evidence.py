"""The figure at the front: every effect that the pages state, with the words of their rules, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from jmedlora_utils.analysis import claims, evidence, published_pairs, registered
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


def test_every_finding_of_the_literature_has_a_source_in_the_bibliography() -> None:
    rows = pd.read_csv(paths.RESULTS / "published" / "literature.csv", keep_default_na=False)
    cited = (paths.BOOK / "references.bib").read_text(encoding="utf-8")
    assert all(f"{{{row.cite}," in cited if row.cite else row.note for row in rows.itertuples())
    assert set(rows["claim"]) <= set(claims.TITLES) and fragments.literature().count("\n") == len(rows) + 1
