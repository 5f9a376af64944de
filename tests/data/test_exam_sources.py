"""IgakuQA and JJSIMQA: every known erratum, and the counts of the published files."""

from collections import Counter

import pytest
from exam_fixtures import YEARS, about, data_dir, needs_data, raw, write_lines, write_year

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import exam_files, igakuqa
from jmedlora_utils.data.igakuqa import load_igakuqa, load_worked_examples
from jmedlora_utils.data.jjsimqa import load_jjsimqa
from jmedlora_utils.data.questions import select_text_five


def one(tmp_path, row, block="A", **metadata):
    write_year(tmp_path, 2018, 112, {block: [row]}, **{row["problem_id"]: metadata})
    return load_igakuqa(tmp_path, [2018])[0]


def journal(tmp_path, name, answer, **change):
    write_lines(tmp_path / "JJSIMQA" / "jjsimqa.jsonl", [raw(name, answer=answer, points=1.0, **change)])
    return load_jjsimqa(tmp_path)[0]


def test_a_question_knows_edition_block_number_and_whether_it_must_be_passed(tmp_path):
    folder = write_year(tmp_path, 2031, 125, {"A": [raw("125A1")], "B": [raw("125B12", points="3")]})
    shown = [(q.id, q.year, q.edition, q.section, q.item, q.required, q.points) for q in load_igakuqa(tmp_path, [2031])]
    assert shown == [("125A1", 2031, 125, "A", 1, False, 1), ("125B12", 2031, 125, "B", 12, True, 3)]
    assert load_igakuqa(tmp_path, [2031])[0].prohibited_published
    (folder / "125-A_metadata.jsonl").unlink()
    assert not load_igakuqa(tmp_path, [2031])[0].prohibited_published


def test_files_are_joined_by_id_not_by_line(tmp_path):
    folder = write_year(tmp_path, 2018, 112, {"A": [raw("112A1"), raw("112A2")]})
    write_lines(folder / "112-A_metadata.jsonl", [about("112A2", category="眼科"), about("112A1", category="神経")])
    assert [q.category for q in load_igakuqa(tmp_path, [2018])] == ["神経", "眼科"]
    write_lines(folder / "112-A_metadata.jsonl", [about("112A2")])
    with pytest.raises(JmedloraError, match="112A1 has no line in 112-A_metadata"):
        load_igakuqa(tmp_path, [2018])


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda folder: load_igakuqa(folder, [2018]), r"IgakuQA/data/2018: no question file"),
        (lambda folder: load_igakuqa(folder, [2018], "fr"), "language 'fr'"),
        (lambda folder: load_igakuqa(folder, []), r"parameter years is \[\]; name at least one year"),
        (lambda folder: load_igakuqa(folder, [2018, 2018]), r"parameter years is \[2018, 2018\].*each once"),
        (load_jjsimqa, r"jjsimqa\.jsonl: no such file"),
        (lambda folder: exam_files.load_published_exam("igakuqa118", folder), "no published exam 'igakuqa118'; known: igakuqa, jjsimqa"),
        (lambda folder: igakuqa.load_published(folder, [2018], "gpt4"), "no answers of gpt4"),
        (lambda folder: igakuqa.load_published(folder, [2018], "gpt5"), "no published system 'gpt5'"),
        (lambda folder: one(folder, raw("112A1", answer=["NA"])), r"112-A\.jsonl:1: gold letter"),
        (lambda folder: one(folder, raw("112A43", points="three")), "points 'three' is no number"),
        (lambda folder: one(folder, raw("x1")), "id 'x1' is not an edition, a block and a number"),
    ],
)
def test_what_is_missing_or_malformed_is_named(tmp_path, load, message):
    with pytest.raises(JmedloraError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "metadata", "expected"),
    [
        ({"problem_id": "112B30", "answer": ["a or d"]}, {}, {"rule": "any", "gold": frozenset("ad")}),
        ({"problem_id": "116A71", "answer": ["e"]}, {}, {"rule": "always"}),
        ({"answer": ["a", "b"]}, {}, {"n_select": 1, "gold": frozenset("ab")}),
        ({"choices": ["\u3000", "\u00a0", " ", "\u3000", "ｅ"]}, {}, {"choices": ("ａ", "ｂ", "ｃ", "ｄ", "ｅ")}),
        ({"points": "0"}, {"human_accuracy": "", "breakdown": []}, {"points": 0, "student_accuracy": None}),
        ({}, {"breakdown": ["98.0", "500.3", "13.5", "1.8", "36.4"]}, {"breakdown": (), "student_accuracy": 0.6}),
        *(({}, {"kinki": kinki}, {"prohibited": frozenset("cde")}) for kinki in (["cde"], ["c", " d", "e "], ["ｃ", "D", "e"])),
        (
            {"choices": [], "answer": ["100"], "problem_text": "解答：①②.③"},
            {"breakdown": []},
            {"rule": "number", "number": "10.0", "gold": frozenset()},
        ),
    ],
)
def test_errata_of_the_national_examination_are_corrected(tmp_path, change, metadata, expected):
    found = one(tmp_path, raw("112A1") | change, **metadata)
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_prohibited_letter_of_no_choice_is_left_out_with_a_notice(tmp_path, capsys):
    assert one(tmp_path, raw("112A1"), kinki=["e", "h"]).prohibited == frozenset("e")
    assert "112-A.jsonl:1: prohibited h is no letter of a choice" in capsys.readouterr().out
    write_year(tmp_path, 2018, 112, {"A": [raw("112A1"), raw("112A2")]}, **{"112A1": {"kinki": ["ｂ"]}, "112A2": {"kinki": ["de"]}})
    assert igakuqa.misprinted_prohibited(tmp_path, 2018) == {"112A1"}, "full-width letters are listed"


def test_errata_of_the_journal_are_corrected_or_left_out(tmp_path):
    comma = journal(tmp_path, "107_888-26", ["d", ",", "e"], problem_text="正しいものはどれか．２つ選べ．")
    assert (comma.gold, comma.n_select, comma.section) == (frozenset("de"), 2, "107")
    ambiguous = journal(tmp_path, "107_64-4", ["a", "b", "c", "d"], problem_text="正しいのはどれか.1つ選べ.")
    assert (ambiguous.n_select, ambiguous.gold) == (1, frozenset("abcd"))
    assert select_text_five([ambiguous]) == ([], {"image": 0, "free number": 0, "not five choices": 0, "ambiguous gold": 1, "misread": 0})
    assert journal(tmp_path, "116A71", ["a"]).rule == "all"  # an item of IgakuQA has the same id
    listed = [row["erratum"] for row in exam_files.errata([comma, ambiguous])]
    assert listed == ["stray comma in gold", "ambiguous gold"]


def test_english_takes_stem_and_choices_only(tmp_path):
    folder = write_year(tmp_path, 2018, 112, {"A": [raw("112A1", problem_text="どれか。2つ選べ。", answer=["a", "b"])]})
    line = {"problem_id": "112A1", "problem_text_en": "Which?", "choices_en": ["A, B", "C", "D", "E", "F"], "answer": ["a", "b"]}
    write_lines(folder / "112-A_translate.jsonl", [line])
    found = load_igakuqa(tmp_path, [2018], "en")[0]
    assert (found.text, found.choices[0], found.n_select, found.language) == ("Which?", "A, B", 2, "en")


@needs_data
def test_counts_of_all_years_and_errata_by_id():
    questions = load_igakuqa(data_dir(), YEARS)
    kept, counts = select_text_five(questions)
    assert len(kept) == 1158
    assert counts == {"image": 430, "free number": 9, "not five choices": 3, "ambiguous gold": 0, "misread": 0}
    assert [q.id for q in questions if q.points == 0] == ["112A43", "113A5", "113C34", "113F42", "113F81", "114E29", "114F63"]
    numbers = {q.id: q.number for q in questions if q.rule == "number"}
    known = {"112C66": "26", "112F84": "1.2", "113A75": "146", "113F84": "7.20", "114C75": "10.0"}
    assert numbers == known | {"114D75": "97", "114F75": "1130", "115C75": "27", "115F75": "8.5"}
    assert {q.id: len(q.choices) for q in questions if len(q.choices) > 5} == {"113C66": 6, "113F83": 8, "115D75": 8}
    assert [q.id for q in questions if q.rule == "any"] == ["112B30"]
    assert all(q.n_select == len(q.gold) for q in questions if q.rule == "all")


@needs_data
def test_counts_of_jjsimqa():
    questions = load_jjsimqa(data_dir())
    assert Counter(q.section for q in questions) == {"107": 91, "108": 98, "109": 101, "110": 102, "111": 68}
    assert Counter(len(q.gold) for q in questions) == {1: 253, 2: 206, 4: 1}
    assert len({q.text for q in questions}) == 458
    assert [q.id for q in questions if len(q.gold) != q.n_select] == ["107_64-4"]
    assert [q.id for q in questions if len(set(q.choices)) < 5] == ["107_1514-57", "109_2149-269"]


@needs_data
@pytest.mark.parametrize("language", ["ja", "en"])
def test_worked_examples_are_no_test_questions(language):
    shots = load_worked_examples(data_dir(), language)
    assert [(q.id, sorted(q.gold), q.n_select) for q in shots] == [("100E5", ["e"], 1), ("100A60", ["a", "b"], 2), ("100A1", ["c"], 1)]
    tests = load_igakuqa(data_dir(), YEARS, language)
    assert not {q.id for q in shots} & {q.id for q in tests}
    assert not {q.text for q in shots} & {q.text for q in tests}


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
    found = exam_files.summary(questions)
    assert found["items"] == 400
    assert (found["points"], found["text_only"], found["text_five"], found["image"]) == (points, text_only, text_five, image)
    assert [n for _, n in sorted(Counter(q.section for q in questions).items())] == blocks
    assert found["prohibited"] == prohibited
