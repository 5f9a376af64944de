"""The rule of the study with small real models, as committed before any scoring: margins, learning rates, hashes of the splits.

The rule itself is `resources/small_models_rule.yaml`; notebook 44 prints it. Code reads its numbers from there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated

from pydantic import Field

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_yaml
from jmedlora_utils.core.settings import Checked

FILE = paths.PACKAGE_DATA / "small_models_rule.yaml"
Share = Annotated[float, Field(gt=0, lt=1)]


class Rule(Checked):
    """What was fixed before any score."""

    stated: str  #: Day of the commit
    preset: str  #: The preset that it speaks of
    scorer: str  #: Column of the outcomes
    margin: Share  #: Smallest gain that supports a claim, and half the width of an equivalence
    level: Share  #: Of every interval
    equivalence_level: Share  #: Of each of the two one-sided tests of transfer
    fewest_seeds: Annotated[int, Field(ge=2)]  #: With fewer, no verdict is given
    learning_rates: dict[str, float]  #: Base to its peak rate, chosen on `development_seed`
    development_seed: int  #: Seed whose world and split no verdict uses
    splits: dict[int, dict[str, str]]  #: Seed to the SHA-256 of its examination split and of its records of facts
    text: list[str]  #: The rule in words


@cache
def read_rule() -> Rule:
    """The committed rule."""
    return Rule.read(read_yaml(FILE), FILE.name)


def check_splits(preset: str, seed: int, hashes: Mapping[str, str]) -> None:
    """Refuses splits that differ from those of the rule; other presets than the rule's are not bound by it.

    Raises:
        JmedloraError: The rule names no split of that seed, or another one.
    """
    rule = read_rule()
    if preset != rule.preset:
        return
    if seed not in rule.splits:
        raise JmedloraError(f"{FILE.name}: no split of seed {seed} was committed before scoring; use one of {sorted(rule.splits)}")
    for name, value in hashes.items():
        if rule.splits[seed].get(name) != value:
            raise JmedloraError(
                f"{FILE.name}, seed {seed}: the {name} split is {value[:16]}, the rule says {rule.splits[seed].get(name, '')[:16]}; "
                "data or code has changed since the rule was committed"
            )
