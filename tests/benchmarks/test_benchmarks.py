"""The benchmarks of tuning and evaluation: their arms do the same work, and one that does other work is refused before it is timed."""

import importlib.util
import sys
from types import ModuleType

import pytest

from jmedlora_utils.core import paths


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", paths.ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"{name}_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_every_arm_of_evaluation_gives_the_same_answers_and_an_odd_one_is_refused() -> None:
    benchmark = script("evaluation")
    benchmark.LOOP_TOKENS = 24
    bench = benchmark.Bench(4)
    accuracies = benchmark.assert_equal(bench, bench.arms(with_lm_eval=False))
    assert min(bench.choice_lengths) > 1, "choices of one token would leave out the pass over choices"
    assert len(set(accuracies.values())) == 1 and len(accuracies) == 5
    with pytest.raises(SystemExit, match=r"writing, odd: answers 'x' where the script says"):
        benchmark.assert_equal(bench, {"writing, odd": lambda: ["x", *bench.gold[1:]]})
    with pytest.raises(SystemExit, match="likelihood: odd: log-probabilities differ by"):
        benchmark.assert_equal(bench, {"likelihood: odd": lambda: [[s + 0.1 for s in row] for row in bench.full_prompts(False)]})


@pytest.mark.slow
def test_the_arms_of_tuning_do_the_same_work_and_others_are_refused(tmp_path, monkeypatch) -> None:
    benchmark = script("tuning")
    monkeypatch.delenv("JMEDLORA_DATA", raising=False)
    monkeypatch.setattr(benchmark, "ROWS", 16)
    bench = benchmark.Bench(tmp_path, "plain_ja")
    assert bench.source.startswith("invented") and len(bench.rows) == 16
    arms = benchmark.make_arms(bench, with_trl=False)
    first = benchmark.assert_equal_first_step(arms, bench.rows)
    assert first["ours"] == pytest.approx(first["qlora.py-like"], abs=benchmark.LOSS_TOLERANCE)
    seconds, losses = benchmark.run(arms["ours"](bench.rows))
    assert seconds > 0 and len(losses) == 2
    monkeypatch.setattr(benchmark, "run", lambda trainer: (1.0, [8.0 if type(trainer).__name__ == "Trainer" else 8.1]))
    with pytest.raises(SystemExit, match="do not do the same work"):
        benchmark.assert_equal_first_step(arms, bench.rows)
