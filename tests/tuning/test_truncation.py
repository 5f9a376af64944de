"""The truncation audit: it finds what separate cutting loses, and that nothing is lost here."""

from __future__ import annotations

import os

import pytest

from jmedlora_utils.data import igakuqa, prompts
from jmedlora_utils.tuning import truncation
from tests import tiny

RECORD = {"id": "r", "instruction": "どれか。", "input": "a アウト薬\nb アオナ薬\nc イウト薬", "output": "アオナ薬"}
RECORD["choices"] = ("アウト薬", "アオナ薬", "イウト薬")


@pytest.fixture
def tokenizer():
    return tiny.make_tokenizer(bos=True)


def prompt_of(record: dict) -> str:
    return prompts.build_instruction_prompt(record["instruction"], record["input"], "plain_ja")


def tokens_up_to(tokenizer, text: str) -> int:
    """Tokens that the script's prompt takes up to the end of `text`."""
    whole = f"<s>{prompt_of(RECORD)}"
    end = whole.index(text) + len(text)
    return sum(start < end for start, _ in tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True).offset_mapping)


def test_the_audit_counts_a_lost_choice_marker_and_eos(tokenizer) -> None:
    whole = len(tokenizer(f"<s>{prompt_of(RECORD)}", add_special_tokens=False).input_ids)
    answer = len(tokenizer(RECORD["output"], add_special_tokens=False).input_ids) + 1
    second, third = tokens_up_to(tokenizer, "アオナ薬"), tokens_up_to(tokenizer, "イウト薬")
    assert second < third < whole

    def lost(source: int, target: int) -> tuple[int, int, int, int]:
        found = truncation.audit([RECORD], tokenizer, "plain_ja", 128, source, target)
        assert (found.left_out, found.damaged) == (0, 0)
        return found.choice, found.marker, found.eos, found.any_loss

    assert lost(whole, answer) == (0, 0, 0, 0)
    assert lost(whole - 1, answer) == (0, 1, 0, 1)
    assert lost(third, answer) == (0, 1, 0, 1)
    assert lost(third - 1, answer) == (1, 1, 0, 1)
    assert lost(whole, answer - 1) == (0, 0, 1, 1)


def test_a_long_record_is_counted_as_left_out_and_never_damaged(tokenizer) -> None:
    records = [RECORD, RECORD | {"id": "long", "instruction": "どれか。" * 40}]
    found = truncation.audit(records, tokenizer, "plain_ja", 60, 40, 40)
    assert (found.records, found.left_out, found.damaged) == (2, 1, 0) and found.longest > 60 and found.choice >= 1


def test_padding_with_eos_is_seen() -> None:
    for pad, masked in ((True, 0), (False, 1)):
        tokenizer = tiny.make_tokenizer(bos=True, pad=pad)
        if not pad:
            tokenizer.pad_token = tokenizer.eos_token
        assert truncation.audit([RECORD], tokenizer, "plain_ja", 128).eos_as_padding == masked


@pytest.mark.parametrize(("template", "end"), [("plain_ja", "\n答え:"), ("alpaca_ja", "\n\n### 応答:\n")])
def test_the_marker_is_what_every_prompt_ends_with(template: str, end: str) -> None:
    assert truncation.response_marker(template) == end


def test_half_a_character_is_not_kept(tokenizer) -> None:
    text = "鬱鬱"  # not in the tiny vocabulary: three byte tokens each
    assert [truncation.kept_characters(text, tokenizer, n) for n in (1, 3, 4, 6)] == [0, 1, 1, 2]


def test_the_table_of_a_workspace_names_each_tokenizer_once(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama", "gpt_neox")
    tiny.make_checkpoint(workspace.bases / "twin", "llama", seed=3)
    frame = truncation.audit_frame(workspace, "llama", tiny.make_records(5), "plain_ja", 256)
    assert list(dict.fromkeys(frame["tokenizer"])) == ["llama, twin", "gpt_neox"]
    assert set(frame["data"]) == {"instruction records", "exam mini"} and frame["records"].max() == 4 * 24
    assert (frame["damaged"] == 0).all() and (frame["left_out"] == 0).all() and (frame["records"] > 0).all()


@pytest.mark.skipif(not os.environ.get("JMEDLORA_DATA"), reason="JMEDLORA_DATA names no copy of the public exams")
def test_real_questions_lose_choices_at_512_with_a_tokenizer_that_has_little_japanese() -> None:
    questions = [q for q in igakuqa.load_igakuqa(os.environ["JMEDLORA_DATA"], [2018]) if q.gold and q.choices]
    found = truncation.audit(truncation.exam_records(questions, "alpaca_ja"), tiny.make_tokenizer(bos=True), "alpaca_ja", 4096)
    assert 0 < found.choice <= found.marker <= found.any_loss < found.records and found.damaged == 0


def test_a_row_without_its_eos_or_with_a_lost_choice_is_damaged(tokenizer) -> None:
    text = prompt_of(RECORD) + RECORD["output"]
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert not truncation.is_damaged(ids, text, tokenizer)
    assert truncation.is_damaged(ids[:-1], text, tokenizer)
    assert truncation.is_damaged([*ids[:-3], ids[-1]], text, tokenizer)
