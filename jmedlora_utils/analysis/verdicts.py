"""The verdicts of every rule, and how an interval earns one. The numbers of each rule stand with its study.

| study | rule and numbers | code |
| --- | --- | --- |
| the miniature | `resources/registration.yaml` | `registered` |
| small real models | `resources/small_models_rule.yaml` | `small_models` |
| published models in pairs | `published_pairs`, first lines | `published_pairs` |
| one's own articles | `resources/hospital_rule.yaml` | `hospital_rule` |
"""

from __future__ import annotations

from collections.abc import Sequence

from jmedlora_utils.core.statistics import Interval

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided at this size"
NOT_MEASURED = "not measured"


def decide(effect: Interval, margin: float) -> str:
    """The verdict on one effect.

    Args:
        effect: Estimate and interval, in the unit of the margin.
        margin: Smallest effect of interest, above 0.
    """
    if effect.low > 0 and effect.value >= margin:
        return SUPPORTED
    return NOT_SUPPORTED if effect.high < margin else UNDECIDED


def combine(verdicts: Sequence[str]) -> str:
    """The verdict on a claim of several parts: supported if all are, not supported if one is not, else undecided."""
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if set(verdicts) == {SUPPORTED} else UNDECIDED
