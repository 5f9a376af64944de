"""Prompts: templates, worked examples, and ids that training and inference share."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from tests import tiny

QUESTIONS = tiny.make_questions(12)
CHAT = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def tokenizer(request):
    return tiny.make_family_tokenizer(request.param)


@pytest.fixture(scope="module")
def chat_tokenizer():
    tokenizer = tiny.make_tokenizer(bos=True)
    tokenizer.chat_template = CHAT
    return tokenizer


def test_alpaca_has_the_wording_of_the_authors_line_of_work() -> None:
    text = prompts.build_exam_prompt(QUESTIONS[0], "alpaca_ja")
    opening = "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。"
    assert text.startswith(f"{opening}\n\n### 指示:\n")
    assert "\n\n### 入力:\na. " in text and text.endswith("\n\n### 応答:\n")


def test_every_choice_has_a_line_of_its_own() -> None:
    question = replace(QUESTIONS[0], choices=("A、B", "C, D", "E", "F", "G"))
    for template in ("alpaca_ja", "plain_ja"):
        lines = prompts.build_exam_prompt(question, template).split("\n")
        assert [line.endswith(choice) for choice in question.choices for line in lines].count(True) == 5


def test_a_worked_example_shows_its_gold_answer_before_the_question() -> None:
    shot, asked = QUESTIONS[3], QUESTIONS[0]
    text = prompts.build_exam_prompt(asked, "plain_ja", [shot])
    shown = f"{prompts.build_exam_prompt(shot, 'plain_ja')}{prompts.answer_text(shot)}"
    assert text == f"{shown}\n{prompts.build_exam_prompt(asked, 'plain_ja')}"
    assert prompts.SEPARATOR in prompts.answer_text(shot)


def test_answer_text_writes_what_a_perfect_candidate_writes() -> None:
    two = replace(QUESTIONS[0], gold=frozenset("db"))
    assert prompts.answer_text(two) == f"{two.choices[1]}、{two.choices[3]}"
    assert prompts.answer_text(replace(two, rule="any")) == two.choices[1]
    assert prompts.answer_text(replace(two, rule="number", number="2.1", gold=frozenset(), choices=(), n_select=1)) == "2.1"


@given(st.text(alphabet="{}instructoput ", max_size=30), st.text(alphabet="{input}x", min_size=1, max_size=20))
def test_braces_in_a_question_stay_as_they_are(instruction: str, given_input: str) -> None:
    text = prompts.build_instruction_prompt(instruction, given_input, "plain_ja")
    assert text == f"問題:{instruction}\n{given_input}\n答え:"


def test_chat_needs_a_chat_template(chat_tokenizer) -> None:
    with pytest.raises(JmedloraError, match="use 'alpaca_ja'"):
        prompts.build_exam_prompt(QUESTIONS[0], "chat", tokenizer=tiny.make_tokenizer(bos=True))
    text = prompts.build_exam_prompt(QUESTIONS[0], "chat", [QUESTIONS[1]], chat_tokenizer)
    assert text.count("[user]") == 2 and text.count("[assistant]") == 2 and text.endswith("[assistant]")


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(JmedloraError, match="'alpaca'; known: alpaca_ja, plain_ja, chat"):
        prompts.build_instruction_prompt("x", "", "alpaca")


def test_worked_examples_are_never_test_questions() -> None:
    pool = tiny.make_questions(8, "mini_shots", seed=1)
    spaced = replace(pool[0], id="other", exam="mini_trained", text=" ".join(pool[0].text))
    shots = prompts.pick_shots(pool, 5, [*QUESTIONS, spaced])
    assert len(shots) == 5 and pool[0] not in shots
    assert shots == prompts.pick_shots(pool, 5, [*QUESTIONS, spaced])
    with pytest.raises(JmedloraError, match=r"8 worked examples wanted, \d of 8"):
        prompts.pick_shots(pool, 8, [*QUESTIONS, spaced])
    with pytest.raises(JmedloraError, match="mini_shots/mini_shots-0 is itself a test question"):
        prompts.build_exam_prompt(spaced, "plain_ja", [pool[0]])


def test_one_bos_where_the_tokenizer_has_the_habit_else_none(tokenizer, chat_tokenizer) -> None:
    ids = prompts.encode_prompt(tokenizer, "問題:アカシ病\n答え:")
    expected = int(prompts.has_bos_habit(tokenizer))
    assert ids.count(tokenizer.bos_token_id) == expected and tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids[expected:]) == "問題:アカシ病\n答え:"
    chat = prompts.build_exam_prompt(QUESTIONS[0], "chat", tokenizer=chat_tokenizer)
    assert prompts.encode_prompt(chat_tokenizer, chat).count(chat_tokenizer.bos_token_id) == 1


def test_a_chat_of_qwen3_has_no_bos_and_its_marks_are_one_token_each() -> None:
    tokenizer = tiny.make_family_tokenizer("qwen3")
    chat = prompts.build_exam_prompt(QUESTIONS[0], "chat", tokenizer=tokenizer)
    ids = prompts.encode_prompt(tokenizer, chat)
    assert tokenizer.bos_token_id is None and tokenizer.decode(ids) == chat and chat.startswith("<|im_start|>user")
    assert [ids.count(tokenizer.convert_tokens_to_ids(mark)) for mark in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")] == [2, 1, 0]


def test_training_ids_start_with_the_inference_ids_and_a_token_across_the_boundary_is_never_learned(tokenizer) -> None:
    whole = "アカシ病の治療に用いるのはどれか。アカシ薬"
    cuts = [prompts.encode_example(tokenizer, whole[:n], whole[n:]) for n in range(1, len(whole))]
    assert {joint for _, _, joint in cuts} == {True, False}, "some cuts must fall inside a token and some between tokens"
    for n, (read, response, _) in enumerate(cuts, start=1):
        assert read == prompts.encode_prompt(tokenizer, whole[:n])
        assert tokenizer.decode(response[:-1]) == whole[n:] and response[-1] == tokenizer.eos_token_id


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = tiny.make_tokenizer(bos=False)
    tokenizer.eos_token = None
    with pytest.raises(JmedloraError, match=r"no EOS token.*set tokenizer\.eos_token"):
        prompts.encode_example(tokenizer, "a", "b")
