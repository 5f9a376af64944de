"""The metrics study: tables of published answers, and committed evidence without exam texts that the code still computes."""

import numpy as np
import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_data
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.analysis import metrics_study as study
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published
from jmedlora_utils.data.questions import Question, select_text_five


def test_published_letters_become_texts_and_disagreements_are_found() -> None:
    choices = ("ギトネクト", "ギトネクトール", "レロネクト", "ミワザフェ", "ゾモギドラン")
    q = Question("q1", "igakuqa", "ja", "薬は何か。", choices, frozenset("ad"), year=2018, section="A", n_select=2)
    assert study.as_text(q, "a, d") == "ギトネクト、ミワザフェ" and study.as_text(q, "わかりません") == ""
    scored = study.published_outcomes([q], {"gpt4": {"q1": "a, d", "of another year": "a"}})
    odd = study.disagreements(scored).iloc[0]
    assert (odd["marked"], odd["strict"]) == (0, 1), "the published mark does not strip the blank"
    assert study.agreement(scored).set_index("rule").loc["strict", ["n", "credited", "refused"]].tolist() == [1, 1, 0]


@given(st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=9), st.sampled_from([0.0, 0.001, 0.3, 0.5, 0.99, 1.0]))
def test_points_distribution_has_the_right_mean(points: list[int], rate: float) -> None:
    pmf = study.points_distribution(points, rate)
    assert pmf.size == sum(points) + 1 and pmf.sum() == pytest.approx(1)
    assert pmf @ np.arange(pmf.size) == pytest.approx(rate * sum(points))


def test_an_unknown_source_or_missing_evidence_is_refused(tmp_path) -> None:
    with pytest.raises(JmedloraError, match="not one of auto, committed, data"):
        study.load("comitted")
    with pytest.raises(JmedloraError, match=r"levels\.csv is missing; run"):
        study.read(tmp_path)
    with pytest.raises(JmedloraError, match="table changes: 0 rows"):
        study.read().at("changes", change="no such change", rule="longest")


def test_committed_evidence_survives_writing_and_reading_and_holds_no_exam_text(tmp_path) -> None:
    committed = study.read()
    for path in study.write(committed, tmp_path):
        foreign = {c for c in path.read_text(encoding="utf-8") if not c.isascii()} - set("と")  # the name of one change
        assert not foreign and path.stat().st_size < 100_000, f"{path.name}: {sorted(foreign)[:5]}"
    again = study.read(tmp_path)
    for name in study.TABLES:
        pd.testing.assert_frame_equal(again.tables[name], committed.tables[name])
    assert again.about == committed.about


@needs_data
def test_committed_tables_are_those_of_the_published_answers() -> None:
    committed, everything = study.read(), load_igakuqa(data_dir(), study.YEARS)
    published = {system: load_published(data_dir(), study.YEARS, system) for system in SYSTEMS}
    kept, _ = select_text_five(everything)
    assert len(kept) == committed.about["questions"]["igakuqa"]
    fresh = {"system_pairs": study.system_pairs(kept, published), "exam": study.exam_points(everything, published)}
    fresh["passing"] = study.passing(everything)
    for name, table in fresh.items():
        numbers = table.select_dtypes("number").columns
        np.testing.assert_allclose(table[numbers], committed.tables[name][numbers], rtol=1e-4, atol=1e-5, err_msg=name)
        assert list(table.iloc[:, 0]) == list(committed.tables[name].iloc[:, 0])
