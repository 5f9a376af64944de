"""Shared character windows between records and exams; the facts about the real exams."""

import pytest
from exam_fixtures import YEARS, data_dir, needs_data, question
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.data import contamination
from jmedlora_utils.data.igakuqa import load_igakuqa
from jmedlora_utils.data.jjsimqa import load_jjsimqa

LETTERS = st.text("abあ亜", max_size=25)
DOCUMENTS = st.lists(st.lists(LETTERS, min_size=1, max_size=3), max_size=6)
STEM = "ゾルミン病の患者に対してカリプトンを投与するときに注意すべき副作用はどれか。"


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


SHORT = "ゾルミン病の治療薬はどれか。"
DISGUISED = STEM.replace("カリプトン", "ｶﾘﾌﾟﾄﾝ").replace("投与", "投\u3000\n与")


@pytest.mark.parametrize(
    ("stem", "copied", "at_13", "enforced"),
    [
        (STEM, record(DISGUISED), True, True),  # whatever its width and blanks
        (STEM, record(STEM[:20] + "何を調べますか?"), True, False),  # thirteen shared characters are reported only
        (SHORT, record(f"次の問いに答えよ。{SHORT}"), True, True),  # a whole stem that is shorter than the window
        (STEM, record(STEM[:25], STEM[25:]), True, False),  # no window crosses from question to answer
    ],
)
def test_what_is_copied_from_an_exam_is_reported_or_enforced(stem, copied, at_13, enforced):
    records = [copied, record("別の質問", id="r2")]
    report = contamination.check(records, {"invented": [question(text=stem)]})
    assert [report.contaminated(13), report.contaminated(30)] == [{"r1"} if at_13 else set(), {"r1"} if enforced else set()]
    assert report.contaminated() == report.contaminated(30) and report.overlaps[0].question == "1"
    table = report.table().set_index("window")[["records", "questions"]]
    assert table.loc[13].tolist() == [at_13, at_13] and table.loc[30, "records"] == enforced
    kept, dropped = contamination.enforce(records, report)
    assert [[r["id"] for r in part] for part in (kept, dropped)] == ([["r2"], ["r1"]] if enforced else [["r1", "r2"], []])


@pytest.fixture(scope="module")
def real():
    return load_igakuqa(data_dir(), YEARS), load_jjsimqa(data_dir())


@needs_data
def test_a_leaked_question_is_found(real):
    leak = real[0][100]
    report = contamination.check([record(leak.text, leak.choices[0])], {"igakuqa": real[0], "jjsimqa": real[1]})
    assert report.contaminated() == {"r1"}
    assert leak.id in report.touched["igakuqa", 30] and report.touched["jjsimqa", 30] == set()


@needs_data
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


@needs_data
def test_no_stem_window_of_30_shared_with_jjsimqa(real):
    """Between stems there is none; the one shared choice is an English term."""
    igakuqa, jjsimqa = real
    stems = contamination.shared_windows([[q.text] for q in igakuqa], [[q.text] for q in jjsimqa], 30)
    assert stems.windows == {}
    whole = contamination.shared_windows([[q.text, *q.choices] for q in igakuqa], [[q.text, *q.choices] for q in jjsimqa], 30)
    assert [igakuqa[i].id for i in whole.windows] == ["115A4"]
    assert contamination.shared_windows([[q.text] for q in igakuqa], [[q.text] for q in jjsimqa], 13).windows
