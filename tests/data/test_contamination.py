"""Shared character windows between records and exams; the facts about the real exams."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.data import contamination
from jmedlora_utils.data.igakuqa import load_igakuqa
from jmedlora_utils.data.jjsimqa import load_jjsimqa
from jmedlora_utils.data.questions import Question

LETTERS = st.text("abあ亜", max_size=25)
DOCUMENTS = st.lists(st.lists(LETTERS, min_size=1, max_size=3), max_size=6)
STEM = "ゾルミン病の患者に対してカリプトンを投与するときに注意すべき副作用はどれか。"


def question(text: str, choices: tuple[str, ...] = ("甲", "乙", "丙", "丁", "戊"), id: str = "1") -> Question:
    return Question(id, "invented", "ja", text, choices, frozenset("a"))


def record(instruction: str, output: str = "眠気です。", id: str = "r1") -> dict:
    return {"id": id, "instruction": instruction, "input": "", "output": output}


@given(DOCUMENTS, DOCUMENTS, st.integers(1, 6))
@settings(max_examples=60)
def test_a_window_is_shared_where_a_text_search_finds_it(documents, indexed, n):
    found = contamination.shared_windows(documents, indexed, n)

    def holds(document, window):
        return any(window in text for text in document)

    for i, document in enumerate(documents):
        windows = [text[k : k + n] for text in document for k in range(len(text) - n + 1)]
        shared = [w for w in windows if any(holds(d, w) for d in indexed)]
        assert found.windows.get(i, 0) == len(shared)
        assert not shared or found.example[i] == next(j for j, d in enumerate(indexed) if holds(d, shared[0]))
    assert found.touched >= set(found.example.values())


@given(DOCUMENTS, DOCUMENTS)
def test_whole_short_stems_equal_plain_search(documents, indexed):
    found = contamination.shared_windows(documents, indexed, 9, short=4)
    whole = {j for j, (stem, *_) in enumerate(indexed) if 4 <= len(stem) < 9 and any(stem in text for d in documents for text in d)}
    assert found.touched == contamination.shared_windows(documents, indexed, 9).touched | whole


def test_a_copied_stem_is_enforced_whatever_its_width_and_blanks():
    disguised = STEM.replace("カリプトン", "ｶﾘﾌﾟﾄﾝ").replace("病", "病\u3000\n")
    report = contamination.check([record(disguised), record("ゾルミン病とは何ですか?", id="r2")], {"invented": [question(STEM)]})
    assert report.contaminated() == {"r1"}
    assert report.overlaps[0].question == "1"
    kept, dropped = contamination.enforce([record(disguised), record("別の質問", id="r2")], report)
    assert [r["id"] for r in kept] == ["r2"]
    assert [r["id"] for r in dropped] == ["r1"]


def test_thirteen_shared_characters_are_reported_but_not_enforced():
    report = contamination.check([record(STEM[:20] + "何を調べますか?")], {"invented": [question(STEM)]})
    assert report.contaminated(13) == {"r1"}
    assert report.contaminated(30) == set()
    table = report.table().set_index("window")
    assert table.loc[13, ["records", "questions"]].tolist() == [1, 1]
    assert table.loc[30, ["records", "questions"]].tolist() == [0, 0]


def test_a_whole_stem_shorter_than_the_window_is_enforced():
    stem = "ゾルミン病の治療薬はどれか。"
    assert 13 <= len(stem) < 30
    report = contamination.check([record(f"次の問いに答えよ。{stem}")], {"invented": [question(stem)]})
    assert report.contaminated() == {"r1"}


def test_windows_do_not_cross_from_question_to_answer():
    report = contamination.check([record(STEM[:25], STEM[25:])], {"invented": [question(STEM)]})
    assert report.contaminated() == set()


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("JMEDLORA_DATA")
    if not folder:
        pytest.skip("JMEDLORA_DATA names no folder with IgakuQA and JJSIMQA")
    years = sorted(int(p.name) for p in (Path(folder) / "IgakuQA" / "data").iterdir() if p.name.isdigit())
    return load_igakuqa(folder, years), load_jjsimqa(folder)


def test_a_leaked_question_is_found(real):
    leak = real[0][100]
    report = contamination.check([record(leak.text, leak.choices[0])], {"igakuqa": real[0], "jjsimqa": real[1]})
    assert report.contaminated() == {"r1"}
    assert leak.id in report.touched["igakuqa", 30]
    assert report.touched["jjsimqa", 30] == set()


def test_identical_stems_across_igakuqa_years(real):
    """Seven over 2018-2022; five of them lie within 2018-2021."""
    stems: dict[str, list[str]] = {}
    for q in real[0]:
        stems.setdefault(contamination.normalise(q.text), []).append(q.id)
    groups = [ids for ids in stems.values() if len(ids) > 1]
    within = [g for g in groups if not any(i.startswith("116") for i in g)]
    assert within == [["112B20", "113E1"], ["112C15", "115C1"], ["112F33", "115C8"], ["114E17", "115B6"], ["114F14", "115C7"]]
    if any(q.year == 2022 for q in real[0]):
        assert len(groups) == 7


def test_no_stem_window_of_30_shared_with_jjsimqa(real):
    """Between stems there is none; the one shared choice is an English term."""
    igakuqa, jjsimqa = real
    stems = contamination.shared_windows([[q.text] for q in igakuqa], [[q.text] for q in jjsimqa], 30)
    assert stems.windows == {}
    whole = contamination.shared_windows([[q.text, *q.choices] for q in igakuqa], [[q.text, *q.choices] for q in jjsimqa], 30)
    assert [igakuqa[i].id for i in whole.windows] == ["115A4"]
    assert contamination.shared_windows([[q.text] for q in igakuqa], [[q.text] for q in jjsimqa], 13).windows
