"""What cutting would lose: each record under the usual separate right-truncation, and as this project trains it.

The public QLoRA script, whose settings the paper's model cards name, cuts prompt and answer each on its own, on the right: 512 tokens of
the prompt are kept, and 512 of the answer. What stands last goes first: a choice, the marker after which the answer starts, the token
that ends it. How many records that is depends on the tokenizer. Here nothing is cut: a longer record is refused, or left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import pandas as pd

from jmedlora_utils.core import paths
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import Question, read_exam
from jmedlora_utils.models import loading
from jmedlora_utils.tuning.encoding import encode_records


@dataclass
class Losses:
    """Counts of records."""

    records: int = 0  # all
    longest: int = 0  # tokens of the longest: prompt, response and EOS
    choice: int = 0  # cut separately, a choice would be lost, in whole or in part
    marker: int = 0  # the marker after which the response starts would be lost
    eos: int = 0  # the end of the response, and EOS with it, would be lost
    any_loss: int = 0  # one of these
    eos_as_padding: int = 0  # EOS would carry no loss if padding were masked by token, since padding is EOS
    boundary: int = 0  # a token spans prompt and response, so encoding them apart gives other tokens
    left_out: int = 0  # longer than `max_length`: refused here, or left out and counted
    damaged: int = 0  # trained on here although something of the above is lost: counted, not assumed


def audit(
    records: Sequence[Mapping[str, Any]], tokenizer: Any, template: str, max_length: int, source: int = 512, target: int = 512
) -> Losses:
    """Counts what the records lose.

    Args:
        records: As `encoding.read_instructions` returns them; `choices`, where a record has them, are texts within its input.
        tokenizer: Tokenizer of the base.
        template: Name in `prompts.TEMPLATES`.
        max_length: Most tokens of a record here.
        source: Tokens kept of a prompt under separate truncation.
        target: Tokens kept of an answer with its EOS.
    """
    rows, counted = encode_records(records, tokenizer, template, max_length, "exclude")
    eos = tokenizer.eos_token_id
    losses = Losses(records=len(records), longest=counted.longest, left_out=counted.too_long, boundary=counted.boundary_merges)
    losses.eos_as_padding = len(records) if tokenizer.pad_token_id == eos else 0
    marker = response_marker(template, tokenizer)
    used = iter(rows)
    for record in records:
        prompt = prompts.build_instruction_prompt(record["instruction"], record["input"], template, tokenizer)
        kept = kept_characters(f"{tokenizer.bos_token}{prompt}", tokenizer, source) - len(str(tokenizer.bos_token))
        choice = any(end > kept for end in choice_ends(prompt, record))
        lost_marker = bool(marker) and kept < len(prompt)
        lost_eos = len(tokenizer(record["output"], add_special_tokens=False).input_ids) + 1 > target
        losses.choice += choice
        losses.marker += lost_marker
        losses.eos += lost_eos
        losses.any_loss += choice or lost_marker or lost_eos
        example = prompts.encode_example(tokenizer, prompt, record["output"])
        if len(example.prompt) + len(example.response) <= max_length:
            losses.damaged += is_damaged(next(used).ids, prompt + record["output"], tokenizer)
    return losses


def is_damaged(ids: Sequence[int], text: str, tokenizer: Any) -> bool:
    """Whether a row of tokens lacks its EOS, or anything of the text; blanks apart, which tokenizers add and drop."""
    whole = tokenizer(text, add_special_tokens=False).input_ids
    seen, wanted = ("".join(tokenizer.decode(found, skip_special_tokens=True).split()) for found in (ids, whole))
    return ids[-1] != tokenizer.eos_token_id or seen != wanted


def kept_characters(text: str, tokenizer: Any, tokens: int) -> int:
    """Characters at the start of a text that its first tokens hold whole."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    if len(encoded.input_ids) <= tokens:
        return len(text)
    if tokenizer.is_fast:
        return encoded.offset_mapping[tokens][0]
    return len(tokenizer.decode(encoded.input_ids[:tokens], clean_up_tokenization_spaces=False).rstrip("\ufffd"))


def choice_ends(prompt: str, record: Mapping[str, Any]) -> list[int]:
    """Where each choice of a record ends in its prompt, in characters."""
    ends, position = [], max(0, prompt.rfind(record["input"]))
    for choice in record.get("choices", ()):
        position = prompt.index(choice, position) + len(choice)
        ends.append(position)
    return ends


def response_marker(template: str, tokenizer: Any = None) -> str:
    """What every prompt of a template ends with: the words, or the chat tokens, after which the response starts."""
    one, two = (prompts.build_instruction_prompt(text, text, template, tokenizer) for text in ("一", "二"))
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(one), reversed(two), strict=True))
    return "".join(a for a, _ in same)[::-1]


def exam_records(questions: Iterable[Question], template: str) -> list[dict[str, Any]]:
    """Exam questions as instruction records: the stem is the instruction, the choices are the input."""
    note = prompts.get_template(template).exam_note
    return [
        {
            "id": q.id,
            "instruction": q.text + (note if q.choices else ""),
            "input": prompts.choice_lines(q, template),
            "output": prompts.answer_text(q),
            "choices": q.choices,
        }
        for q in questions
        if q.gold or q.number
    ]


def audit_frame(
    workspace: paths.Workspace, base: str, records: Sequence[Mapping[str, Any]], template: str, max_length: int
) -> pd.DataFrame:
    """The audit of a run: for its base's tokenizer and those of the workspace's bases, its records and the workspace's exams.

    Returns:
        One row per tokenizer and set of records: `tokenizer`, `data` and the counts of `Losses`. Bases with one and the same tokenizer
        share a row, and so do the parts of one exam.
    """
    found = [base, *sorted(p.parent.name for p in workspace.bases.glob("*/config.json"))]
    tokenizers: dict[str, tuple[list[str], Any]] = {}
    for entry in (loading.find_base(name, workspace) for name in dict.fromkeys(found)):
        tokenizer = loading.load_tokenizer(entry)
        key = (tuple(sorted(tokenizer.get_vocab().items())), prompts.has_bos_habit(tokenizer), str(tokenizer.special_tokens_map))
        tokenizers.setdefault(str(hash(key)), ([], tokenizer))[0].append(entry.name)
    data = {"instruction records": list(records)}
    for file in sorted((workspace.data / "exams").glob("*.jsonl")):
        data.setdefault(f"exam {file.stem.split('_')[0]}", []).extend(exam_records(read_exam(file), template))
    rows = [
        {"tokenizer": ", ".join(names), "data": what} | asdict(audit(given, tokenizer, template, max_length))
        for names, tokenizer in tokenizers.values()
        for what, given in data.items()
        if given
    ]
    return pd.DataFrame(rows)
