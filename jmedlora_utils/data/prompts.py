"""Prompts: templates, one worked example before the question, and token ids that training and inference share."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.core.records import sha256_text
from jmedlora_utils.data.questions import LETTERS, Question

SEPARATOR = "、"
TOO_LONG = ("error", "exclude")


@dataclass(frozen=True)
class Template:
    """Wording of a prompt."""

    turn: str  #: One instruction with its input; holds `{instruction}` and `{input}`. The response follows at once.
    turn_plain: str  #: One instruction without an input
    opening: str = ""  #: Stands once, before the first turn, where the turns have an input
    opening_plain: str = ""  #: The same where no turn has an input
    between: str = "\n\n"  #: Stands between a worked example's response and the next turn
    exam_note: str = ""  #: Follows the stem of an exam question and says what form the answer has
    choice: str = "{letter}. {text}"  #: One choice; holds `{letter}` and `{text}`. Each choice has its own line.
    chat: bool = False  #: Whether the turns go through the tokenizer's own chat template


_EXAM_NOTE = "\n選択肢の中から選び、その語句をそのまま書きなさい。複数のときは「、」で区切りなさい。"

TEMPLATES: dict[str, Template] = {
    # The Japanese Alpaca wording of the authors' line of work. The choices stand one a line: joined by commas,
    # as in the first author's harness, a comma inside a choice hides where it ends.
    "alpaca_ja": Template(
        opening="以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n",
        opening_plain="以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n",
        turn="### 指示:\n{instruction}\n\n### 入力:\n{input}\n\n### 応答:\n",
        turn_plain="### 指示:\n{instruction}\n\n### 応答:\n",
        exam_note=_EXAM_NOTE,
    ),
    # As short as it can be, for the tiny models of the mini study.
    "plain_ja": Template(
        turn="問題:{instruction}\n{input}\n答え:", turn_plain="問題:{instruction}\n答え:", between="\n", choice="{letter} {text}"
    ),
    "chat": Template(turn="{instruction}\n\n{input}", turn_plain="{instruction}", exam_note=_EXAM_NOTE, chat=True),
}


def get_template(name: str) -> Template:
    """The template of that name."""
    if name not in TEMPLATES:
        raise JmedloraError(f"no template {name!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def choice_lines(question: Question, template: str) -> str:
    """The choices, one a line with their letters; empty for a question without choices."""
    form = get_template(template).choice
    return "\n".join(form.format(letter=letter, text=text) for letter, text in zip(LETTERS, question.choices, strict=False))


def answer_text(question: Question) -> str:
    """The gold answer as a model should write it: choice texts in printed order joined by `、`, or the number."""
    if question.rule == "number":
        return question.number or ""
    return SEPARATOR.join(map(question.choice, question.right_letters()))


def build_instruction_prompt(instruction: str, input_text: str, template: str, tokenizer: Any = None) -> str:
    """The prompt of one instruction record, up to where the response starts; `chat` alone needs the tokenizer."""
    return _render(template, [(instruction, input_text)], [], tokenizer)


def build_exam_prompt(question: Question, template: str, shots: Sequence[Question] = (), tokenizer: Any = None) -> str:
    """The prompt of one exam question, after worked examples with their answers, none of which may be the question itself."""
    for shot in _asked_among(shots, [question]):
        raise JmedloraError(f"worked example {shot.exam}/{shot.id} is itself a test question; take another one")
    records = [as_record(q, template) for q in (*shots, question)]
    turns = [(record["instruction"], record["input"]) for record in records]
    return _render(template, turns, [record["output"] for record in records[:-1]], tokenizer)


def as_record(question: Question, template: str) -> dict[str, str]:
    """An exam question as an instruction record: the stem is the instruction, the choices are the input, the gold answer is the output."""
    note = get_template(template).exam_note if question.choices else ""
    asked = {"id": question.id, "instruction": question.text + note, "input": choice_lines(question, template)}
    return asked | {"output": answer_text(question)}


def template_facts(template: str, tokenizer: Any = None) -> dict[str, str]:
    """Name, exact text and SHA-256 of a template, for the record."""
    text = build_instruction_prompt("{instruction}", "{input}", template, tokenizer) + "{output}"
    return {"name": template, "text": text, "sha256": sha256_text(text)}


def pick_shots(pool: Sequence[Question], k: int, questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Draws exactly `k` different worked examples from `pool`, none of them a test question.

    The draw depends on the pool's order and the seed only, so every question of an exam sees the same examples.
    """
    free: dict[str, Question] = {}
    for q in pool:
        if q.gold and q.text_only and q.rule == "all":
            free.setdefault(_plain(q.text), q)
    for asked in _asked_among(list(free.values()), questions):
        del free[_plain(asked.text)]
    if len(free) < k:
        raise JmedloraError(
            f"{k} worked examples wanted, {len(free)} of {len(pool)} in the pool are not test questions; give a larger shot pool"
        )
    return random.Random(seed).sample(list(free.values()), k)


def _asked_among(shots: Sequence[Question], questions: Sequence[Question]) -> list[Question]:
    """The worked examples that are test questions themselves, by id or by text."""
    ids, texts = {(q.exam, q.id) for q in questions}, {_plain(q.text) for q in questions}
    return [shot for shot in shots if (shot.exam, shot.id) in ids or _plain(shot.text) in texts]


@lru_cache(maxsize=8)
def has_bos_habit(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS before a text by itself: Llama does, GPT-NeoX has a BOS token but does not."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt, the same for training and inference.

    Exactly one BOS where the tokenizer has the habit, none where it has not, no EOS. A BOS that the text itself
    starts with (chat templates write one) is not doubled.
    """
    ids = list(tokenizer(text, add_special_tokens=False).input_ids)
    bos = tokenizer.bos_token_id
    if has_bos_habit(tokenizer) and ids[:1] != [bos]:
        ids.insert(0, bos)
    return ids


def encode_after(tokenizer: Any, prompt: str, ids: Sequence[int], text: str) -> tuple[list[int], bool]:
    """Token ids of the text that follows a prompt, and whether they are those of the joint encoding of both.

    They are cut from the joint encoding where the prompt's own `ids` (see `encode_prompt`) stay whole there, as they do at a line break.
    Where a token would span the boundary, cutting by length would give other tokens: the text is then encoded alone.
    """
    both = encode_prompt(tokenizer, prompt + text)
    joint = both[: len(ids)] == list(ids) and len(both) > len(ids)
    return (both[len(ids) :] if joint else list(tokenizer(text, add_special_tokens=False).input_ids)), joint


def encode_example(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], list[int], bool]:
    """Token ids of a prompt, as at inference, and of its response with EOS; and whether both are their joint encoding."""
    if tokenizer.eos_token_id is None:
        raise JmedloraError("the tokenizer has no EOS token, so the end of an answer cannot be learned; set tokenizer.eos_token")
    head = encode_prompt(tokenizer, prompt)
    tail, joint = encode_after(tokenizer, prompt, head, response)
    return head, [*tail, tokenizer.eos_token_id], joint


def encode_prompts(
    tokenizer: Any, prompts: dict[str, str], limit: int, too_long: str = "error"
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Encodes prompts and refuses, or leaves out and counts, those over the limit. Nothing is ever cut.

    Returns:
        Id to token ids of the prompts that fit, and id to token count of those left out.
    """
    if too_long not in TOO_LONG:
        raise JmedloraError(f"too_long is {too_long!r}; it takes {' or '.join(TOO_LONG)}")
    encoded = {key: encode_prompt(tokenizer, text) for key, text in prompts.items()}
    excluded = {key: len(ids) for key, ids in encoded.items() if len(ids) > limit}
    if excluded and too_long == "error":
        key = max(excluded, key=excluded.__getitem__)
        raise JmedloraError(
            f"question {key}: its prompt has {excluded[key]} tokens, the limit is {limit} "
            f"({len(excluded)} of {len(prompts)} prompts are too long); "
            "use fewer shots, a longer max_length, or too_long='exclude', which leaves them out and counts them"
        )
    return {key: ids for key, ids in encoded.items() if key not in excluded}, excluded


def _render(template: str, turns: Sequence[tuple[str, str]], answers: Sequence[str], tokenizer: Any) -> str:
    """Joins turns; every turn but the last is followed by its answer."""
    form = get_template(template)
    asked = [_fill(form.turn if inp else form.turn_plain, ins, inp) for ins, inp in turns]
    if not form.chat:
        opening = form.opening if any(inp for _, inp in turns) else form.opening_plain
        done = "".join(turn + answer + form.between for turn, answer in zip(asked, answers, strict=False))
        return opening + done + asked[-1]
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise JmedloraError("template 'chat' needs a tokenizer with a chat template; use 'alpaca_ja' for a base model")
    messages = []
    for turn, answer in zip(asked, [*answers, None], strict=True):
        messages.append({"role": "user", "content": turn})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _fill(form: str, instruction: str, input_text: str) -> str:
    # One pass, so that a brace or a placeholder inside a question stays as it is.
    head, _, rest = form.partition("{instruction}")
    middle, found, tail = rest.partition("{input}")
    return head + instruction + middle + (input_text if found else "") + tail


def _plain(text: str) -> str:
    return "".join(nfkc(text).split())
