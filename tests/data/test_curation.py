"""Filters, duplicates and the split of generated records."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.curation import CurationSettings, filter_records, normalise, split_by_article, write_split


def record(instruction, output="眠気が現れることがあります。", article="a", id="1"):
    return {"id": id, "instruction": instruction, "input": "", "output": output, "article": article, "facts": []}


@pytest.mark.parametrize(
    ("instruction", "output", "reason"),
    [
        ("副作用は何ですか?", "A", "too short"),
        ("副作用は何ですか?", "あ" * 1001, "too long"),
        ("副作用は何ですか?", "眠気\n頭痛です。", "line break or control character"),
        ("副作用は何ですか?", "\x08eta です。", "line break or control character"),
        ("副作用は何ですか?", "可能出现头痛。", "not ja"),
        ("Which side effect?", "Drowsiness.", "not ja"),
    ],
)
def test_each_unfit_record_has_its_reason(instruction, output, reason):
    result = filter_records([record(instruction, output)], "ja", CurationSettings())
    assert Counter(r["reason"] for r in result.dropped) == {reason: 1}


@pytest.mark.parametrize("output", ["頰粘膜の剝離です。", "EGFR 阻害薬です。", "高血圧、糖尿病", "\ufa11山らの報告です。"])
def test_japanese_medical_answers_pass(output):
    result = filter_records([record("何が起こりますか?", output)], "ja", CurationSettings())
    assert result.dropped == []
    assert result.kept[0]["output"] == output


def test_exact_and_near_duplicates_are_told_apart_and_the_first_stays():
    long = "カリプトンの主な副作用について、頻度の高いものから順に三つ挙げて説明してください。"
    records = [
        record(long, id="1"),
        record(long, id="2"),
        record(long.replace("、", " , "), id="3"),
        record(long.replace("三つ", "3つ"), id="4"),
        record("カリプトンの禁忌は何ですか?", id="5"),
    ]
    result = filter_records(records, "ja", CurationSettings(near=0.8))
    assert [r["id"] for r in result.kept] == ["1", "5"]
    assert [(r["id"], r["reason"]) for r in result.dropped] == [("2", "exact duplicate"), ("3", "near duplicate"), ("4", "near duplicate")]
    assert [r["id"] for r in filter_records(records, "ja", CurationSettings(near=1.0)).kept] == ["1", "4", "5"]


@given(st.lists(st.text("あいう", min_size=2, max_size=12), max_size=12), st.sampled_from([0.5, 0.7, 0.9]))
def test_near_duplicates_equal_the_comparison_of_all_pairs(texts, near):
    def grams(text):
        joined = f"{normalise(text)}\n{normalise('眠気です。')}"
        return {joined[i : i + 5] for i in range(max(len(joined) - 4, 1))}

    kept = []
    for text in texts:
        if all(text != other and len(grams(text) & grams(other)) < near * len(grams(text) | grams(other)) for other in kept):
            kept.append(text)
    found = filter_records([record(t, "眠気です。") for t in texts], "ja", CurationSettings(near=near))
    assert [r["instruction"] for r in found.kept] == kept


@pytest.mark.parametrize(
    ("change", "name"),
    [({"min_chars": 0}, "min_chars"), ({"near": 0.0}, "near"), ({"max_chars": 1}, "max_chars"), ({"heldout_share": 1.0}, "heldout")],
)
def test_settings_out_of_range_name_the_parameter(change, name):
    with pytest.raises(JmedloraError, match=f"parameters: .*{name}"):
        CurationSettings.read(change, "parameters")


def test_the_split_is_seeded_by_article_and_saved(tmp_path):
    def split(records, seed=1):
        return split_by_article(records, CurationSettings(heldout_share=0.2, seed=seed))

    records = [record(f"{a}の質問{i}", article=a, id=f"{a}{i}") for a in "abcdefghij" for i in range(3)]
    train, heldout = split(records)
    assert len({r["article"] for r in heldout}) == 2
    assert not {r["article"] for r in heldout} & {r["article"] for r in train}
    assert sorted(r["id"] for r in train + heldout) == sorted(r["id"] for r in records)
    assert split(records[::-1])[1] == heldout[::-1]
    assert any(split(records, seed)[1] != heldout for seed in range(2, 8))
    paths = write_split(tmp_path, train, heldout, seed=1)
    assert [p.name for p in paths] == ["train.jsonl", "heldout.jsonl", "split.json"]
    saved = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))
    assert saved["heldout"] == sorted({r["article"] for r in heldout})


def test_a_split_that_leaves_a_side_empty_is_refused():
    records = [record("質問", article="a")]
    assert split_by_article(records, CurationSettings(heldout_share=0.0)) == (records, [])
    with pytest.raises(JmedloraError, match="heldout_share"):
        split_by_article(records, CurationSettings(heldout_share=0.5))
