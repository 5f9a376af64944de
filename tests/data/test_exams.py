"""The schema, the loaders, and every known erratum."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from exam_fixtures import YEARS, about, data_dir, needs_data, question, raw, write_lines, write_year
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import exams
from jmedlora_utils.data.exams import load_igakuqa, number_through_mask, number_to_select, read_exam, write_exam

LINE = {"id": "1", "exam": "x", "language": "ja", "text": "どれか。", "choices": ["あ", "い"], "gold": ["a"]}


# --- schema -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_is_read_again(tmp_path_factory, data):
    text = st.text(min_size=1, max_size=20).filter(lambda t: exams.is_text(t) and not any(0xD800 <= ord(c) < 0xE000 for c in t))
    choices = tuple(data.draw(st.lists(text, min_size=2, max_size=10)))
    letters = exams.LETTERS[: len(choices)]
    drawn = question(
        text=data.draw(text),
        choices=choices,
        gold=frozenset(data.draw(st.sets(st.sampled_from(letters), min_size=1))),
        prohibited=frozenset(data.draw(st.sets(st.sampled_from(letters)))),
        year=data.draw(st.none() | st.integers(1990, 2030)),
        n_select=data.draw(st.integers(1, len(choices))),
        points=data.draw(st.sampled_from([0.0, 1.0, 3.0])),
        student_accuracy=data.draw(st.none() | st.floats(0, 1)),
    )
    number = question(id="2", rule="number", choices=(), gold=frozenset(), number="7.20")
    path = write_exam(tmp_path_factory.mktemp("exam") / "e.jsonl", [drawn, number])
    assert read_exam(path)[0] == drawn
    assert read_exam(path)[1].number == "7.20"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": ["c"]}, "gold letter 'c' is beyond the 2 choices"),
        ({"gold": []}, "'gold' is empty"),
        ({"prohibited": ["z"]}, "prohibited letter 'z'"),
        ({"choices": ["あ", "\u3000"]}, "choice 'b' is blank"),
        ({"choices": ["あ"]}, "1 choices"),
        ({"choices": "あい"}, "'choices' is 'あい', expected list"),
        ({"choices": ["あ", 2]}, "holds 2"),
        ({"text": " \u3000"}, "'text' is blank"),
        ({"language": "de"}, "'language' is 'de'"),
        ({"rule": "some"}, "'rule' is 'some'"),
        ({"rule": "number"}, "'number' question has no choices"),
        ({"number": "3"}, "only for questions with the rule 'number'"),
        ({"points": True}, "'points' is True"),
        ({"points": -1}, "cannot be negative"),
        ({"n_select": 3}, "'n_select' is 3"),
        ({"breakdown": [0.5]}, "1 shares for 2 choices"),
        ({"student_accuracy": 61}, "shares run from 0 to 1"),
        ({"answers": ["a"]}, "unknown field 'answers'"),
        ({"chioces": []}, "did you mean 'choices'"),
    ],
)
def test_a_line_that_does_not_fit_names_file_line_and_field(tmp_path, change, message):
    path = write_lines(tmp_path / "e.jsonl", [LINE, LINE | {"id": "2"} | change])
    with pytest.raises(JmedloraError, match=message) as caught:
        read_exam(path)
    assert f"{path}:2" in str(caught.value)


@pytest.mark.parametrize("name", ["id", "exam", "language", "text", "choices", "gold"])
def test_a_missing_field_is_named(tmp_path, name):
    path = write_lines(tmp_path / "e.jsonl", [{k: v for k, v in LINE.items() if k != name}])
    with pytest.raises(JmedloraError, match=f":1: field '{name}' is missing"):
        read_exam(path)


def test_broken_json_double_ids_and_empty_files_are_refused(tmp_path):
    path = write_lines(tmp_path / "e.jsonl", [LINE])
    path.write_text(path.read_text(encoding="utf-8") + '{"id": "2",\n', encoding="utf-8")
    with pytest.raises(JmedloraError, match=r"e\.jsonl:2: not valid JSON"):
        read_exam(path)
    with pytest.raises(JmedloraError, match=r"e\.jsonl:2: id '1' is already used at .*e\.jsonl:1"):
        read_exam(write_lines(tmp_path / "e.jsonl", [LINE, LINE]))
    with pytest.raises(JmedloraError, match="no question in the file"):
        read_exam(write_lines(tmp_path / "e.jsonl", []))
    with pytest.raises(JmedloraError, match="no such file"):
        read_exam(tmp_path / "absent.jsonl")
    with pytest.raises(JmedloraError, match="already used"):
        write_exam(tmp_path / "e.jsonl", [question(), question()])


# --- errata, on invented questions of the same shape --------------------------------------------------------------


def one(tmp_path, row, block="A", **metadata):
    write_year(tmp_path, 2018, 112, {block: [row]}, **{row["problem_id"]: metadata})
    return load_igakuqa(tmp_path, [2018])[0]


def test_trap_01_files_are_joined_by_id_not_by_line(tmp_path):
    folder = write_year(tmp_path, 2018, 112, {"A": [raw("112A1"), raw("112A2")]})
    write_lines(folder / "112-A_metadata.jsonl", [about("112A2", category="眼科"), about("112A1", category="神経")])
    assert [q.category for q in load_igakuqa(tmp_path, [2018])] == ["神経", "眼科"]
    write_lines(folder / "112-A_metadata.jsonl", [about("112A2")])
    with pytest.raises(JmedloraError, match="112A1 has no line in 112-A_metadata"):
        load_igakuqa(tmp_path, [2018])


def test_trap_02_no_file_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(JmedloraError, match=r"IgakuQA/data/2018: no question file"):
        load_igakuqa(tmp_path, [2018])
    with pytest.raises(JmedloraError, match=r"jjsimqa\.jsonl: no such file"):
        exams.load_jjsimqa(tmp_path)
    with pytest.raises(JmedloraError, match="no answers of gpt4"):
        exams.load_published(tmp_path, [2018], "gpt4")
    with pytest.raises(JmedloraError, match="no published system 'gpt5'"):
        exams.load_published(tmp_path, [2018], "gpt5")


@pytest.mark.parametrize(
    ("stem", "asked"),
    [
        ("正しいのはどれか。", 1),
        ("正しいのはどれか。2つ選べ。", 2),
        ("正しいものはどれか．２つ選べ．", 2),
        ("正しいのは\nどれ か. 3 つ 選べ.", 3),
        ("第一選択薬でないのはどれか。", 1),
        ("次の5つの選択肢のうち正しいものを 1つ選べ.", 1),
    ],
)
def test_trap_05_number_to_choose_comes_from_the_stem(stem, asked):
    assert number_to_select(stem) == asked


def test_trap_05_gold_does_not_change_the_number_to_choose(tmp_path):
    assert one(tmp_path, raw("112A1", answer=["a", "b"])).n_select == 1


def test_trap_06_special_items_are_keyed_by_exam_and_id(tmp_path):
    assert one(tmp_path, raw("116A71", answer=["e"])).rule == "always"
    write_lines(tmp_path / "JJSIMQA" / "jjsimqa.jsonl", [raw("116A71", points=1.0)])
    assert exams.load_jjsimqa(tmp_path)[0].rule == "all"


def test_erratum_a_or_d_is_either(tmp_path):
    found = one(tmp_path, raw("112B30", answer=["a or d"]), block="B")
    assert (found.rule, found.gold, found.right_letters()) == ("any", frozenset("ad"), ("a",))


@pytest.mark.parametrize(
    ("gold", "mask", "number"),
    [
        ("26", "解答：①②Torr", "26"),
        ("1.2", "解答：①.②", "1.2"),
        ("7.20", "解答：①.②③", "7.20"),
        ("100", "解答：①②.③/人口1,000対", "10.0"),
        ("130", "解答：1, ①②③ kcal", "1130"),
        ("21", "解答：①．②", "2.1"),
        ("04", "解答： ①.②", "0.4"),
        ("８５", "解答：①.②", "8.5"),
        ("42", "何人か。", "42"),
    ],
)
def test_trap_07_numbers_are_read_through_the_mask(tmp_path, gold, mask, number):
    assert number_through_mask(gold, f"計算せよ。{mask}", "here") == number
    found = one(tmp_path, raw("112C66", choices=[], answer=[gold], problem_text=f"計算せよ。{mask}"), block="C", breakdown=[])
    assert (found.rule, found.number, found.gold) == ("number", number, frozenset())


def test_trap_07_digits_that_do_not_fill_the_mask_are_kept_with_a_notice(tmp_path, capsys):
    found = one(tmp_path, raw("112C66", choices=[], answer=["123"], problem_text="解答：①②Torr"), block="C", breakdown=[])
    assert found.number == "123"
    assert "112C66: gold '123' does not fill the answer mask" in capsys.readouterr().out


def test_erratum_prohibited_letter_of_no_choice_is_left_out_with_a_notice(tmp_path, capsys):
    assert one(tmp_path, raw("112A1"), kinki=["e", "h"]).prohibited == frozenset("e")
    assert "112-A.jsonl:1: prohibited h is no letter of a choice" in capsys.readouterr().out


def test_trap_08_blank_choices_of_every_script_stand_for_their_letter(tmp_path):
    found = one(tmp_path, raw("114C11", choices=["\u3000", "\u00a0", " ", "\u3000", "ｅ"]), block="C")
    assert found.choices == ("ａ", "ｂ", "ｃ", "ｄ", "ｅ")


def test_trap_09_malformed_gold_is_refused(tmp_path):
    with pytest.raises(JmedloraError, match=r"112-A\.jsonl:1: gold letter"):
        one(tmp_path, raw("112A1", answer=["NA"]))


@pytest.mark.parametrize("kinki", [["cde"], ["c", " d", "e "], ["ｃ", "D", "e"], ["c", "de"]])
def test_erratum_prohibited_choices_in_any_spelling(tmp_path, kinki):
    assert one(tmp_path, raw("112A27"), kinki=kinki).prohibited == frozenset("cde")


def test_erratum_full_width_prohibited_letters_are_listed(tmp_path):
    write_year(tmp_path, 2018, 112, {"A": [raw("112A1"), raw("112A2")]}, **{"112A1": {"kinki": ["ｂ"]}, "112A2": {"kinki": ["de"]}})
    assert exams.misprinted_prohibited(tmp_path, 2018) == {"112A1"}


def test_erratum_withdrawn_item_stays_with_no_points(tmp_path):
    assert one(tmp_path, raw("112A43", points="0"), human_accuracy="", breakdown=[]).points == 0
    with pytest.raises(JmedloraError, match="points 'three' is no number"):
        one(tmp_path, raw("112A43", points="three"))


def test_erratum_misprinted_shares_are_left_out_and_listed(tmp_path):
    found = one(tmp_path, raw("113A14"), breakdown=["98.0", "500.3", "13.5", "1.8", "36.4"])
    assert found.breakdown == ()
    assert [r["erratum"] for r in exams.errata([found])] == ["students' shares misprinted"]


def test_erratum_stray_comma_in_jjsimqa_gold(tmp_path):
    row = raw("107_888-26", answer=["d", ",", "e"], problem_text="正しいものはどれか．２つ選べ．", points=1.0)
    write_lines(tmp_path / "JJSIMQA" / "jjsimqa.jsonl", [row])
    found = exams.load_jjsimqa(tmp_path)[0]
    assert (found.gold, found.n_select, found.section) == (frozenset("de"), 2, "107")


def test_erratum_ambiguous_jjsimqa_item_is_left_out_and_counted(tmp_path):
    row = raw("107_64-4", answer=["a", "b", "c", "d"], problem_text="正しいのはどれか.1つ選べ.", points=1.0)
    write_lines(tmp_path / "JJSIMQA" / "jjsimqa.jsonl", [row])
    found = exams.load_jjsimqa(tmp_path)
    assert (found[0].n_select, found[0].gold) == (1, frozenset("abcd"))
    kept, counts = exams.select_text_five(found)
    assert kept == []
    assert counts["ambiguous gold"] == 1


def test_exclusions_are_counted_by_the_first_reason():
    asked = question()
    others = [
        question(id="2", text_only=False, choices=("あ", "い")),
        question(id="3", choices=("あ", "い", "う")),
        question(id="4", rule="number", choices=(), gold=frozenset(), number="1"),
    ]
    assert exams.select_text_five([asked, *others]) == ([asked], {"image": 1, "free number": 1, "not five choices": 1, "ambiguous gold": 0})


def test_another_year_needs_no_change_of_code(tmp_path, capsys):
    folder = write_year(tmp_path, 2031, 125, {"A": [raw("125A1")], "B": [raw("125B1", points="3")]})
    found = load_igakuqa(tmp_path, [2031])
    assert [(q.id, q.year, q.section, q.points) for q in found] == [("125A1", 2031, "A", 1), ("125B1", 2031, "B", 3)]
    (folder / "125-A_metadata.jsonl").unlink()
    assert load_igakuqa(tmp_path, [2031])[0].prohibited == frozenset()
    assert "125-A.jsonl has no _metadata" in capsys.readouterr().out


def test_english_takes_stem_and_choices_only(tmp_path):
    folder = write_year(tmp_path, 2018, 112, {"A": [raw("112A1", problem_text="どれか。2つ選べ。", answer=["a", "b"])]})
    line = {"problem_id": "112A1", "problem_text_en": "Which?", "choices_en": ["A, B", "C", "D", "E", "F"], "answer": ["a", "b"]}
    write_lines(folder / "112-A_translate.jsonl", [line])
    found = load_igakuqa(tmp_path, [2018], "en")[0]
    assert (found.text, found.choices[0], found.n_select, found.language) == ("Which?", "A, B", 2, "en")
    with pytest.raises(JmedloraError, match="language 'fr'"):
        load_igakuqa(tmp_path, [2018], "fr")


# --- the published files ------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("year", "points", "text_only", "text_five", "image", "blocks", "prohibited"),
    [
        (2018, 499, 286, 284, 114, [75, 49, 66, 75, 51, 84], 32),
        (2019, 496, 296, 292, 104, [75, 49, 66, 75, 51, 84], 34),
        (2020, 496, 287, 284, 113, [75, 50, 75, 75, 50, 75], 22),
        (2021, 500, 301, 298, 99, [75, 50, 75, 75, 50, 75], 22),
    ],
)
@pytest.mark.parametrize("language", ["ja", "en"])
def test_counts_of_the_national_examination(language, year, points, text_only, text_five, image, blocks, prohibited):
    questions = load_igakuqa(data_dir(), [year], language)
    found = exams.summary(questions)
    assert found["items"] == 400
    assert (found["points"], found["text_only"], found["text_five"], found["image"]) == (points, text_only, text_five, image)
    assert [n for _, n in sorted(Counter(q.section for q in questions).items())] == blocks
    assert found["prohibited"] == prohibited


@needs_data
def test_counts_of_all_years_and_errata_by_id():
    questions = load_igakuqa(data_dir(), YEARS)
    kept, counts = exams.select_text_five(questions)
    assert len(kept) == 1158
    assert counts == {"image": 430, "free number": 9, "not five choices": 3, "ambiguous gold": 0}
    assert [q.id for q in questions if q.points == 0] == ["112A43", "113A5", "113C34", "113F42", "113F81", "114E29", "114F63"]
    numbers = {q.id: q.number for q in questions if q.rule == "number"}
    known = {"112C66": "26", "112F84": "1.2", "113A75": "146", "113F84": "7.20", "114C75": "10.0"}
    assert numbers == known | {"114D75": "97", "114F75": "1130", "115C75": "27", "115F75": "8.5"}
    assert {q.id: len(q.choices) for q in questions if len(q.choices) > 5} == {"113C66": 6, "113F83": 8, "115D75": 8}
    assert [q.id for q in questions if q.rule == "any"] == ["112B30"]
    assert all(q.n_select == len(q.gold) for q in questions if q.rule == "all")


@needs_data
def test_counts_of_jjsimqa():
    questions = exams.load_jjsimqa(data_dir())
    assert Counter(q.section for q in questions) == {"107": 91, "108": 98, "109": 101, "110": 102, "111": 68}
    assert Counter(len(q.gold) for q in questions) == {1: 253, 2: 206, 4: 1}
    assert len({q.text for q in questions}) == 458
    assert [q.id for q in questions if len(q.gold) != q.n_select] == ["107_64-4"]
    assert [q.id for q in questions if len(set(q.choices)) < 5] == ["107_1514-57", "109_2149-269"]


@needs_data
@pytest.mark.parametrize("language", ["ja", "en"])
def test_trap_10_worked_examples_are_no_test_questions(language):
    shots = exams.load_worked_examples(data_dir(), language)
    assert [(q.id, sorted(q.gold), q.n_select) for q in shots] == [("100E5", ["e"], 1), ("100A60", ["a", "b"], 2), ("100A1", ["c"], 1)]
    tests = load_igakuqa(data_dir(), YEARS, language)
    assert not {q.id for q in shots} & {q.id for q in tests}
    assert not {q.text for q in shots} & {q.text for q in tests}


@needs_data
def test_every_published_exam_fits_the_schema_on_disk(tmp_path):
    for name, questions in (("ja", load_igakuqa(data_dir(), YEARS)), ("jj", exams.load_jjsimqa(data_dir()))):
        path = write_exam(tmp_path / f"{name}.jsonl", questions)
        assert read_exam(path) == questions
        assert len(json.loads(path.read_text(encoding="utf-8").split("\n")[0])) == len(exams._TYPES)
