"""Errors in the examination: counts that add up, and the committed ones."""

import pandas as pd
import pytest
from exam_fixtures import YEARS, data_dir, needs_data, pair, question, raw, write_lines, write_year

from jmedlora_utils.analysis import exam_card, exam_errors
from jmedlora_utils.analysis.exam_card import Marked
from jmedlora_utils.analysis.flips import FLIPS
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.questions import Question

COUNTS = list(FLIPS.values())


def asked() -> list[Question]:
    shares = (0.95, 0.9, 0.72, 0.5, 0.3, None)
    made = [question(id=str(i), year=2031, student_accuracy=share, category="総論") for i, share in enumerate(shares)]
    return [*made[:5], pair(id="5", year=2031, prohibited=frozenset("de"))]


def marks(right: str, picked: str = "") -> dict[str, Marked]:
    return {str(i): Marked(mark == "1", frozenset(picked)) for i, mark in enumerate(right)}


# --- counting -----------------------------------------------------------------------------------------------------


def test_bands_of_students_take_their_lower_edge() -> None:
    bands = ["90 % and more", "90 % and more", "70 to 90 %", "50 to 70 %", "under 50 %", exam_errors.UNKNOWN]
    assert exam_errors.kinds(asked())["students"].tolist() == bands


def test_flips_are_told_apart_in_every_cut_and_add_up() -> None:
    counted = exam_errors.flip_counts(asked(), marks("110000"), marks("101100"))
    assert counted[counted["cut"] == "all"][COUNTS].to_numpy().tolist() == [[2, 1, 1, 2]]
    by_students = counted[counted["cut"] == "students"].set_index("group")
    assert by_students.loc["90 % and more", COUNTS].tolist() == [0, 1, 1, 0]
    assert by_students.loc["70 to 90 %", "fixed"] == 1 and by_students.loc["under 50 %", "wrong twice"] == 1
    assert (counted.groupby("cut")[COUNTS].sum() == [2, 1, 1, 2]).all(axis=None)
    assert set(counted["cut"]) == set(exam_errors.CUTS)


def test_right_answers_are_counted_by_group() -> None:
    counted = exam_errors.group_counts(asked(), {"x": marks("110001")}).set_index(["cut", "group"])
    assert counted.loc[("answers", "1"), ["right", "n"]].tolist() == [2, 5]
    assert counted.loc[("answers", "2"), ["right", "n"]].tolist() == [1, 1]
    assert counted.loc[("students", "under 50 %"), ["right", "n"]].tolist() == [0, 1]


def test_prohibited_choices_are_counted_where_there_are_any_beside_blind_picks() -> None:
    counted = exam_errors.prohibited_counts(asked(), {"x": marks("000000", "ad"), "y": marks("111111", "ac")})
    assert counted[["system", "year", "items", "wrong", "picked"]].to_numpy().tolist() == [["x", 2031, 1, 1, 1], ["y", 2031, 1, 0, 0]]
    # Two of five at random: 3 of 10 pairs hold neither d nor e, 1 of 10 is right.
    assert counted[["blind_wrong", "blind_picked"]].to_numpy() == pytest.approx(0.9 - 0.2 * pd.DataFrame([[0, 1]] * 2).to_numpy())


def test_a_pair_without_both_systems_is_left_out(tmp_path) -> None:
    write_year(tmp_path, 2031, 125, {"A": [raw("125A1"), raw("125A2")]})
    with pytest.raises(JmedloraError, match="no published system answered all of 2031"):
        exam_errors.measure(tmp_path, [2031])
    folder = tmp_path / "IgakuQA" / "baseline_results" / "2031"
    write_lines(folder / "125-A_gpt4.jsonl", [{"problem_id": "125A1", "prediction": "a"}, {"problem_id": "125A2", "prediction": "b"}])
    alone = exam_errors.measure(tmp_path, [2031])
    assert alone.flips.empty and alone.groups.iloc[0].tolist() == ["gpt4", "all", "all questions", 1, 2]
    write_lines(folder / "125-A_chatgpt.jsonl", [{"problem_id": "125A2", "prediction": "a"}])
    counted = exam_errors.measure(tmp_path, [2031]).flips
    assert counted.iloc[0].tolist() == ["chatgpt", "gpt4", "all", "all questions", 1, 1, 0, 0]


# --- committed counts ---------------------------------------------------------------------------------------------


@needs_data
def test_committed_counts_are_what_the_code_counts(tmp_path) -> None:
    for path in exam_card.write_tables(tmp_path, exam_errors.measure(data_dir(), YEARS), exam_errors.TABLES):
        assert path.read_text(encoding="utf-8") == (paths.RESULTS / "published" / path.name).read_text(encoding="utf-8"), path.name


def test_without_the_examination_or_its_answers_the_committed_counts_stand_in_and_say_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    found = exam_errors.measured_or_committed("", [2019], "committed")
    assert set(found.prohibited["year"]) == {2019} and "committed counts" in found.notice
    for year, on_missing, said in ((2031, "committed", "no year 2031"), (2019, "ignore", "on_missing is 'ignore'")):
        with pytest.raises(JmedloraError, match=said):
            exam_errors.measured_or_committed("", [year], on_missing)
    write_year(tmp_path, 2019, 113, {"A": [raw("113A1")]})
    assert exam_card.examination("", [2019], "committed") is None
