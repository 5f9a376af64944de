"""The metrics study: responses of known content, the tables made of them, committed evidence without exam texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from jmedlora_utils.analysis import metrics_study as study
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published
from jmedlora_utils.data.questions import Question, select_text_five
from jmedlora_utils.evaluation import metrics

DRUGS = ("ギトネクト", "ギトネクトール", "レロネクト", "ミワザフェ", "ゾモギドラン")


def question(name: str = "q1", gold: str = "a", choices: Sequence[str] = DRUGS, n_select: int = 1, exam: str = "igakuqa") -> Question:
    text = "鱗条病の患者が来た。治療に用いる薬は何か。"
    return Question(name, exam, "ja", text, tuple(choices), frozenset(gold), year=2018, section="A", n_select=n_select)


def exam() -> list[Question]:
    names = ("カナソール", "ミロパン錠", "ユソ", "テルガ軟膏", "ホエマイシンA")
    other = ("血球", "皮膚の生検", "超音波", "胸部の写真", "心電図")
    return [
        question("q1"),
        question("q2", "c", names),
        question("q3", "be", other, 2),
        question("q4", "ad", names, 2),
        question("j1", "b", other, exam="jjsimqa"),
        question("j2", "e", DRUGS, exam="jjsimqa"),
        question("j3", "ab", DRUGS, 2, exam="jjsimqa"),
        question("j4", "cd", names, 2, exam="jjsimqa"),
    ]


def test_the_last_sentence_is_what_is_asked() -> None:
    assert study.last_sentence("鱗条病の患者が来た。治療に用いる薬は何か。") == "治療に用いる薬は何か。"
    assert study.last_sentence("検査はどれか") == "検査はどれか"
    assert study.last_sentence(" ") == ""


def test_the_nearest_wrong_choice_is_the_one_that_looks_right() -> None:
    assert study.nearest_wrong(question())[0] == "b"
    assert study.wrong_answer(question()) == "ギトネクトール"
    assert study.wrong_answer(question(gold="ad", n_select=2)) == "ギトネクトール、ミワザフェ"
    with pytest.raises(JmedloraError, match="every choice is right"):
        study.nearest_wrong(question(gold="abcde", n_select=5))


def test_a_wrong_answer_is_never_right() -> None:
    for q in exam():
        assert metrics.score(q, study.wrong_answer(q), "strict").accuracy == 0


def test_unrelated_answers_are_right_answers_of_other_questions() -> None:
    questions = exam()
    own = [prompts.answer_text(q) for q in questions]
    drawn = study.unrelated_answers(questions, random.Random(1))
    assert all(text in own and text != mine for text, mine in zip(drawn, own, strict=True))
    with pytest.raises(JmedloraError, match="at least two"):
        study.unrelated_answers(questions[:1], random.Random(1))


def test_likeness_ranks_the_choice_that_shares_wording_highest() -> None:
    values = study.likeness(DRUGS)
    assert values.index(max(values)) in (0, 1)
    assert values[3] == min(values)


def test_levels_show_the_empty_response_the_oracle_and_chance() -> None:
    levels = study.levels(exam())
    assert len(levels.drop_duplicates(["exam", "asked"])) == 4
    empty = levels[levels["response"] == "empty"].set_index(["exam", "asked", "rule"])["accuracy"]
    assert (empty.xs("strict", level="rule") == 0).all()
    assert (empty.xs("longest", level="rule") == 0).all()
    assert empty["igakuqa", "one", "harness"] == 0.5
    right = levels[(levels["response"] == "right answer") & levels["rule"].isin(["longest", "ratio", "mean_ratio", "strict"])]
    assert (right[["exact_match", "gestalt", "accuracy"]] == 1).all(axis=None)
    chance = levels[levels["response"] == "random pick"].set_index(["exam", "asked"])["accuracy"]
    assert chance["igakuqa", "one"] == pytest.approx(0.2)
    assert chance["jjsimqa", "several"] == pytest.approx(0.1)
    assert not ((levels["response"] == "all choices") & (levels["asked"] == "several")).any()


@given(st.lists(st.integers(0, 5), min_size=2, max_size=8), st.data())
def test_rank_shares_add_up_and_equal_values_share(values: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    shares = study._rank_shares(values, at)
    assert shares.sum() == pytest.approx(1)
    assert np.count_nonzero(shares) == values.count(values[at])


def test_picks_are_shares_of_the_wins() -> None:
    picks = study.picks([q for q in exam() if q.n_select == 1], draws=2)
    for _, group in picks.groupby(["exam", "feature", "response", "variant"]):
        assert group["share"].sum() == pytest.approx(1)
        assert list(group["rank"]) == [1, 2, 3, 4, 5]
    gold = picks[(picks["response"] == "gold") & (picks["feature"] == "length") & (picks["exam"] == "igakuqa")]
    assert list(gold["share"]) == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0, 0])  # q1 ties with two others, q2 is the shortest


@given(st.text(min_size=1, max_size=40), st.floats(0, 0.95))
def test_dropping_characters_keeps_their_order_and_one_at_least(text: str, share: float) -> None:
    kept = study.drop_characters(text, share, random.Random(0))
    assert 1 <= len(kept) <= len(text)
    rest = iter(text)
    assert all(c in rest for c in kept)


def test_undamaged_answers_are_right() -> None:
    damage = study.damage([q for q in exam() if q.n_select == 1])
    whole = damage[(damage["lost"] == 0) & (damage["rule"] != "harness")]
    assert (whole["accuracy"] == 1).all()
    assert set(damage["likeness"]) > {"all"}


def test_changes_say_what_they_do() -> None:
    q, pair = question(), question("q2", "ad", n_select=2)

    def made(change: str, asked: Question) -> str | None:
        kinds = study.HARMLESS | study.HARMFUL
        return kinds[change](asked, list(asked.right_letters()), [asked.choice(x) for x in asked.right_letters()])

    assert made("polite sentence", q) == "正解はギトネクトです。"
    assert made("letter and text", pair) == "a. ギトネクト、d. ミワザフェ"
    assert made("order reversed", pair) == "ミワザフェ、ギトネクト"
    assert made("order reversed", q) is None
    assert made("full-width letters, digits", q) is None
    assert made("full-width letters, digits", question(choices=("ホエA", "b", "c", "d", "e"))) == "ホエＡ"
    assert made("wrong choice rejected", q) == "ギトネクト。ギトネクトールは誤りである。"
    assert made("wrong or right", q) == "ギトネクトールまたはギトネクト"
    assert made("one answer missing", pair) == "ギトネクト"


def test_strict_reads_every_form_and_no_string_metric_reads_a_denial() -> None:
    table = study.changes(exam()).set_index(["change", "rule"])["accuracy"]
    for change in ("full stop", "polite sentence", "letter alone", "letter and text", "order reversed", "one a line"):
        assert table[change, "strict"] == 1, change
    assert table["denied", "longest"] == 1
    assert table["one answer missing", "strict"] == 0


def test_published_answers_become_choice_texts() -> None:
    q = question(gold="ad", n_select=2)
    assert study.as_text(q, "a, d") == "ギトネクト、ミワザフェ"
    assert study.as_text(q, "わかりません") == ""
    scored = study.published_outcomes([q], {"gpt4": {"igakuqa": ""} | {q.id: "a, d"}})
    assert set(scored["marked"]) == {0.0}  # the published mark does not strip the blank
    assert set(scored.loc[scored["rule"] == "strict", "accuracy"]) == {1.0}
    kinds = study.disagreement_kinds(study.disagreements(scored))
    assert kinds.loc[0, "wrong"].startswith("letters")
    assert kinds.loc[0, "questions"] == q.id
    assert study.agreement(scored).set_index("rule").loc["strict", "credited"] == 1


def points_and_rate() -> SearchStrategy[tuple[list[int], float]]:
    return st.tuples(st.lists(st.sampled_from([0, 1, 3]), min_size=1, max_size=9), st.floats(0.001, 0.999))


@given(points_and_rate())
def test_points_distribution_has_the_right_mean(drawn: tuple[list[int], float]) -> None:
    points, rate = drawn
    pmf = study.points_distribution(points, rate)
    assert pmf.size == sum(points) + 1
    assert pmf.sum() == pytest.approx(1)
    assert pmf @ np.arange(pmf.size) == pytest.approx(rate * sum(points))


def test_smallest_difference_is_what_the_questions_show() -> None:
    from jmedlora_utils.core.statistics import questions_needed, questions_needed_paired

    found = study.smallest_difference(1158, 0.331)
    assert questions_needed(found, 0.331) <= 1158 < questions_needed(found - 0.0005, 0.331)
    paired = study.smallest_difference(1158, 0.331, 0.2)
    assert questions_needed_paired(paired, 0.2) <= 1158 < questions_needed_paired(paired - 0.0005, 0.2)
    assert paired < found


def test_questions_for_leaves_out_impossible_pairs() -> None:
    needed = study.questions_for([0.05, 0.2], 0.3, [0.1])
    assert list(needed["design"]) == ["unpaired", "paired", "unpaired"]


def test_an_unknown_source_or_missing_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JmedloraError, match="not one of auto, committed, data"):
        study.load("comitted")
    with pytest.raises(JmedloraError, match=r"levels\.csv is missing; run"):
        study.read(tmp_path)


def test_committed_evidence_survives_writing_and_reading(tmp_path: Path) -> None:
    committed = study.read()
    study.write(committed, tmp_path)
    again = study.read(tmp_path)
    for name in study.TABLES:
        pd.testing.assert_frame_equal(again.tables[name], committed.tables[name])
    assert again.about == committed.about


def test_committed_evidence_holds_no_exam_text() -> None:
    for path in (*study.FOLDER.glob("*.csv"), study.FOLDER / "about.json"):
        text = path.read_text(encoding="utf-8")
        foreign = {c for c in text if not c.isascii()} - set("と")  # the name of one change
        assert not foreign, f"{path.name}: {sorted(foreign)[:5]}"
        assert path.stat().st_size < 100_000


def test_verdicts_quote_the_study() -> None:
    found = study.read()
    kept = found.at("changes", change="denied", rule="longest")["accuracy"]
    assert f"{100 * kept:.1f} %" in " ".join(study.verdicts(found)["fails"])
    with pytest.raises(JmedloraError, match="0 rows"):
        found.at("changes", change="no such change", rule="longest")


# --- real questions -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    return {system: load_published(data_dir(), study.YEARS, system) for system in SYSTEMS}


@needs_data
def test_committed_pairs_and_points_are_those_of_the_published_answers(published: dict[str, dict[str, str]]) -> None:
    committed = study.read()
    everything = load_igakuqa(data_dir(), study.YEARS)
    kept, _ = select_text_five(everything)
    assert len(kept) == committed.about["questions"]["igakuqa"]
    for name, fresh in (("system_pairs", study.system_pairs(kept, published)), ("exam", study.exam_points(everything, published))):
        old = committed.tables[name]
        for column in fresh.select_dtypes("number").columns:
            np.testing.assert_allclose(fresh[column], old[column], rtol=1e-4, atol=1e-5, err_msg=f"{name}.{column}")
        assert list(fresh.iloc[:, 0]) == list(old.iloc[:, 0])


@needs_data
def test_committed_levels_of_cheap_responses_are_those_of_the_questions() -> None:
    kept, _ = select_text_five(load_igakuqa(data_dir(), study.YEARS))
    one = [q for q in kept if q.n_select == 1]
    committed = study.read()
    for name, responses in (("empty", [""] * len(one)), ("first choice", [q.choices[0] for q in one])):
        fresh = study.outcomes(one, responses, ["harness"])
        at = committed.at("levels", exam="igakuqa", asked="one", response=name, rule="harness")
        assert fresh["accuracy"].mean() == pytest.approx(at.accuracy, abs=1e-5)


@needs_data
def test_texts_are_shown_for_questions_with_a_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(data_dir()))
    found = study.read().tables["disagreements"]
    text = study.texts_of(found[found["id"] == "112D67"], [2018], 1)
    assert text.startswith("**112D67**") and "e. " in text
