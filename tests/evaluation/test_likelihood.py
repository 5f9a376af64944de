"""Log-likelihood: equal to five full prompts, tokens cut at the true boundary, normalisers that say what they are."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import evaluator, generation, likelihood, metrics
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from tests import tiny

ASK = EvalSettings(base="llama", shots=[0, 1], template="plain_ja", batch_size=8, likelihood=True)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, *tiny.LOADED_FAMILIES)


def uneven(n: int) -> list[Question]:
    """Questions whose stems and choices differ in length, one of them with a choice of one token."""
    questions = []
    for i, q in enumerate(tiny.make_questions(n)):
        choices = tuple(c + "薬" * (i * j % 4) for j, c in enumerate(q.choices))
        questions.append(replace(q, text=q.text + "。" * (i % 7), choices=("a", *choices[1:]) if i == 1 else choices))
    return questions


def encoded(tokenizer: Any, questions: list[Question], shots: Any = ()) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Ids of the prompts, and of their choices."""
    texts = [prompts.build_exam_prompt(q, "plain_ja", shots) for q in questions]
    rows = [prompts.encode_prompt(tokenizer, text) for text in texts]
    return rows, [likelihood.encode_options(tokenizer, t, r, q.choices)[0] for t, r, q in zip(texts, rows, questions, strict=True)]


def full_prompts(model: Any, ids: list[int], options: list[list[int]]) -> list[float]:
    """The plain way: prompt and choice through the model, once for each choice."""
    sums = []
    for option in options:
        row = torch.tensor([[*ids, *option]])
        with torch.inference_mode():
            said = model(input_ids=row).logits[0, len(ids) - 1 : -1].double().log_softmax(-1)
        sums.append(float(said.gather(1, row[0, len(ids) :, None]).sum()))
    return sums


def assert_close(found: list[list[float]], expected: list[list[float]]) -> None:
    for ours, plain in zip(found, expected, strict=True):
        assert ours == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", tiny.LOADED_FAMILIES)
def test_choices_from_the_cache_equal_five_full_prompts(workspace, tmp_path, monkeypatch, family: str, adapted: bool) -> None:
    model, tokenizer = loading.load_base(family, workspace=workspace)
    if adapted:
        model = loading.load_adapter(model, tiny.make_adapter(workspace.bases / family, tmp_path / "adapter"))
    rows, options = encoded(tokenizer, uneven(9), tiny.make_questions(1, "mini_shots", seed=9))
    lengths = {len(o) for found in options for o in found}
    assert min(lengths) == 1 and len(lengths) > 3 and len({len(r) for r in rows}) > 3
    expected = [full_prompts(model, ids, o) for ids, o in zip(rows, options, strict=True)]
    prefix = generation.read_prefix(model, rows)
    # These prompts outgrow the window of the tiny Gemma 3, where nothing is shared.
    assert (prefix is None) if family == "gemma3_text" else (len(prefix.ids) >= generation.MIN_PREFIX)
    assert_close(likelihood.score_batch(model, rows, options), expected)
    assert_close(likelihood.score_batch(model, rows, options, prefix), expected)
    # The same through many small passes, and twice from one prefix: nothing is written into what is shared.
    monkeypatch.setattr(likelihood, "LOGIT_CELLS", 1)
    assert_close(likelihood.score_batch(model, rows, options, prefix), expected)


def test_copies_of_the_cache_stay_within_their_bytes(workspace, monkeypatch) -> None:
    """A batch of 16 prompts of a thousand tokens is 5 GB of cache on Llama-2-70B, and one copy a choice would be five times that."""
    model, tokenizer = loading.load_base("llama", workspace=workspace)
    rows, ids = encoded(tokenizer, uneven(6))
    whole, copies, inner = likelihood.score_batch(model, rows, ids), [], likelihood._fork

    def fork(cache: Any, owner: Any) -> Any:
        copies.append(len(owner))
        return inner(cache, owner)

    width, config = max(map(len, rows)), model.config
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    row = 2 * config.num_hidden_layers * heads * width * 4
    monkeypatch.setattr(likelihood, "CACHE_BYTES", 4 * row)
    monkeypatch.setattr(likelihood, "_fork", fork)
    assert_close(likelihood.score_batch(model, rows, ids), whole)
    assert max(copies) == 4 and sum(copies) == sum(len(o) > 1 for found in ids for o in found)


@pytest.mark.parametrize("bos", [True, False])
def test_choice_tokens_start_where_the_prompt_ends(bos: bool) -> None:
    tokenizer = tiny.make_tokenizer(bos=bos)
    whole = "アカシ病の治療に用いるのはどれか。アカシ薬"
    merged = 0
    for n in range(1, len(whole)):
        ids = prompts.encode_prompt(tokenizer, whole[:n])
        [option], merges = likelihood.encode_options(tokenizer, whole[:n], ids, [whole[n:]])
        both = prompts.encode_prompt(tokenizer, whole)
        joint = both[: len(ids)] == ids
        merged += not joint
        # Where a token crosses the cut, cutting by length, as evaluators do, would score other tokens than the choice's.
        assert merges == (not joint) and tokenizer.decode(option) == whole[n:] and joint == ([*ids, *option] == both)
    assert 0 < merged < len(whole) - 1, "some cuts must fall inside a token and some between tokens"


def test_every_normaliser_is_named_and_divides_by_what_it_says() -> None:
    question = replace(tiny.make_questions(1)[0], choices=("ab", "薬", "薬薬薬", "c", "de"))
    row = {"logprobs": [-2.0, -3.0, -6.0, -1.5, -4.0], "tokens": [1, 3, 2, 1, 4]}
    found = {name: likelihood.normalised(question, row, name) for name in likelihood.NORMALISERS}
    assert found["sum"] == [-2.0, -3.0, -6.0, -1.5, -4.0]
    assert found["per_token"] == [-2.0, -1.0, -3.0, -1.5, -1.0]
    assert found["per_character"] == [-1.0, -3.0, -2.0, -1.5, -2.0]
    assert found["per_byte"] == [-1.0, -1.0, -6 / 9, -1.5, -2.0]
    with pytest.raises(JmedloraError, match="no normaliser 'norm'; known: sum, per_token, per_character, per_byte"):
        likelihood.normalised(question, row, "norm")


def test_as_many_choices_are_taken_as_the_stem_asks_for() -> None:
    one, two = tiny.make_questions(1)[0], tiny.make_questions(4)[3]
    assert likelihood.choose(one, [-3, -1, -2, -4, -5]) == {"b"}
    assert likelihood.choose(two, [-3, -1, -2, -4, -5]) == {"b", "c"}
    assert likelihood.choose(two, [-3, -1, -3, -4, -5]) == frozenset(), "a tie at the cut"
    assert likelihood.choose(two, [-1, -1, -2, -4, -5]) == {"a", "b"}, "a tie above the cut"
    twins = replace(one, choices=("x", "x", "y", "z", "w"), gold=frozenset("b"))
    assert metrics.is_right(twins, likelihood.choose(twins, [-1, -1.0001, -2, -4, -5]))


def test_what_is_right_follows_the_rule_of_the_question() -> None:
    question = replace(tiny.make_questions(1)[0], gold=frozenset("ad"), n_select=2)
    assert metrics.is_right(question, "da") and not metrics.is_right(question, "a") and not metrics.is_right(question, "")
    either = replace(question, rule="any", n_select=1)
    assert metrics.is_right(either, "a") and metrics.is_right(either, "d") and not metrics.is_right(either, "ad")
    assert metrics.is_right(replace(question, rule="always"), "")
    with pytest.raises(JmedloraError, match="free number"):
        metrics.is_right(replace(question, rule="number", choices=(), gold=frozenset(), number="1", n_select=1), "a")


@pytest.fixture(scope="module")
def asked(workspace):
    return evaluator.evaluate(ASK, "base", workspace)


def test_it_stands_apart_from_the_three_scorers(asked, workspace) -> None:
    plain = evaluator.evaluate(ASK.changed(likelihood=False), "plain", workspace)
    for record, without in zip(asked, plain, strict=True):
        assert {k: v for k, v in record.metrics.items() if k != "likelihood"} == without.metrics
        assert set(record.metrics["likelihood"]) == set(likelihood.NORMALISERS)
        assert record.metrics["likelihood"]["sum"]["all"]["accuracy"]["n"] == 24 and record.counts["boundary_merges"] == 0
        answers = [workspace.answers / f"{r.name.removeprefix('30_evaluate__')}.jsonl" for r in (record, without)]
        assert answers[0].read_bytes() == answers[1].read_bytes(), "asking for likelihood changes no answer and no key"
        rows, said = read_jsonl(answers[0].with_name(f"{answers[0].stem}__likelihood.jsonl")), read_jsonl(answers[0])
        assert [r["id"] for r in rows] == [r["id"] for r in said] and not {r["key"] for r in rows} & {r["key"] for r in said}
        assert all(len(r["logprobs"]) == len(r["tokens"]) == 5 and "response" not in r for r in rows)
    assert "likelihood" not in plain[0].config["settings"] and asked[0].config["settings"]["likelihood"] is True
