"""The schema of a question, its files, and which questions are asked of a text model."""

import pytest
from exam_fixtures import question, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.questions import LETTERS, number_through_mask, number_to_select, read_exam, select_text_five, write_exam

LINE = {"id": "1", "exam": "x", "language": "ja", "text": "どれか。", "choices": ["あ", "い"], "gold": ["a"]}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_is_written_is_read_again(tmp_path_factory, data):
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
    choices = tuple(data.draw(st.lists(text, min_size=2, max_size=10, unique=True)))
    letters = st.sampled_from(LETTERS[: len(choices)])
    drawn = question(
        text=data.draw(text),
        choices=choices,
        gold=frozenset(data.draw(st.sets(letters, min_size=1))),
        prohibited=frozenset(data.draw(st.sets(letters))),
        prohibited_published=data.draw(st.booleans()),
        year=data.draw(st.none() | st.integers(1990, 2030)),
        edition=data.draw(st.none() | st.integers(100, 130)),
        required=data.draw(st.none() | st.booleans()),
        n_select=data.draw(st.integers(1, len(choices))),
        points=data.draw(st.sampled_from([0.0, 1.0, 3.0])),
        student_accuracy=data.draw(st.none() | st.floats(0, 1)),
    )
    number = question(id="2", rule="number", choices=(), gold=frozenset(), number="7.20")
    path = write_exam(tmp_path_factory.mktemp("exam") / "e.jsonl", [drawn, number])
    assert read_exam(path) == [drawn, number]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": ["c"]}, "gold letter 'c' is not one of the 2 choices"),
        ({"gold": []}, "'gold' is empty"),
        ({"gold": "a"}, "'gold'"),
        ({"prohibited": ["z"]}, "prohibited letter 'z'"),
        ({"choices": ["あ", "\u3000"]}, r"'choices\.1'"),
        ({"choices": ["あ"]}, "'choices' has 1"),
        ({"choices": "あい"}, "'choices'"),
        ({"choices": ["あ", "あ"]}, "choice 'あ' stands twice"),
        ({"text": " \u3000"}, "'text'"),
        ({"rule": "some"}, "'rule': .*'some'"),
        ({"rule": "number"}, "'number' question has no choices"),
        ({"number": "3"}, "only for questions with the rule 'number'"),
        ({"points": -1}, "'points': .*-1"),
        ({"n_select": 3}, "'n_select' is 3"),
        ({"breakdown": [0.5]}, "1 shares for 2 choices"),
        ({"student_accuracy": 61}, "'student_accuracy': .*61"),
        ({"id": "1"}, r"id '1' is already used at .*e\.jsonl:1"),
        ({"chioces": []}, "did you mean 'choices'"),
        ({"language": ...}, "field 'language' is missing"),
    ],
)
def test_a_line_that_does_not_fit_names_file_line_and_field(tmp_path, change, message):
    line = {name: value for name, value in (LINE | {"id": "2"} | change).items() if value is not ...}
    path = write_lines(tmp_path / "e.jsonl", [LINE, line])
    with pytest.raises(JmedloraError, match=rf"e\.jsonl:2: .*{message}"):
        read_exam(path)


def test_broken_and_empty_files_are_refused(tmp_path):
    path = tmp_path / "e.jsonl"
    for content, message in (('{"id": "2",\n', r":1: not valid JSON"), ("", "no question in the file"), (None, "no such file")):
        path.write_text(content, encoding="utf-8") if content is not None else path.unlink()
        with pytest.raises(JmedloraError, match=message):
            read_exam(path)
    with pytest.raises(JmedloraError, match="already used"):
        write_exam(path, [question(), question()])


@pytest.mark.parametrize(
    ("stem", "asked"),
    [
        ("正しいものはどれか．２つ選べ．", 2),
        ("正しいのは\nどれ か. 3 つ 選べ.", 3),
        ("第一選択薬でないのはどれか。", 1),
        ("次の5つの選択肢のうち正しいものを 1つ選べ.", 1),
    ],
)
def test_the_number_to_choose_comes_from_the_stem(stem, asked):
    assert number_to_select(stem) == asked


@pytest.mark.parametrize(
    ("gold", "mask", "number"),
    [
        ("26", "解答：①②Torr", "26"),
        ("7.20", "解答：①.②③", "7.20"),
        ("130", "解答：1, ①②③ kcal", "1130"),
        ("21", "解答：①．②", "2.1"),
        ("04", "解答： ①.②", "0.4"),
        ("８５", "解答：①.②", "8.5"),
        ("42", "何人か。", "42"),
    ],
)
def test_numbers_are_read_through_the_mask_of_the_stem(gold, mask, number):
    assert number_through_mask(gold, f"計算せよ。{mask}", "here") == number


def test_digits_that_do_not_fill_the_mask_are_kept_with_a_notice(capsys):
    assert number_through_mask("123", "解答：①②Torr", "112-C.jsonl:1: 112C66") == "123"
    assert "112C66: gold '123' does not fill the answer mask" in capsys.readouterr().out


def test_exclusions_are_counted_by_the_first_reason():
    asked = question()
    others = [
        question(id="2", text_only=False, choices=("あ", "い")),
        question(id="3", choices=("あ", "い", "う")),
        question(id="4", rule="number", choices=(), gold=frozenset(), number="1"),
    ]
    counts = {"image": 1, "free number": 1, "not five choices": 1, "ambiguous gold": 0, "misread": 0}
    assert select_text_five([asked, *others]) == ([asked], counts)
