"""Responses of known content: what they say, and what the scorers must give them."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.analysis import known_responses as known
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import metrics

DRUGS = ("ギトネクト", "ギトネクトール", "レロネクト", "ミワザフェ", "ゾモギドラン")
NAMES = ("カナソール", "ミロパン錠", "ユソ", "テルガ軟膏", "ホエマイシンA")
TESTS = ("血球", "皮膚の生検", "超音波", "胸部の写真", "心電図")


def question(name: str = "q1", gold: str = "a", choices: Sequence[str] = DRUGS, n_select: int = 1, exam: str = "igakuqa") -> Question:
    text = "鱗条病の患者が来た。治療に用いる薬は何か。"
    return Question(name, exam, "ja", text, tuple(choices), frozenset(gold), year=2018, section="A", n_select=n_select)


EXAM = [question("q1"), question("q2", "c", NAMES), question("q3", "be", TESTS, 2), question("q4", "ad", NAMES, 2)]
EXAM += [question("j1", "b", TESTS, exam="jjsimqa"), question("j2", "e", DRUGS, exam="jjsimqa")]
EXAM += [question("j3", "ab", DRUGS, 2, exam="jjsimqa"), question("j4", "cd", NAMES, 2, exam="jjsimqa")]
ONE = [q for q in EXAM if q.n_select == 1]


@pytest.mark.parametrize(("text", "asked"), [("鱗条病の患者が来た。薬は何か。", "薬は何か。"), ("検査はどれか", "検査はどれか"), (" ", "")])
def test_the_last_sentence_is_what_is_asked(text, asked) -> None:
    assert known.last_sentence(text) == asked


def test_a_wrong_answer_looks_right_and_is_never_right() -> None:
    assert known.nearest_wrong(question())[0] == "b"
    assert known.wrong_answer(question(gold="ad", n_select=2)) == "ギトネクトール、ミワザフェ"
    assert all(metrics.score(q, known.wrong_answer(q), "strict").accuracy == 0 for q in EXAM)
    with pytest.raises(JmedloraError, match="every choice is right"):
        known.nearest_wrong(question(gold="abcde", n_select=5))


def test_unrelated_answers_are_right_answers_of_other_questions() -> None:
    own = [prompts.answer_text(q) for q in EXAM]
    drawn = known.unrelated_answers(EXAM, random.Random(1))
    assert all(text in own and text != mine for text, mine in zip(drawn, own, strict=True))
    with pytest.raises(JmedloraError, match="at least two"):
        known.unrelated_answers(EXAM[:1], random.Random(1))


def test_levels_show_the_empty_response_the_right_answer_and_chance() -> None:
    levels = known.levels(EXAM)
    accuracy = levels.set_index(["response", "exam", "asked", "rule"])["accuracy"]
    assert (accuracy["empty"].drop("harness", level="rule") == 0).all()
    assert accuracy["empty", "igakuqa", "one", "harness"] == 0.5, "a tie goes to the first choice"
    assert (accuracy["right answer"].drop("harness", level="rule") == 1).all()
    assert accuracy["random pick", "igakuqa", "one", "any"] == pytest.approx(0.2)
    assert accuracy["random pick", "jjsimqa", "several", "any"] == pytest.approx(0.1)
    assert "several" not in accuracy["all choices"].index.get_level_values("asked")


@given(st.lists(st.integers(0, 5), min_size=2, max_size=8), st.data())
def test_rank_shares_add_up_and_equal_values_share(values: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values) - 1))
    shares = known.rank_shares(values, at)
    assert shares.sum() == pytest.approx(1) and np.count_nonzero(shares) == values.count(values[at])


def test_picks_are_shares_of_the_wins() -> None:
    picks = known.picks(ONE, draws=2).set_index(["exam", "feature", "response", "variant"])["share"]
    assert picks.groupby(level=[0, 1, 2, 3]).sum().to_numpy() == pytest.approx(1)
    # The right answer of q1 is as long as two other choices, that of q2 the shortest.
    assert picks["igakuqa", "length", "gold", ""].tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0, 0])


@given(st.text(min_size=1, max_size=40), st.floats(0, 0.95))
def test_dropping_characters_keeps_their_order_and_one_at_least(text: str, share: float) -> None:
    kept = known.drop_characters(text, share, random.Random(0))
    rest = iter(text)
    assert 1 <= len(kept) <= len(text) and all(c in rest for c in kept)


def test_undamaged_answers_are_right() -> None:
    damage = known.damage(ONE)
    assert (damage[(damage["lost"] == 0) & (damage["rule"] != "harness")]["accuracy"] == 1).all()


@pytest.mark.parametrize(
    ("change", "asked", "response"),
    [
        ("harmless: polite sentence", question(), "正解はギトネクトです。"),
        ("harmless: letter and text", question("q", "ad", n_select=2), "a. ギトネクト、d. ミワザフェ"),
        ("harmless: order reversed", question("q", "ad", n_select=2), "ミワザフェ、ギトネクト"),
        ("harmless: full-width letters, digits", question(), None),
        ("harmless: full-width letters, digits", question(choices=("ホエA", "b", "c", "d", "e")), "ホエＡ"),
        ("harmless: wrong choice rejected", question(), "ギトネクト。ギトネクトールは誤りである。"),
        ("harmful: wrong or right", question(), "ギトネクトールまたはギトネクト"),
        ("harmful: one answer missing", question("q", "ad", n_select=2), "ギトネクト"),
    ],
)
def test_changes_say_what_they_do(change, asked, response) -> None:
    assert known.reworded(asked)[tuple(change.split(": "))] == response


def test_strict_reads_every_form_and_no_string_metric_reads_a_denial() -> None:
    table = known.changes(EXAM).set_index(["change", "rule"])["accuracy"]
    for change in ("full stop", "polite sentence", "letter alone", "letter and text", "order reversed", "one a line"):
        assert table[change, "strict"] == 1, change
    assert table["denied", "longest"] == 1 and table["one answer missing", "strict"] == 0
