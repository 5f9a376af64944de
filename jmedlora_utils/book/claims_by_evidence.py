"""The figure at the front: every claim on three rungs of evidence, effect with interval, and the verdict of each rung's own rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from jmedlora_utils.analysis import claims, evidence, published_pairs, small_models
from jmedlora_utils.analysis.registered import Estimate, Finding, read_registration
from jmedlora_utils.core import formatting

MINIATURE, SMALL, PUBLISHED = "miniature", "small real models", "published models"
COLUMNS = ["claim", "rung", "what", "value", "low", "high", "verdict"]
MAIN = {
    "knowledge": "knowledge, beyond form and untaught facts",
    "partially: lost with another wording or an example": "lost with another wording or an example",
    "large minus small, in points": "large minus small (the slope decides)",
    "English-centric gain": "gain of English-centric bases",
    "English minus Japanese": "English minus Japanese base",
    "Japanese-centric short of half": "Japanese gain short of half the English one",
    "right answers that Exact match refuses": "right answers that Exact match refuses, by construction",
    "wrong answers that Accuracy credits": "wrong answers that Accuracy credits",
}
"""Estimands of the miniature that the figure shows, all in points, and their labels there."""


def effects(found: Sequence[Finding], changed: Mapping[int, Sequence[str]]) -> pd.DataFrame:
    """One row per effect, in shares: the columns `COLUMNS`, by claim and rung.

    Args:
        found: Findings of the miniature.
        changed: What `registered.changed_verdicts` returns.
    """
    rows = [
        (finding.claim, MINIATURE, MAIN[e.name], *e.interval, _verdict(finding, e, changed))
        for finding in found
        for e in finding.estimates
        if e.name in MAIN
    ]
    rows += _small()
    verdicts = published_pairs.read_tables().verdicts
    for row in verdicts[verdicts["decides"]].itertuples():
        what = "Accuracy minus Exact match" if pd.isna(row.base) else f"{row.base} → {row.adapted}"
        rows.append((row.claim, PUBLISHED, what, row.value, row.low, row.high, row.verdict))
    order = [MINIATURE, SMALL, PUBLISHED]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(
        ["claim", "rung"], key=lambda c: c.map(order.index) if c.name == "rung" else c, kind="stable", ignore_index=True
    )


def _verdict(finding: Finding, shown: Estimate, changed: Mapping[int, Sequence[str]]) -> str:
    """The effect's own verdict; the claim's, which may be called fragile, where the effect has none or the same."""
    return claims.verdict_text(finding, changed) if not shown.verdict or shown.verdict == finding.verdict else shown.verdict


def _small() -> list[tuple]:
    if not evidence.has_evidence("small"):
        return []
    study = evidence.load_study("small")
    bases = small_models.bases_of(study)
    rows = [
        (1, SMALL, f"{row.base}, {row.questions}", row.value, row.low, row.high, row.verdict)
        for row in small_models.claim_1(study, bases).itertuples()
    ]
    if len(bases) > 1:
        more = small_models.interaction(study, *bases[:2])
        rows.append((3, SMALL, "Japanese over English records, Gemma minus SmolLM2", *more, "described"))
    return rows


def figure(table: pd.DataFrame, folder: Path, note: str = "") -> str:
    """The forest plot with its caption, which ends with `note`; the picture is written to `folder`."""
    from jmedlora_utils.figures import rung_plots, style  # seaborn takes two seconds to load, and every notebook starts here

    style.use_style()
    titles = {number: f"{number}. {title}" for number, title in claims.TITLES.items()}
    margin = read_registration().margin
    drawn = rung_plots.forest(table, titles, margin)
    folder.mkdir(parents=True, exist_ok=True)
    drawn.savefig(folder / "rungs.png", metadata={"Software": None})
    missing = [] if SMALL in set(table["rung"]) else ["small real models: not run to the end yet"]
    none = sorted(set(titles) - set(table.loc[table["rung"] == PUBLISHED, "claim"]))
    missing += [f"published models for claim {' or '.join(map(str, none))}, which no published pair decides"] if none else []
    gaps = f" Not shown: {'; '.join(missing)}." if missing else ""
    caption = (
        "Every claim on its rungs of evidence: effect in points with its 95 % interval, and the verdict on that part by the rung's own "
        "rule; for claim 2 that of the slope, which is not in points and not drawn. The cards below have the verdicts on whole claims. "
        "Memorised real questions measure memory, and the placebo, which learned wrong answers, widens that gap. The grey band is within "
        f"{formatting.percent(margin)} points of zero. Rungs measure different things and are never averaged.{gaps} {note}"
    )
    alt = (
        "Four panels, one per claim; in each, effects of the miniature, of small real models and of published models with their intervals."
    )
    return f":::{{figure}} {folder.name}/rungs.png\n:name: fig-rungs\n:alt: {alt}\n\n{caption.rstrip()}\n:::"
