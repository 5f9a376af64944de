"""The exam card: the committed figures, the rules of passing, other years, absent answers."""

import dataclasses
import shutil

import pandas as pd
import pytest
from exam_fixtures import YEARS, data_dir, examination, needs_data, question, raw, set_marks, write_lines, write_year

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.analysis.exam_card import Marked, card, mark_published, mark_responses
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.igakuqa import SYSTEMS


@needs_data
def test_committed_tables_are_what_the_code_computes(tmp_path):
    for path in exam_card.write_tables(tmp_path, exam_card.score_published(data_dir(), YEARS)):
        assert path.read_text(encoding="utf-8") == (paths.RESULTS / "published" / path.name).read_text(encoding="utf-8")


@needs_data
def test_another_year_in_a_copy_of_the_folder(tmp_path):
    """2018 under another name and number: all figures stay, the verdict is left open, the notice says how to settle it."""
    for part in ("data", "baseline_results"):
        shutil.copytree(data_dir() / "IgakuQA" / part / "2018", tmp_path / "IgakuQA" / part / "2031")
    for path in sorted((tmp_path / "IgakuQA").rglob("*.jsonl")):
        text = path.read_text(encoding="utf-8").replace('"problem_id": "112', '"problem_id": "125')
        path.with_name(path.name.replace("112-", "125-")).write_text(text.replace('"a or d"', '"a"'), encoding="utf-8")
        path.unlink()
    found = exam_card.score_published(tmp_path, [2031])
    assert list(found.card["system"]) == list(SYSTEMS)
    committed = exam_card.read_published(paths.RESULTS / "published", [2018]).card
    assert (found.card["points"] - committed["points"]).abs().max() <= 3
    assert set(found.card["max_points"]) == {499} and found.card["passed"].isna().all()
    assert any("2031 has no pass marks; add a line" in notice for notice in found.notices)


# --- rules, on invented questions ---------------------------------------------------------------------------------


@pytest.fixture
def marks(monkeypatch):
    set_marks(monkeypatch)


def marked(letters, questions=None):
    questions = questions or examination()
    return card(questions, mark_responses(questions, letters), "x").iloc[0]


@pytest.mark.parametrize(
    ("letters", "prohibited", "passed"),
    [
        ({"B1": "a", "A1": "a"}, 0, True),
        ({"B1": "a"}, 0, False),
        ({"A1": "a", "A2": "a"}, 0, False),
        ({"B1": "a", "A1": "a", "A2": "e", "A3": "e", "A4": "e"}, 3, True),
    ],
)
def test_passing_needs_both_marks_and_at_most_three_prohibited_choices(marks, letters, prohibited, passed):
    row = marked(letters)
    assert (row.prohibited, row.passed) == (prohibited, passed)


def test_four_prohibited_choices_fail_with_both_marks_reached(marks):
    wide = [question(id=f"A{i}", section="A", year=2031, points=p, prohibited=frozenset("e")) for i, p in enumerate((1, 1, 0, 0, 0, 0))]
    row = marked({"B1": "a", "A0": "a", "A2": "e", "A3": "e", "A4": "e", "A5": "e"}, [examination()[0], *wide])
    assert (row.required, row.general, row.prohibited, row.passed) == (3, 1, 4, False)


def test_withdrawn_items_stay_among_the_items_and_add_no_points_and_an_incomplete_examination_has_no_verdict(marks):
    row = marked({"B1": "a", "A1": "a", "A2": "a", "A3": "a", "A4": "a"})
    assert (row.points, row.max_points, row.items_correct, row["items"]) == (5, 5, 5, 5)
    questions = examination()[:2]
    assert pd.isna(marked({"B1": "a", "A1": "a"}, questions).passed)
    assert "the general block adds up to 1 points, the official notice says 2" in exam_card.cannot_decide(questions, 2031)


def test_without_published_prohibited_choices_a_missed_mark_fails_and_nobody_passes(marks):
    unknown = [dataclasses.replace(q, prohibited=frozenset(), prohibited_published=False) for q in examination()]
    reached, missed = marked({"B1": "a", "A1": "a"}, unknown), marked({"B1": "a"}, unknown)
    assert pd.isna(reached.passed) and pd.isna(reached.prohibited) and not missed.passed
    assert exam_card.cannot_decide(unknown, 2031).startswith("2031: prohibited choices not published")
    assert exam_card.cannot_decide(examination(), 2031) == ""


def test_blocks_and_year_come_from_the_edition_and_the_source_where_these_say_so(marks):
    questions = [dataclasses.replace(q, year=None, edition=125, section="", required=q.section == "B") for q in examination()]
    row = marked({"B1": "a", "A1": "a"}, questions)
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
