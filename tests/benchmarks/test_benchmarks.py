"""The benchmarks of tuning and evaluation: their arms do the same work, and one that does other work is refused before it is timed.

The check of vLLM tells ties from other differences; what vLLM itself answers is in `benchmarks/results/vllm.json`.
"""

import importlib.util
import sys
from types import ModuleType

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.records import read_jsonl
from jmedlora_utils.evaluation import evaluator
from tests import tiny


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


def test_the_check_of_vllm_counts_ties_and_refuses_other_differences(tmp_path, monkeypatch) -> None:
    import torch

    benchmark = script("vllm_check")
    workspace = tiny.make_workspace(tmp_path / "runs", monkeypatch, "llama", preset="vllm")
    monkeypatch.setattr(benchmark, "BASE", "llama")
    monkeypatch.setattr(benchmark, "RUN", str(tiny.make_adapter(workspace.bases / "llama", tmp_path / "adapter")))
    evaluator.evaluate(benchmark.settings("transformers", 5, 6), "ours", workspace)
    files = {step: workspace.answers / f"ours__step{step}__mini_trained__0shot.jsonl" for step in (0, 5)}
    said = {step: [row["response"] for row in read_jsonl(file)] for step, file in files.items()}
    referee = benchmark.Referee(workspace, 5, 6)

    def compared(**vllm: list[str]) -> dict:
        answers = {step: {"answers": vllm.get(f"step{step}", said[step])} for step in said}
        ours = {step: {"answers": said[step]} for step in said}
        return benchmark.compare([{"transformers": ours, "vllm": answers}], referee, 5)

    found = compared()
    assert found["differences"] == [] and found["answers"]["step5"] == {"questions": 6, "equal": 6, "ties": 0}
    assert found["answers"]["changed_by_adapter"] == sum(a != b for a, b in zip(*said.values(), strict=True)) > 0

    # Another answer to the first question: the second-likeliest first token that is a letter, and what may follow it.
    referee = benchmark.Referee(workspace, 5, 6)
    backend, tokenizer = referee.examinee.backend, referee.examinee.tokenizer
    backend.load(0, referee.exam.rows[0])
    with torch.inference_mode():
        ranked = backend.model(input_ids=torch.tensor([referee.exam.rows[0]])).logits[0, -1].float().log_softmax(-1).sort(descending=True)
    tokens = [tokenizer.decode(token).strip() for token in ranked.indices[:20]]
    rank = next(r for r in range(1, 20) if tokens[r] and "\ufffd" not in tokens[r])
    other = [tokens[rank] + "薬", *said[0][1:]]
    expected = float(ranked.values[0] - ranked.values[rank])
    assert referee.gap(0, 0, other[0]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(SystemExit, match="1 answers differ by more than a tie"):
        compared(step0=other)
    monkeypatch.setattr(benchmark, "TIE", expected + 1e-4)
    assert compared(step0=other)["answers"]["step0"] == {"questions": 6, "equal": 5, "ties": 1}
    with pytest.raises(SystemExit, match="changes no answer of vLLM"):
        compared(step5=said[0])
