"""The table of claims, and the words that every rule shares."""

from __future__ import annotations

import pytest

from jmedlora_utils.analysis import claims, registered, verdicts
from jmedlora_utils.analysis.verdicts import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from jmedlora_utils.core.statistics import Interval
from tests.analysis.test_registered import learned, make_study


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Interval(0.05, 0.01, 0.09), SUPPORTED),
        (Interval(0.04, 0.01, 0.09), UNDECIDED),
        (Interval(0.30, 0.00, 0.60), UNDECIDED),
        (Interval(0.02, 0.01, 0.03), NOT_SUPPORTED),
        (Interval(-0.05, -0.10, 0.04), NOT_SUPPORTED),
    ],
)
def test_one_effect_is_decided_by_interval_and_margin(effect, verdict):
    assert verdicts.decide(effect, margin=0.05) == verdict


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [([SUPPORTED] * 2, SUPPORTED), ([SUPPORTED, UNDECIDED], UNDECIDED), ([UNDECIDED, NOT_SUPPORTED], NOT_SUPPORTED)],
)
def test_parts_combine(parts, verdict):
    assert verdicts.combine(parts) == verdict


def test_the_table_of_claims_shows_effects_beside_words_and_what_was_not_measured() -> None:
    found = registered.findings(make_study(learned))
    changed = {1: [SUPPORTED] * 3, 2: [SUPPORTED, NOT_SUPPORTED], 3: [], 4: []}
    rows = claims.glance_table(found, changed, {"published models": dict.fromkeys(claims.TITLES, "x")}).to_dict("records")
    assert [row["claim"][0] for row in rows] == ["1", "2", "3", "4"] and {row["published models"] for row in rows} == {"x"}
    assert rows[0][claims.VERDICT] == "**supported**" and "knowledge +39." in rows[0]["the miniature [95 %]"]
    assert "fragile" in rows[1][claims.VERDICT], "one of the changes gives another word"
    assert rows[3][claims.VERDICT] == "**not measured**" and "en-large_sentences" in rows[3]["the miniature [95 %]"]
    assert "33.1" in rows[0]["in the paper"]
