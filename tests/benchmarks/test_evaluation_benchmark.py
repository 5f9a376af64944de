"""The evaluation benchmark: its arms give the same answers, and a wrong one is refused before anything is timed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from jmedlora_utils.core import paths


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluation_benchmark", paths.ROOT / "benchmarks" / "evaluation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["evaluation_benchmark"] = module
    spec.loader.exec_module(module)
    module.LOOP_TOKENS = 24
    return module


@pytest.fixture(scope="module")
def bench(benchmark):
    return benchmark.Bench(4)


def test_every_arm_gives_the_same_answers(benchmark, bench) -> None:
    arms = bench.arms(with_lm_eval=False)
    accuracies = benchmark.assert_equal(bench, arms)
    assert min(bench.choice_lengths) > 1, "choices of one token would leave out the pass over choices"
    assert len(set(accuracies.values())) == 1 and len(accuracies) == 5 and len(arms) == 13


def test_an_arm_that_does_other_work_is_refused(benchmark, bench) -> None:
    with pytest.raises(SystemExit, match=r"writing, odd: answers 'x' where the script says"):
        benchmark.assert_equal(bench, {"writing, odd": lambda: ["x", *bench.gold[1:]]})
    with pytest.raises(SystemExit, match="likelihood: odd: log-probabilities differ by"):
        benchmark.assert_equal(bench, {"likelihood: odd": lambda: [[s + 0.1 for s in row] for row in bench.full_prompts(False)]})


def test_ratios_are_of_the_best_runs(benchmark) -> None:
    best = {f"writing, {kind}: loop of 24 tokens": 10.0 for kind in ("stops", "never stops")}
    best |= {f"writing, {kind}: ours": 4.0 for kind in ("stops", "never stops")}
    best |= {"likelihood: five full prompts": 6.0, "likelihood: five full prompts in a batch": 3.0, "likelihood: ours": 1.0}
    best |= {"likelihood: lm-eval, batch 1": 5.0, "likelihood: lm-eval, batch 8": 2.0}
    expected = {"writing, never stops": 2.5, "writing, stops": 2.5, "likelihood": 6.0, "likelihood, choices in a batch": 3.0}
    assert benchmark.ratios(best) == expected | {"likelihood, lm-eval": 2.0}
