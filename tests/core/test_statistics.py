"""Intervals and tests against statsmodels, closed forms and simulation."""

import numpy as np
import pytest
from exam_fixtures import question
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core import statistics
from jmedlora_utils.core.errors import JmedloraError

settings.register_profile("statistics", max_examples=40, deadline=None)
settings.load_profile("statistics")
outcomes = st.lists(st.integers(0, 1), min_size=1, max_size=60)
SEEDS = [np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])]
REFUSED = [
    *((lambda k=k, n=n: statistics.wilson(k, n), "no share") for k, n in [(1, 0), (-1, 5), (6, 5)]),
    *((lambda bad=bad: statistics.bootstrap_mean(bad), "one non-empty array") for bad in [[], [np.array([])]]),
    (lambda: statistics.bootstrap_mean([np.array([1.0, np.nan])]), "not a number"),
    *((lambda a=a, b=b: statistics.mcnemar_exact(a, b), "the same questions") for a, b in [([0, 1], [1]), ([], [])]),
    (lambda: statistics.mcnemar_exact([0.5], [1.0]), "must be 0 or 1"),
    (lambda: statistics.paired_bootstrap(SEEDS[:1], [SEEDS[0][:-1]]), "same questions"),
    (lambda: statistics.seed_interval(SEEDS[:1]), "several seeds"),
    (lambda: statistics.chance_level([]), "no questions"),
    *((lambda d=d, rate=rate: statistics.questions_needed(d, rate), "power") for d, rate in [(0, 0.3), (0.8, 0.3)]),
    (lambda: statistics.questions_needed_paired(0.2, 0.1), "power"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED)
def test_what_cannot_be_counted_is_refused(call, said):
    with pytest.raises(JmedloraError, match=said):
        call()


@given(st.lists(outcomes, min_size=1, max_size=4))
def test_bootstrap_holds_its_estimate_and_repeats(seeds):
    arrays = [np.array(s, float) for s in seeds]
    one = statistics.bootstrap_mean(arrays, replicates=200, seed=3)
    assert one == statistics.bootstrap_mean(arrays, replicates=200, seed=3)
    assert one.low <= one.value <= one.high
    assert one.value == pytest.approx(np.mean([a.mean() for a in arrays]))


def test_two_levels_are_wider_than_questions_alone_when_seeds_differ():
    rng = np.random.default_rng(1)
    seeds = [(rng.random(300) < p).astype(float) for p in (0.2, 0.4, 0.6, 0.8, 0.5)]
    pooled, nested = statistics.bootstrap_mean([np.concatenate(seeds)]), statistics.bootstrap_mean(seeds)
    assert nested.high - nested.low > 3 * (pooled.high - pooled.low)


@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_mean_interval_covers_as_often_as_it_says(spread):
    rng = np.random.default_rng(2)
    hits = 0
    for repeat in range(150):
        shares = np.clip(0.5 + spread * rng.normal(size=5), 0, 1)
        seeds = [(rng.random(60) < p).astype(float) for p in shares]
        boot, over_seeds = statistics.bootstrap_mean(seeds, replicates=400, seed=repeat), statistics.seed_interval(seeds)
        hits += min(boot.low, over_seeds.low) <= 0.5 <= max(boot.high, over_seeds.high)
    assert hits / 150 >= 0.91


def test_mean_interval_is_the_hull_of_both():
    hull, boot, over_seeds = statistics.mean_interval(SEEDS), statistics.bootstrap_mean(SEEDS), statistics.seed_interval(SEEDS)
    assert (hull.low, hull.high) == (min(boot.low, over_seeds.low), max(boot.high, over_seeds.high))
    assert statistics.mean_interval(SEEDS[:1]) == statistics.bootstrap_mean(SEEDS[:1])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80))
def test_mcnemar_is_statsmodels_exact_test(pairs):
    from statsmodels.stats.contingency_tables import mcnemar

    first, second = zip(*pairs, strict=True)
    table = np.zeros((2, 2), int)
    for a, b in pairs:
        table[a, b] += 1
    found = statistics.mcnemar_exact(first, second)
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.gained, found.lost, found.n) == (table[0, 1], table[1, 0], len(pairs))


def test_paired_bootstrap_ignores_what_both_share():
    rng = np.random.default_rng(0)
    hard = (rng.random(500) < 0.5).astype(float)
    better = np.where(rng.random(500) < 0.06, 1.0, hard)
    found = statistics.paired_bootstrap([hard], [better])
    assert 0 < found.low < found.value < found.high < 0.06


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_order_and_never_helps(p_values):
    named = {f"t{i}": p for i, p in enumerate(p_values)}
    adjusted = statistics.holm(named)
    assert list(adjusted) == list(named)
    assert all(adjusted[k] >= named[k] - 1e-12 and adjusted[k] <= 1 for k in named)
    assert statistics.holm({}) == {}
    smallest = min(named, key=named.get)
    assert adjusted[smallest] == pytest.approx(min(1.0, named[smallest] * len(named)))


def test_chance_is_a_fifth_for_one_and_a_tenth_for_two_of_five():
    questions = [question(), question(), question(n_select=2), question(n_select=2)]
    assert statistics.chances(questions).tolist() == [0.2, 0.2, 0.1, 0.1]
    assert statistics.chance_level(questions) == pytest.approx(0.15)


def test_questions_needed_agrees_with_statsmodels():
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    theirs = samplesize_proportions_2indep_onetail(0.05, 0.30, 0.8, alpha=0.05)
    assert statistics.questions_needed(0.05, 0.30) == pytest.approx(theirs, rel=0.02)


def test_as_many_questions_as_needed_see_the_difference_four_times_in_five():
    rng = np.random.default_rng(7)
    n, seen = statistics.questions_needed_paired(0.10, 0.20), 0
    for _ in range(600):
        u = rng.random(n)
        first, second = (u < 0.05).astype(float), ((u >= 0.05) & (u < 0.2)).astype(float)
        seen += statistics.mcnemar_exact(first, second).p <= 0.05
    assert 0.72 < seen / 600 < 0.85


def test_chance_of_the_harness_subset_is_18_5_percent():
    """paper.md, 7: uniform guessing on 1,232 single-, 180 two- and 43 three-answer items."""
    items = [question(n_select=n) for n, times in ((1, 1232), (2, 180), (3, 43)) for _ in range(times)]
    assert 100 * statistics.chance_level(items) == pytest.approx(18.5, abs=0.05)
