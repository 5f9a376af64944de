"""Intervals, paired tests and power for scores on exam questions.

Outcomes are arrays over questions, one array per seed. Every effect of the project is the mean of one number per question
(a score, a difference between two models, a difference of differences), so one bootstrap serves them all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jmedlora_utils.core.errors import JmedloraError

LEVEL = 0.95
REPLICATES = 4000


class Interval(NamedTuple):
    """An estimate with its interval, all in the unit of the outcome."""

    value: float
    low: float
    high: float

    def covers(self, point: float) -> bool:
        """Whether the interval holds the point, ends included."""
        return self.low <= point <= self.high


class PairedTest(NamedTuple):
    """McNemar's exact test of two models on the same questions."""

    gained: int  #: Questions that only the second model answered right
    lost: int  #: Questions that only the first model answered right
    n: int  #: Questions
    p: float  #: Two-sided p value


def wilson(k: float, n: int) -> Interval:
    """Wilson's 95 % score interval of `k` right of `n` (Wilson 1927, through statsmodels); `k` may be a fraction."""
    from statsmodels.stats.proportion import proportion_confint

    if n < 1 or not 0 <= k <= n:
        raise JmedloraError(f"wilson: {k} right of {n} questions is no share; k must lie in 0..n and n be at least 1")
    low, high = proportion_confint(k, n, alpha=1 - LEVEL, method="wilson")
    return Interval(k / n, min(float(low), k / n), max(float(high), k / n))


def share(right: float, n: int) -> dict[str, float]:
    """A share as a record holds it: `value`, `n`, and Wilson's interval as `low` and `high`."""
    value, low, high = wilson(right, n)
    return {"value": value, "n": n, "low": low, "high": high}


def bootstrap_mean(outcomes: Sequence[np.ndarray], level: float = LEVEL, replicates: int = REPLICATES, seed: int = 0) -> Interval:
    """Percentile interval of the mean over seeds and questions: two-level bootstrap.

    A replicate draws seeds with replacement and, in each, questions with replacement: a seed is a world of its own, so
    its questions are nested in it. The estimate is the mean of the seeds' means. Drawing from S seeds shrinks the variance
    between them by (S-1)/S; their deviations are widened by sqrt(S/(S-1)) to undo that (Davison and Hinkley 1997,
    section 3.8). One seed: questions alone are drawn, and the interval says nothing about another seed. With few seeds that
    differ much, percentile intervals stay too narrow (they cover about 0.85 instead of 0.95 with five seeds): see `mean_interval`.

    Outcomes are one array per seed, shape (questions,), whose lengths may differ. The same `seed` gives the same interval.
    """
    arrays = [np.asarray(a, dtype=float) for a in outcomes]
    if not arrays or any(a.ndim != 1 or a.size == 0 for a in arrays):
        raise JmedloraError("bootstrap_mean: needs one non-empty array of outcomes per seed; check the exam and the group of facts")
    if not all(np.isfinite(a).all() for a in arrays):
        raise JmedloraError("bootstrap_mean: an outcome is not a number; every question needs a score in every condition")
    rng = np.random.default_rng(seed)
    means = np.array([a.mean() for a in arrays])
    value = float(means.mean())
    count = len(arrays)
    widened = value + (means - value) * math.sqrt(count / max(count - 1, 1))
    pick = rng.integers(count, size=(replicates, count))
    drawn = widened[pick]
    for index, array in enumerate(arrays):
        chosen = pick == index
        drawn[chosen] += _resampled_means(array, int(chosen.sum()), rng) - means[index]
    estimates = drawn.mean(axis=1)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def seed_interval(outcomes: Sequence[np.ndarray], level: float = LEVEL) -> Interval:
    """Student's t interval of the mean over seeds, each seed reduced to its own mean."""
    from scipy.stats import t

    means = np.array([np.mean(a) for a in outcomes], dtype=float)
    if means.size < 2:
        raise JmedloraError("seed_interval: one seed says nothing about how seeds differ; run the preset with several seeds")
    half = float(t.ppf((1 + level) / 2, means.size - 1)) * means.std(ddof=1) / math.sqrt(means.size)
    return Interval(float(means.mean()), float(means.mean() - half), float(means.mean() + half))


def mean_interval(outcomes: Sequence[np.ndarray], level: float = LEVEL, seed: int = 0) -> Interval:
    """The interval that tables, figures and verdicts use: from the lower to the higher end of two.

    `bootstrap_mean` sees questions and seeds but is too narrow where few seeds differ much; `seed_interval` is right there
    but can be narrow by luck. Their hull covers at least as often as it says in both cases (simulated in the tests).
    With one seed it is the bootstrap over questions.
    """
    boot = bootstrap_mean(outcomes, level=level, seed=seed)
    if len(outcomes) < 2:
        return boot
    over_seeds = seed_interval(outcomes, level)
    return Interval(boot.value, min(boot.low, over_seeds.low), max(boot.high, over_seeds.high))


def paired_bootstrap(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Interval:
    """Interval of the mean difference `second - first` on the same questions; see `bootstrap_mean`."""
    if [len(a) for a in first] != [len(b) for b in second]:
        raise JmedloraError("paired_bootstrap: both models must have answered the same questions in the same seeds")
    return bootstrap_mean([np.asarray(b, float) - np.asarray(a, float) for a, b in zip(first, second, strict=True)])


def mcnemar_exact(first: Iterable[float], second: Iterable[float]) -> PairedTest:
    """McNemar's exact test: are the questions on which two models differ split evenly? (McNemar 1947.)"""
    from scipy.stats import binomtest

    a, b = np.asarray(list(first), float), np.asarray(list(second), float)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise JmedloraError(f"mcnemar_exact: {a.size} and {b.size} outcomes; both models must answer the same questions, at least one")
    if not np.isin([a, b], (0.0, 1.0)).all():
        raise JmedloraError("mcnemar_exact: outcomes must be 0 or 1; compare scores in between with paired_bootstrap")
    gained, lost = int((b > a).sum()), int((a > b).sum())
    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return PairedTest(gained, lost, int(a.size), p)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of a family of p values (Holm 1979, through statsmodels); keys are kept."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return {}
    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return {key: float(p) for key, p in zip(p_values, adjusted, strict=True)}


def chances(questions: Iterable[Any]) -> np.ndarray:
    """Probability that a blind pick is right, by question, shape (questions,): 1 / C(choices, answers to choose), as 1/5 and 1/10."""
    return np.array([1 / math.comb(len(q.choices), q.n_select) for q in questions])


def chance_level(questions: Iterable[Any]) -> float:
    """Expected Accuracy of a model that knows nothing, 0 to 1: the mean of `chances`."""
    each = chances(questions)
    if each.size == 0:
        raise JmedloraError("chance_level: no questions; check the exam and the group of facts")
    return float(each.mean())


def questions_needed(difference: float, rate: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Questions for each of two models on *different* questions to see a difference of their shares, the first of which is `rate`.

    Two-sided z test: Fleiss, Levin and Paik (2003), equation 4.14 without continuity correction.
    """
    other, middle = rate + difference, rate + difference / 2
    if not difference or not (0 <= rate <= 1 and 0 <= other <= 1):
        raise JmedloraError(f"power: shares {rate} and {other} must differ and lie between 0 and 1")
    spread = _z(1 - alpha / 2) * math.sqrt(2 * middle * (1 - middle)) + _z(power) * math.sqrt(rate * (1 - rate) + other * (1 - other))
    return math.ceil((spread / difference) ** 2)


def questions_needed_paired(difference: float, discordant: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Questions that two models must *both* answer to see a difference of their shares (McNemar's test).

    Connor (1987), equation 3; the exact test needs a little more. `discordant` is the share of questions on which the two differ.
    """
    if not 0 < abs(difference) <= discordant <= 1:
        raise JmedloraError(f"power: with {discordant} of the questions discordant, a difference of {difference} is impossible or none")
    spread = _z(1 - alpha / 2) * math.sqrt(discordant) + _z(power) * math.sqrt(discordant - difference**2)
    return math.ceil((spread / difference) ** 2)


def _resampled_means(values: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Means of `replicates` samples of the same size, drawn with replacement; through counts of each distinct value."""
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size <= 64:
        return rng.multinomial(values.size, counts / values.size, size=replicates) @ distinct / values.size
    means = np.empty(replicates)
    block = max(1, 2_000_000 // values.size)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        means[start : start + size] = values[rng.integers(values.size, size=(size, values.size))].mean(axis=1)
    return means


def _z(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(share))
