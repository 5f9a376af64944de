"""The vLLM backend against a stand-in that checks its calls (`fake_vllm`); `benchmarks/vllm_check.py` asks vLLM itself."""

import sys

import pytest
import torch

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl
from jmedlora_utils.evaluation import evaluator, exam_prompts
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from tests import fake_vllm, tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A workspace with a base, the folder of an adapter, and what transformers answers."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        workspace = tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, "llama")
        adapter = tiny.make_adapter(workspace.bases / "llama", workspace.root / "adapter", rank=12)
        ask = EvalSettings(base="llama", adapter=str(adapter), steps=[0, 5], template="plain_ja", batch_size=16, quantisation="none")
        evaluator.evaluate(ask, "plain", workspace)
        yield workspace, ask


@pytest.fixture
def vllm(monkeypatch) -> fake_vllm.Calls:
    return fake_vllm.install(monkeypatch)


def rows(workspace, name: str) -> list[dict]:
    return read_jsonl(workspace.answers / f"{name}__mini_trained__0shot.jsonl")


def test_vllm_answers_with_the_adapter_as_transformers_does(home, vllm) -> None:
    workspace, ask = home
    records = evaluator.evaluate(ask.changed(backend="vllm"), "fast", workspace)
    for step in (0, 5):
        ours, theirs = rows(workspace, f"plain__step{step}"), rows(workspace, f"fast__step{step}")
        said = [[(r["id"], r["response"], r["finish"], r["n_new_tokens"]) for r in found] for found in (ours, theirs)]
        assert said[0] == said[1]
        assert not {r["key"] for r in ours} & {r["key"] for r in theirs}, "the backend is in the key"
    assert [r["response"] for r in rows(workspace, "fast__step0")] != [r["response"] for r in rows(workspace, "fast__step5")]
    assert records[1].config["settings"]["backend"] == "vllm" and records[1].model["differs_from_base"]
    [engine] = vllm.engines
    assert engine["enable_lora"] and engine["max_lora_rank"] == 16 and engine["enable_prefix_caching"]
    assert engine["generation_config"] == "vllm" and engine["dtype"] == "float32" and engine["max_model_len"] == 512
    answering = [c for c in vllm.generated if c.sampling.prompt_logprobs is None]
    assert {c.lora.lora_path for c in answering if c.lora} == {ask.adapter} and {c.lora is None for c in answering} == {True, False}
    assert all(c.sampling.max_tokens == records[0].config["max_new_tokens"] for c in answering)
    assert max(len(c.prompts) for c in answering) == 16


def test_vllm_that_ignores_the_adapter_is_refused_and_noise_hides_none(home, vllm) -> None:
    workspace, ask = home
    for vllm.noise in (0.0, 1e-3):
        vllm.adapter_ignored = True
        with pytest.raises(JmedloraError, match="step 5: its outputs equal the base's within the noise of two equal calls"):
            evaluator.evaluate(ask.changed(steps=[5], backend="vllm"), f"ignored{vllm.noise}", workspace)
    assert not list(workspace.answers.glob("ignored*"))
    vllm.adapter_ignored = False
    assert evaluator.evaluate(ask.changed(steps=[5], backend="vllm"), "noisy", workspace)[0].model["differs_from_base"]


def test_an_answer_that_opens_with_a_line_break_is_not_empty(home, vllm, monkeypatch) -> None:
    workspace, ask = home
    base = loading.load_base("llama", workspace=workspace)[0]
    tokenizer = loading.load_tokenizer(loading.find_base("llama", workspace))
    line, word = (tokenizer(text, add_special_tokens=False).input_ids for text in ("\n", "アカシ薬"))
    script = [*line, *word, *line, *word]
    script = [*script, *[tokenizer.eos_token_id] * (60 - len(script))]

    class Scripted(torch.nn.Module):
        device = base.device
        generation_config = base.generation_config

        def forward(self, input_ids, **kwargs):
            logits = torch.zeros(1, input_ids.shape[1], len(tokenizer))
            logits[0, -1, script[input_ids.shape[1] - self.start]] = 1
            return type("Output", (), {"logits": logits})()

    model = Scripted()
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: model)
    paper = exam_prompts.prepare(ask.changed(limit=1), "mini_trained", 0, tokenizer, 512, workspace)
    model.start = len(paper.asked[0].ids)
    evaluator.evaluate(ask.changed(limit=1, steps=[0], backend="vllm"), "opens", workspace)
    [row] = rows(workspace, "opens__step0")
    assert (row["response"], row["finish"], row["n_new_tokens"]) == ("アカシ薬", "stop", len(line) + len(word) + len(line))
    assert [c.sampling.stop for c in vllm.generated] == [["\n"], None]


def test_an_end_token_that_is_not_handed_back_still_ends_the_answer(home, vllm) -> None:
    workspace, ask = home
    vllm.without_eos = True
    evaluator.evaluate(ask.changed(steps=[5], backend="vllm"), "bare", workspace)
    expected = [(r["response"], r["finish"]) for r in rows(workspace, "plain__step5")]
    assert [(r["response"], r["finish"]) for r in rows(workspace, "bare__step5")] == expected


def test_four_bits_and_a_base_alone_are_asked_for_in_vllms_words(home, vllm) -> None:
    workspace, ask = home
    evaluator.evaluate(ask.changed(adapter="", steps=[0], quantisation="nf4", limit=2, backend="vllm"), "alone", workspace)
    assert vllm.engines[0]["quantization"] == "bitsandbytes" and "enable_lora" not in vllm.engines[0]


def test_without_vllm_the_fix_is_named(home, monkeypatch) -> None:
    workspace, ask = home
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(JmedloraError, match="backend 'vllm' is not installed: `pip install vllm`"):
        evaluator.evaluate(ask.changed(backend="vllm"), "none", workspace)
