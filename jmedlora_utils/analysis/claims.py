"""The paper's four claims: their titles, what was published of each, and what the rungs of evidence say of them at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from jmedlora_utils.analysis.registered import Finding
from jmedlora_utils.analysis.verdicts import NOT_MEASURED
from jmedlora_utils.core import paths

TITLES = {
    1: "LoRA instruction-tuning incorporates domain knowledge, partially",
    2: "The effect is more pronounced in larger models",
    3: "Adapting an English-centric model is promising; Japanese-centric models remain limited",
    4: "Exact match is strict, Accuracy is lenient",
}
"""Number of a claim to its title (Sukeda et al. 2024, abstract and discussion)."""


VERDICT = "verdict in the miniature"
BESIDE = (
    "LoRA minus full tuning: lost, mean of both",
    "middle minus small, in points",
    "large minus middle, in points",
    "equal adapters: large minus middle, in points",
)
"""Estimands without a verdict that stand beside those with one, because a verdict alone would mislead."""
NOTES = {
    "right answers that Exact match refuses": "by construction",
    "wrong answers that Accuracy credits": "lenient here means crediting wrong answers; page 41 shows that Accuracy forgives form",
}


def effects_text(finding: Finding) -> str:
    """The estimands that decide, each with its interval, and those of `BESIDE`; or the first reason why one that decides is missing."""
    if finding.verdict == NOT_MEASURED:
        return finding.missing[0]
    shown = (e for e in finding.estimates if e.verdict or e.name in BESIDE)
    return "; ".join(f"{e.name} {e.text()}" + (f" ({NOTES[e.name]})" if e.name in NOTES else "") for e in shown)


def verdict_text(finding: Finding, changed: Mapping[int, Sequence[str]]) -> str:
    """The verdict on a claim, called fragile where one of the changes of `registered.changed_verdicts` gives another."""
    fragile = any(other != finding.verdict for other in changed.get(finding.claim, ()))
    return f"{finding.verdict}, fragile" if fragile else finding.verdict


def glance_table(
    found: Sequence[Finding], changed: Mapping[int, Sequence[str]], others: Mapping[str, Mapping[int, str]] | None = None
) -> pd.DataFrame:
    """One row per claim: what was published, the effects in the miniature, what the other rungs say, and the verdict.

    Args:
        found: What `registered.findings` returns.
        changed: What `registered.changed_verdicts` returns.
        others: Heading of a further rung to its verdicts by claim.

    Returns:
        Columns by the heading that a page shows.
    """
    published, rows = pd.read_csv(paths.RESULTS / "published" / "claims.csv").set_index("claim"), []
    for finding in found:
        row = {"claim": f"{finding.claim}. {TITLES[finding.claim]}", "in the paper": published.loc[finding.claim, "published_value"]}
        row |= {"the miniature [95 %]": effects_text(finding)} | {name: words[finding.claim] for name, words in (others or {}).items()}
        rows.append(row | {VERDICT: f"**{verdict_text(finding, changed)}**"})
    return pd.DataFrame(rows)
