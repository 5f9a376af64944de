"""The exam card: every printed figure, the rules of passing, other years, evaluated models."""

import dataclasses
import shutil
from functools import cache

import pandas as pd
import pytest
from exam_fixtures import YEARS, data_dir, examination, needs_data, question, raw, set_marks, write_lines, write_year

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.analysis.exam_card import Marked, card, mark_published, mark_responses
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published
from jmedlora_utils.evaluation.metrics import BASELINES

# paper.md section 8, years 2018, 2019, 2020, 2021: points, items right, must-pass and other blocks, prohibited choices, text accuracy.
FIGURES = {
    "gpt3": [(209, 161, 105, 104, 10, 41.90), (210, 166, 93, 117, 5, 41.10), (208, 160, 97, 111, 5, 46.13), (203, 157, 94, 109, 3, 40.94)],
    "chatgpt": [
        *[(266, 208, 123, 143, 4, 57.75), (250, 205, 100, 150, 5, 55.14)],
        *[(266, 212, 118, 148, 3, 59.51), (297, 225, 143, 154, 3, 61.07)],
    ],
    "translate_chatgpt-en": [
        *[(281, 221, 123, 158, 6, 59.86), (274, 219, 117, 157, 3, 58.22)],
        *[(263, 207, 116, 147, 2, 57.75), (289, 229, 122, 167, 2, 59.73)],
    ],
    "gpt4": [
        *[(382, 302, 161, 221, 1, 80.99), (385, 304, 170, 215, 1, 82.19)],
        *[(387, 306, 168, 219, 0, 83.80), (398, 308, 173, 225, 0, 83.22)],
    ],
    "student-majority": [
        *[(472, 374, 196, 276, 1, 96.13), (470, 372, 196, 274, 0, 93.84)],
        *[(471, 373, 195, 276, 0, 94.72), (477, 377, 200, 277, 0, 94.97)],
    ],
}


@cache
def published() -> exam_card.Published:
    return exam_card.score_published(data_dir(), YEARS)


@needs_data
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_figure_of_the_paper_notes(system):
    rows, text = (table.set_index("system").loc[system] for table in (published().card, published().text_five))
    accuracy = (100 * text["accuracy"]).round(2).tolist()
    found = rows[["points", "items_correct", "required", "general", "prohibited"]].itertuples(index=False, name=None)
    assert [(*row, share) for row, share in zip(found, accuracy, strict=True)] == FIGURES[system]
    assert rows["year"].tolist() == YEARS and rows["max_points"].tolist() == [499, 496, 496, 500] and set(rows["items"]) == {400}
    assert all(rows["passed"] == (system in ("gpt4", "student-majority")))
    assert text["n"].tolist() == [284, 292, 284, 298] and all((text["low"] < text["accuracy"]) & (text["accuracy"] < text["high"]))


@needs_data
def test_baselines_stand_below_the_systems():
    table = published().text_five
    assert list(dict.fromkeys(table["system"])) == [*SYSTEMS, *BASELINES]
    rows = table.set_index(["system", "year"])
    assert rows.loc["oracle", "accuracy"].eq(1).all() and rows.loc["empty response", "right"].eq(0).all()
    assert rows.loc["random choice", "accuracy"].between(0.15, 0.2).all()
    assert rows.loc["first choice", "n"].tolist() == [284, 292, 284, 298]


@needs_data
def test_strict_reading_counts_blanks_and_full_width_prohibited_letters():
    card, strict = (t.set_index(["system", "year"]) for t in (published().card, published().strict))
    assert (card.loc[("gpt4", 2020), "points"], strict.loc[("gpt4", 2020), "points"]) == (387, 392)
    assert (card.loc[("chatgpt", 2021), "prohibited"], strict.loc[("chatgpt", 2021), "prohibited"]) == (3, 4)
    assert card.loc["student-majority"].equals(strict.loc["student-majority"])


@needs_data
def test_committed_tables_are_what_the_code_computes(tmp_path):
    written = exam_card.write_tables(tmp_path, published())
    for path in written:
        assert path.read_text(encoding="utf-8") == (paths.RESULTS / "published" / path.name).read_text(encoding="utf-8")


@needs_data
def test_another_year_in_a_copy_of_the_folder(tmp_path):
    """2018 under another name and number: all figures stay, the verdict is left open, the notice says how to settle it."""
    for part, year in (("data", 2018), ("baseline_results", 2018)):
        shutil.copytree(data_dir() / "IgakuQA" / part / str(year), tmp_path / "IgakuQA" / part / "2031")
    for path in sorted((tmp_path / "IgakuQA").rglob("*.jsonl")):
        text = path.read_text(encoding="utf-8").replace('"problem_id": "112', '"problem_id": "125')
        path.with_name(path.name.replace("112-", "125-")).write_text(text.replace('"a or d"', '"a"'), encoding="utf-8")
        path.unlink()
    found = exam_card.score_published(tmp_path, [2031])
    assert list(found.card["system"]) == list(SYSTEMS)
    assert abs(found.card["points"] - [years[0][0] for years in FIGURES.values()]).max() <= 3
    assert found.card["max_points"].tolist() == [499] * 5
    assert found.card["passed"].isna().all()
    assert any("2031 has no pass marks; add a line" in notice for notice in found.notices)


# --- rules, on invented questions ---------------------------------------------------------------------------------


@pytest.fixture
def marks(monkeypatch):
    set_marks(monkeypatch)


def marked(**letters):
    found = mark_responses(examination(), letters)
    return card(examination(), found, "x").iloc[0]


@pytest.mark.parametrize(
    ("letters", "prohibited", "passed"),
    [
        ({"B1": "a", "A1": "a"}, 0, True),
        ({"B1": "a"}, 0, False),
        ({"A1": "a", "A2": "a"}, 0, False),
        ({"B1": "a", "A1": "a", "A2": "e", "A3": "e", "A4": "e"}, 3, True),
        ({"B1": "a,e", "A1": "e", "A2": "e", "A3": "e"}, 4, False),
    ],
)
def test_passing_needs_both_marks_and_at_most_three_prohibited_choices(marks, letters, prohibited, passed):
    row = marked(**letters)
    assert (row.prohibited, row.passed) == (prohibited, passed)


def test_four_prohibited_choices_fail_with_both_marks_reached(marks):
    wide = [question(id=f"A{i}", section="A", year=2031, points=p, prohibited=frozenset("e")) for i, p in enumerate((1, 1, 0, 0, 0, 0))]
    sure = [examination()[0], *wide]
    row = card(sure, mark_responses(sure, {"B1": "a", "A0": "a", "A2": "e", "A3": "e", "A4": "e", "A5": "e"}), "x").iloc[0]
    assert (row.required, row.general, row.prohibited, row.passed) == (3, 1, 4, False)


def test_withdrawn_items_stay_among_the_items_and_add_no_points_and_an_incomplete_examination_has_no_verdict(marks):
    row = marked(B1="a", A1="a", A2="a", A3="a", A4="a")
    assert (row.points, row.max_points, row.items_correct, row["items"]) == (5, 5, 5, 5)
    questions = examination()[:2]
    assert pd.isna(card(questions, mark_responses(questions, {"B1": "a", "A1": "a"}), "x").iloc[0].passed)
    assert "the general block adds up to 1 points, the official notice says 2" in exam_card.cannot_decide(questions, 2031)


UNKNOWN = [dataclasses.replace(q, prohibited=frozenset(), prohibited_published=False) for q in examination()]


def test_without_published_prohibited_choices_a_missed_mark_fails_and_nobody_passes(marks):
    reached, missed = (card(UNKNOWN, mark_responses(UNKNOWN, answers), "x").iloc[0] for answers in ({"B1": "a", "A1": "a"}, {"B1": "a"}))
    assert pd.isna(reached.passed) and pd.isna(reached.prohibited) and not missed.passed
    assert exam_card.cannot_decide(UNKNOWN, 2031).startswith("2031: prohibited choices not published")
    assert exam_card.cannot_decide(examination(), 2031) == ""


def test_blocks_and_year_come_from_the_edition_and_the_source_where_these_say_so(marks):
    questions = [dataclasses.replace(q, year=None, edition=125, section="", required=q.section == "B") for q in examination()]
    row = card(questions, mark_responses(questions, {"B1": "a", "A1": "a"}), "x").iloc[0]
    assert (row.year, row.required, row.general, row.passed) == (2031, 3, 1, True)


@pytest.mark.parametrize(
    ("change", "prediction", "right"),
    [
        ({"gold": frozenset("ac")}, "c,a", True),
        ({"gold": frozenset("ac")}, "a, c", False),
        ({"gold": frozenset("ac")}, "a", False),
        ({}, "a. 肺炎", False),
        ({"rule": "any", "gold": frozenset("ad")}, "d", True),
        ({"rule": "any", "gold": frozenset("ad")}, "a,d", False),
        ({"rule": "always"}, "", True),
        ({"rule": "number", "choices": (), "gold": frozenset(), "number": "7.20"}, "7.2", True),
        ({"rule": "number", "choices": (), "gold": frozenset(), "number": "7.20"}, "約7.2倍", False),
    ],
)
def test_published_answers_are_compared_as_upstream_does(change, prediction, right):
    assert mark_published([question(**change)], {"1": prediction})["1"].right is right


def test_letters_count_however_they_are_spaced_no_answer_is_wrong_and_a_strange_one_or_an_exam_without_a_year_is_refused():
    assert mark_published([question()], {"1": "a, e"})["1"].picked == frozenset("ae")
    assert not mark_published([question()], {})["1"].right
    with pytest.raises(JmedloraError, match="1 answers belong to no question, first 99"):
        mark_published([question()], {"99": "a"})
    with pytest.raises(JmedloraError, match="has no year"):
        card([question()], {"1": Marked(True, frozenset())}, "x")


def test_absent_systems_and_answers_are_noticed(tmp_path):
    write_year(tmp_path, 2031, 125, {"A": [raw("125A1"), raw("125A2")]})
    with pytest.raises(JmedloraError, match="no published answers"):
        exam_card.score_published(tmp_path, [2031])
    answers = tmp_path / "IgakuQA" / "baseline_results" / "2031" / "125-A_gpt4.jsonl"
    write_lines(answers, [{"problem_id": "125A1", "prediction": "a"}])
    found = exam_card.score_published(tmp_path, [2031])
    assert found.card[["system", "points", "items"]].to_numpy().tolist() == [["gpt4", 1, 2]]
    assert any("2031 has no answers of gpt3" in n for n in found.notices)
    assert any("gpt4 leaves 1 of 2 questions without an answer" in n for n in found.notices)
    with pytest.raises(JmedloraError, match="years is empty"):
        exam_card.score_published(tmp_path, [])


def test_a_card_reads_back_as_written_and_other_columns_are_refused(tmp_path):
    there = exam_card.read_published(paths.RESULTS / "published", YEARS)
    exam_card.write_tables(tmp_path, there)
    again = exam_card.read_published(tmp_path, [2018])
    assert again.card.equals(there.card[there.card["year"] == 2018].reset_index(drop=True))
    (tmp_path / "exam_card.csv").write_text("system,year\n", encoding="utf-8")
    with pytest.raises(JmedloraError, match=r"exam_card\.csv: columns system, year; an exam card has system, year, points"):
        exam_card.read_published(tmp_path, YEARS)


def test_committed_tables_stand_in_only_when_asked_and_only_for_their_years(tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    found = exam_card.published_or_committed("", [2019], "committed")
    assert set(found.card["year"]) == {2019}
    assert "committed figures" in found.notices[0]
    for folder, years, on_missing, said in (
        ("", [2031], "committed", "no year 2031"),
        (str(tmp_path), [2019], "committed", "no question file"),
        ("", [2019], "ignore", "on_missing is 'ignore'"),
    ):
        with pytest.raises(JmedloraError, match=said):
            exam_card.published_or_committed(folder, years, on_missing)


@needs_data
def test_students_from_the_shares_are_the_published_majority():
    questions = load_igakuqa(data_dir(), YEARS)
    from_shares = exam_card.students(questions)
    printed = mark_published(questions, load_published(data_dir(), YEARS, "student-majority"))
    # Three items print shares above 100 %, which are left out.
    assert [q.id for q in questions if from_shares[q.id] != printed[q.id]] == ["113A14", "113D75", "114B4"]


def test_pass_marks_name_their_source():
    table = exam_card.pass_marks()
    assert table.loc[2018:2022, "required_mark"].tolist() == [160, 160, 158, 160, 158]
    assert table.loc[2018:2022, "general_mark"].tolist() == [208, 209, 217, 209, 214]
    assert (table["required_max"] + table["general_max"]).tolist() == [499, 496, 496, 500, 494, 500, 500]
    assert table["source"].str.len().min() > 20
