"""Generation: greedy, the same alone or in a batch, cut at the first line, and never from logits that are not finite."""

from dataclasses import replace

import pytest

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.evaluation import generation, likelihood
from jmedlora_utils.models import loading
from tests import tiny


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, *tiny.LOADED_FAMILIES)


def encode(tokenizer, n: int, shots=()) -> list[list[int]]:
    """Prompts of uneven length."""
    questions = [replace(q, text=q.text + "。" * (i % 7)) for i, q in enumerate(tiny.make_questions(n))]
    return [prompts.encode_prompt(tokenizer, prompts.build_exam_prompt(q, "plain_ja", shots)) for q in questions]


@pytest.mark.parametrize("family", tiny.LOADED_FAMILIES)
def test_a_padded_batch_with_a_shared_prefix_answers_as_one_by_one(workspace, family: str) -> None:
    model, tokenizer = loading.load_base(family, workspace=workspace)
    rows = encode(tokenizer, 10, shots=tiny.make_questions(1, "mini_shots", seed=9))
    assert len({len(r) for r in rows}) > 3
    prefix = generation.read_prefix(model, rows)
    # These prompts outgrow the window of the tiny Gemma 3, where nothing is shared.
    assert (prefix is None) if family == "gemma3_text" else (len(prefix.ids) >= generation.MIN_PREFIX)
    alone = [generation.generate(model, tokenizer, [row], 12)[0] for row in rows]
    assert generation.generate(model, tokenizer, rows, 12) == alone
    assert generation.generate(model, tokenizer, rows, 12, prefix) == alone
    assert len({a.text for a in alone}) > 1, "answers must differ for the comparison to mean something"


def test_generation_is_greedy_whatever_the_checkpoint_says(workspace) -> None:
    model, tokenizer = loading.load_base("llama", workspace=workspace)
    rows = encode(tokenizer, 4)
    plain = generation.generate(model, tokenizer, rows, 10)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=50, repetition_penalty=3.0)
    assert [generation.generate(model, tokenizer, rows, 10) for _ in range(2)] == [plain, plain]


def test_an_answer_ends_at_the_first_line_break_or_eos() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    lines = generation.line_tokens(tokenizer)
    stops = {tokenizer.eos_token_id}

    def cut(text: str, end: list[int]) -> generation.Answer:
        return generation.cut_answer(tokenizer, [*tokenizer(text, add_special_tokens=False).input_ids, *end], stops, lines)

    n = len(tokenizer("アカシ薬", add_special_tokens=False).input_ids)
    assert cut("アカシ薬", [tokenizer.eos_token_id, 7]) == generation.Answer("アカシ薬", "stop", n + 1)
    assert cut("アカシ薬\n問題:", [7]) == generation.Answer("アカシ薬", "stop", n + 1)
    assert cut("\n\n アカシ薬\nほか", []).text == "アカシ薬"
    assert cut("アカシ薬", []) == generation.Answer("アカシ薬", "length", n)
    assert cut("", [tokenizer.eos_token_id]) == generation.Answer("", "stop", 1)


def test_batches_are_sorted_and_the_prefix_leaves_a_token() -> None:
    assert generation.sorted_batches([3, 9, 5, 9], 3) == [[1, 3, 2], [0]]
    assert generation.common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == [1, 2]
    assert generation.common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert generation.common_prefix([[1, 2]]) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answer(workspace, monkeypatch, value: float) -> None:
    model, tokenizer = loading.load_base("llama", workspace=workspace)
    rows, names = encode(tokenizer, 3), [f"b, question x/{i}" for i in (1, 2, 3)]
    inner = model.lm_head.forward

    def broken(hidden):
        logits = inner(hidden)
        logits[1, ..., 7] = value
        return logits

    monkeypatch.setattr(model.lm_head, "forward", broken)
    with pytest.raises(JmedloraError, match="b, question x/2: the model computes NaN or infinity; check its weights"):
        generation.generate(model, tokenizer, rows, 4, names=names)
    with pytest.raises(JmedloraError, match="b, question x/2: the model computes NaN"):
        likelihood.score_batch(model, rows, [[[5, 6], [7]]] * 3, names=names)
