"""The 119th and 120th examinations: choices apart from stems, points, slips that are listed, and keys that can be corrected."""

import json
from collections import Counter

import pytest
from exam_fixtures import data_dir, needs_data, needs_recent_data

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import exam_files, fetch
from jmedlora_utils.data.igakuqa import place_of
from jmedlora_utils.data.igakuqa119 import SLIPS, load_igakuqa119
from jmedlora_utils.data.jmle2026 import load_jmle2026
from jmedlora_utils.data.questions import exclusion, read_exam, write_exam
from jmedlora_utils.evaluation import exam_prompts
from jmedlora_utils.models import planner

FIVE = [f"{letter}. {text}" for letter, text in zip("abcde", ("肺炎", "気胸", "肺癌", "肝炎", "胃炎"), strict=True)]


def jmle(name="120A-1", text="1　正しいのはどれか。\n\na　肺炎\nb　気　胸\nc　肺癌\nｄ　肝炎\ne　胃炎", **change):
    row = {"question_id": name, "question_text": text, "question_type": "multiple_choice", "requires_image": False}
    return row | {"num_choices_to_select": 1, "answer": ["b"]} | change


def write_jmle(folder, *rows):
    file = folder / "JMLE2026-Bench" / "jmle2026_dataset.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def read119(number, question="診断はどれか。", choices=FIVE, image=False):
    return {"number": number, "question": question, "choices": choices, "has_image": image}


def write119(folder, key, *rows):
    target = folder / "IgakuQA119"
    (target / "questions").mkdir(parents=True, exist_ok=True)
    (target / "results").mkdir(exist_ok=True)
    (target / "questions" / "119A_json.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (target / "results" / "correct_answers.csv").write_text("\ufeff問題番号,解答\n" + key, encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, {"id": "120A1", "text": "正しいのはどれか。", "choices": ("肺炎", "気　胸", "肺癌", "肝炎", "胃炎"), "gold": frozenset("b")}),
        ({"name": "120B-26", "answer": ["a", "c"], "num_choices_to_select": 2}, {"points": 3, "required": True, "n_select": 2}),
        ({"requires_image": True}, {"text_only": False, "prohibited_published": False, "edition": 120, "year": 2026}),
        ({"serial_group": {"context_text": "次の文を読め。"}}, {"text": "次の文を読め。\n正しいのはどれか。"}),
        ({"text": "1　最も高いのはどれか。\n|a|1円|\n|b|2円|\n|c|3円|\n|d|4円|\n|e|5円|"}, {"choices": tuple("ａｂｃｄｅ")}),
        (
            {"text": "1　求めよ。\n解答：①．②③ g\n\n①　②　③\n0　0　0", "question_type": "calculation", "answer": ["0.40"]},
            {"rule": "number", "number": "0.40", "text": "求めよ。\n解答：①．②③ g"},
        ),
    ],
)
def test_a_question_of_the_120th_is_taken_apart(tmp_path, row, expected):
    write_jmle(tmp_path, jmle(**row))
    found = load_jmle2026(tmp_path)[0]
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("key", "row", "expected"),
    [
        ("119A1,ac", read119("119A1", "2つ選べ。"), {"gold": frozenset("ac"), "n_select": 2, "rule": "all", "year": 2025}),
        ("119A1,600", read119("119A1", choices=[]), {"rule": "number", "number": "600"}),
        ("119E28,ac", read119("119E28"), {"rule": "any", "points": 3}),
        (
            "119C19,d",
            read119("119C19", choices=[FIVE[0], "b. 気胸0肺癌", *FIVE[3:]]),
            {"choices": ("肺炎", "気胸0肺癌", "ｃ", "肝炎", "胃炎")},
        ),
        ("119D1,d", read119("119D1", "119D正しいのはどれか。"), {"text": "正しいのはどれか。"}),
        (
            "119E48,e",
            read119("119E48", "薬剤はどれか。 aア bイ Cウ dエ eオ ", []),
            {"text": "薬剤はどれか。", "choices": tuple("アイウエオ")},
        ),
    ],
)
def test_a_question_of_the_119th_is_read_with_its_slips(tmp_path, key, row, expected):
    write119(tmp_path, key, row)
    found = load_igakuqa119(tmp_path)[0]
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("write", "load", "message"),
    [
        (lambda f: None, load_jmle2026, r"jmle2026_dataset\.json: no such file"),
        (lambda f: write_jmle(f).write_text('[{"question_id"'), load_jmle2026, r"jmle2026_dataset\.json:1: not valid JSON"),
        (lambda f: write_jmle(f), load_jmle2026, "no list of questions"),
        (lambda f: write_jmle(f, jmle("120G-1")), load_jmle2026, "question 1: id '120G-1' is not an edition"),
        (lambda f: write_jmle(f, jmle(), jmle("120A1")), load_jmle2026, "question 2: id '120A1' is already used"),
        (lambda f: write_jmle(f, jmle(text="1　どれか。\na　肺炎\nb　気胸")), load_jmle2026, "question 1: choices ab found"),
        (lambda f: write_jmle(f, jmle(answer=["g"])), load_jmle2026, "question 1: gold letter 'g'"),
        (lambda f: write119(f, "119A2,a", read119("119A1")), load_igakuqa119, "119A1 has no line in results/correct_answers"),
        (lambda f: write119(f, "119A1,a", read119("119A1", choices=FIVE[:4])), load_igakuqa119, "119A1 has the choices abcd.*SLIPS"),
    ],
)
def test_a_broken_file_is_named(tmp_path, write, load, message):
    write(tmp_path)
    with pytest.raises(JmedloraError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("id,answer,source\n120A-1,c,notice\n", {"gold": frozenset("c"), "rule": "all"}),
        ("id,answer,source\n120A-1,a or c,notice\n", {"gold": frozenset("ac"), "rule": "any"}),
        ("id,answer,source\n120A-1,always,notice\n", {"rule": "always"}),
        ("id,answer,source\n120A-1,withdrawn,notice\n", {"points": 0.0}),
        ("id,answer,source\n120A-1,z,notice\n", r"key\.csv:2: answer 'z' does not fit question 120A1"),
        ("id,answer,source\n120A9,b,x\n", "'120A9' is no question"),
        ("id,answer\n120A1,b\n", "field 'source'"),
        ("id,answer,source\n120A1,ab or ac,notice\n", r"key\.csv:2: answer 'ab or ac' does not fit question 120A1"),
        ("id,answer,source\n", "no row"),
    ],
)
def test_a_key_is_corrected_by_a_file_that_fits(tmp_path, rows, expected):
    write_jmle(tmp_path, jmle(), jmle("120A-2", "2　どれか。\na　1\nb　2\nc　3\nd　4\ne　5"))
    file = tmp_path / "key.csv"
    file.write_text(rows, encoding="utf-8")
    if isinstance(expected, str):
        with pytest.raises(JmedloraError, match=expected):
            load_jmle2026(tmp_path, file)
    else:
        first, second = load_jmle2026(tmp_path, file)
        assert {name: getattr(first, name) for name in expected} == expected
        assert second.gold == frozenset("b")


CALCULATION = {"text": "1　求めよ。\n解答：①．②③ g\n\n①　②　③\n0　0　0", "question_type": "calculation", "answer": ["0.40"]}
CHOOSE_TWO = {"num_choices_to_select": 2, "answer": ["a", "c"]}


@pytest.mark.parametrize(
    ("row", "answer", "expected"),
    [
        (CALCULATION, "035", "0.35"),
        (CALCULATION, "0.35", "0.35"),
        (CALCULATION, "always", "does not fit"),
        (CHOOSE_TWO, "a or c", "does not fit"),
        (CHOOSE_TWO, "bd", "bd"),
    ],
)
def test_a_corrected_number_is_read_through_its_mask_and_one_letter_is_no_answer_of_two(tmp_path, row, answer, expected):
    write_jmle(tmp_path, jmle(**row))
    (tmp_path / "key.csv").write_text(f"id,answer,source\n120A1,{answer},notice\n", encoding="utf-8")
    if expected == "does not fit":
        with pytest.raises(JmedloraError, match=r"key\.csv:2: answer .* does not fit question 120A1"):
            load_jmle2026(tmp_path, tmp_path / "key.csv")
    else:
        (found,) = load_jmle2026(tmp_path, tmp_path / "key.csv")
        assert expected in (found.number, "".join(sorted(found.gold)))


def test_a_file_of_corrections_is_for_one_exam():
    with pytest.raises(JmedloraError, match="parameter corrections: it corrects one exam"):
        exam_files.collect(paths.Workspace("smoke", 1), ["igakuqa119", "jmle2026"], [], "ja", "error", "key.csv")


def test_points_follow_block_and_number():
    assert [place_of(f"120{place}", "here")["points"] for place in ("A30", "B25", "B26", "E50", "F75")] == [1, 1, 3, 3, 1]


@needs_recent_data
@pytest.mark.parametrize(("exam", "image", "asked", "numbers", "several"), [("igakuqa119", 103, 288, 4, 40), ("jmle2026", 98, 299, 3, 30)])
def test_counts_of_the_published_files(tmp_path, exam, image, asked, numbers, several):
    questions = exam_files.load_published_exam(exam, data_dir())
    assert len(questions) == 400
    assert Counter(q.section for q in questions) == {"A": 75, "B": 50, "C": 75, "D": 75, "E": 50, "F": 75}
    assert [sum(q.points for q in questions if q.required == block) for block in (True, False)] == [200, 300]
    assert [sum(not q.text_only for q in questions), sum(q.rule == "number" for q in questions)] == [image, numbers]
    assert sum(len(q.gold) > 1 for q in questions) == several
    assert sum(exclusion(q) is None for q in questions) == asked == planner.exam_questions(exam)
    assert not any(q.prohibited_published for q in questions)
    assert all(q.n_select == len(q.gold) for q in questions if q.rule == "all")
    assert read_exam(write_exam(tmp_path / "exam.jsonl", questions)) == questions


@needs_recent_data
def test_every_slip_is_listed_with_what_is_done_about_it():
    rows = exam_files.errata(load_igakuqa119(data_dir()))
    assert {row["questions"] for row in rows if row["erratum"].startswith("read by machine")} == set(SLIPS)


@needs_data
@needs_recent_data
@pytest.mark.parametrize("exam", exam_files.RECENT)
def test_both_can_be_asked_without_and_with_a_worked_example(tmp_path, monkeypatch, exam):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    workspace = paths.Workspace("smoke", 1)
    questions, left_out = exam_prompts.load_exam(exam, workspace)
    assert len(questions) + sum(left_out.values()) == 400
    found = exam_files.collect(workspace, [exam], [], "ja", "skip")
    assert [q.id for q in found.shots[exam]] == [q.id for q in exam_prompts.shot_pool(exam, workspace)] == ["100E5", "100A60", "100A1"]
    assert ("not official" in "".join(found.notices)) == (exam == "jmle2026")


def test_asking_does_not_need_the_published_answers():
    names = fetch.source_of("jmle2026").files(answers=False)
    assert names == ["JMLE2026-Bench/jmle2026_dataset.json"]
    assert len(fetch.source_of("jmle2026").files()) == 15 and len(fetch.source_of("igakuqa119").files(answers=False)) == 7
