"""The tables of the earlier studies: the same parts in both, and every number a share or a word of the rule."""

from __future__ import annotations

import pandas as pd

from jmedlora_utils.analysis.verdicts import NOT_SUPPORTED, SUPPORTED, UNDECIDED
from jmedlora_utils.core import paths
from jmedlora_utils.core.manifest import check_manifest

FOLDER = paths.RESULTS / "studies"
STUDIES = {n: pd.read_csv(FOLDER / f"study{n}.csv") for n in (1, 2)}


def test_the_studies_have_the_same_parts() -> None:
    check_manifest(FOLDER)
    keys = ["shots", "step", "claim", "part"]
    first, second = (set(table[keys].itertuples(index=False, name=None)) for table in STUDIES.values())
    assert first == second


def test_estimates_lie_in_their_intervals_and_have_a_word() -> None:
    for table in STUDIES.values():
        assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()
        assert set(table["claim_verdict"]) <= {SUPPORTED, NOT_SUPPORTED, UNDECIDED}
    methods = pd.read_csv(FOLDER / "methods.csv")
    assert ((methods["low"] >= 0) & (methods["low"] <= methods["value"]) & (methods["value"] <= methods["high"])).all()
    assert (methods["high"] <= 1).all() and not methods.duplicated(["run", "steps", "facts"]).any()
