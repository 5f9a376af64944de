"""The tables of the earlier studies: today's rule still gives the committed study's effects, and no study is missing a part."""

from __future__ import annotations

import pandas as pd
import pytest

from jmedlora_utils.analysis import claims, evidence
from jmedlora_utils.analysis.gains import Condition
from jmedlora_utils.core import paths

STUDIES = {n: pd.read_csv(paths.RESULTS / "studies" / f"study{n}.csv") for n in (1, 2)}
STEPS = {"early": 0, "late": 1, "very late": 2}


@pytest.fixture(scope="module")
def study() -> evidence.Study:
    return evidence.load_study("mini")


@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_the_rule_gives_the_effects_of_the_committed_study(study: evidence.Study, step: str, shots: int) -> None:
    kept = STUDIES[2].query("step == @step and shots == @shots").set_index(["claim", "part"])
    for finding in claims.evaluate_claims(study.outcomes, Condition(step_rank=STEPS[step], shots=shots)):
        for part in finding.parts:
            row = kept.loc[(finding.claim.number, part.name)]
            assert part.effect is not None and 100 * part.effect.value == pytest.approx(row["estimate"], abs=0.05)
            assert 100 * part.effect.low == pytest.approx(row["low"], abs=0.5)
            assert finding.verdict == row["claim_verdict"]


def test_the_studies_have_the_same_parts() -> None:
    keys = ["shots", "step", "claim", "part"]
    first, second = (set(table[keys].itertuples(index=False, name=None)) for table in STUDIES.values())
    assert first == second
