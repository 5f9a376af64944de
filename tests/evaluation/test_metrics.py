"""Gestalt distances, the three scorers, ceilings and baselines."""

import math
from difflib import SequenceMatcher
from functools import cache

import pytest
from exam_fixtures import YEARS, data_dir, needs_data, pair, question
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.data.igakuqa import load_igakuqa
from jmedlora_utils.data.jjsimqa import load_jjsimqa
from jmedlora_utils.data.questions import Question, select_text_five
from jmedlora_utils.evaluation import metrics, reading
from jmedlora_utils.evaluation.metrics import gestalt_distance, score

settings.register_profile("metrics", max_examples=60, deadline=None)
settings.load_profile("metrics")
texts = st.text(alphabet="あいうab、,. 肺炎Ａ", max_size=24)


# --- gestalt distance ---------------------------------------------------------------------------------------------


@given(texts, texts, st.sampled_from(metrics.VARIANTS))
def test_distance_stays_between_0_and_1(a, b, variant):
    assert 0 <= gestalt_distance(a, b, variant) <= 1


@given(texts, st.sampled_from(metrics.VARIANTS))
def test_identity_is_1(a, variant):
    assert gestalt_distance(a, a, variant) == 1


@given(texts, texts)
def test_mean_ratio_is_symmetric_and_ratio_is_not(a, b):
    assert gestalt_distance(a, b, "mean_ratio") == gestalt_distance(b, a, "mean_ratio")
    assert gestalt_distance(a, b, "longest") == gestalt_distance(b, a, "longest")
    assert SequenceMatcher(None, "tide", "diet").ratio() != SequenceMatcher(None, "diet", "tide").ratio()
    assert gestalt_distance("tide", "diet", "ratio") != gestalt_distance("diet", "tide", "ratio")


@given(texts, texts)
def test_longest_never_exceeds_ratio_and_ratio_is_pythons(a, b):
    assert gestalt_distance(a, b, "longest") <= gestalt_distance(a, b, "ratio")
    assert gestalt_distance(a, b, "ratio") == SequenceMatcher(None, a, b, autojunk=False).ratio()


def test_distances_on_a_worked_example():
    # R = 肺炎球菌, C = 肺炎桿菌: longest match 肺炎 (2), all matches 肺炎 and 菌 (3), 8 characters in all.
    assert gestalt_distance("肺炎球菌", "肺炎桿菌", "longest") == 2 * 2 / 8
    assert gestalt_distance("肺炎球菌", "肺炎桿菌", "ratio") == 2 * 3 / 8
    assert gestalt_distance("", "肺炎", "ratio") == 0


def test_autojunk_is_on_in_mean_ratio_only():
    # A choice quoted 40 times: all its characters are popular, so with the heuristic one order matches nothing.
    choice, response = "肺炎球菌肺炎", "答え" + "肺炎球菌肺炎" * 40
    assert gestalt_distance(response, choice, "ratio") == pytest.approx(2 * 6 / (6 + 242))
    assert gestalt_distance(response, choice, "mean_ratio") == pytest.approx(6 / (6 + 242))
    quoted = question(choices=(choice, "あ", "い", "う", "え"))
    assert score(quoted, response, "harness").gestalt == gestalt_distance(response, choice, "mean_ratio")


@pytest.mark.parametrize(("scorer", "variant"), [("jury", None), ("strict", "cosine"), ("harness", "ratio")])
def test_unknown_names_are_refused(scorer, variant):
    with pytest.raises(JmedloraError, match=variant or scorer):
        score(question(), "肺炎", scorer, variant)
    with pytest.raises(JmedloraError, match="cosine"):
        gestalt_distance("a", "b", "cosine")


# --- journal ------------------------------------------------------------------------------------------------------


def test_journal_is_the_formula_on_a_single_answer():
    found = score(question(), "肺炎球菌", "journal")
    assert found.exact_match == 0
    assert found.gestalt == 2 * 2 / (4 + 2)
    assert (found.accuracy, found.picked) == (1, frozenset("a"))
    assert score(question(), "肺炎", "journal") == metrics.Score(1, 1, 1, True, frozenset("a"))
    assert score(question(), "肺炎。", "journal").exact_match == 0


@pytest.mark.parametrize("scorer", ["journal", "strict"])
def test_empty_and_tied_responses_pick_nothing(scorer):
    assert score(question(), "", scorer) == metrics.Score(0, 0, 0, False)
    tied = question(choices=("甲乙丙丁", "丙丁甲乙", "い", "う", "え"))
    assert score(tied, "甲乙", scorer).accuracy == 0
    assert not score(tied, "甲乙", scorer).readable


def test_harness_gives_an_empty_response_the_first_choice():
    found = score(question(), "", "harness")
    assert (found.accuracy, found.readable) == (1, False)
    assert score(question(gold=frozenset("b")), "", "harness").accuracy == 0


@pytest.mark.parametrize("separator", metrics.SEPARATORS)
@pytest.mark.parametrize("scorer", ["journal", "strict"])
def test_order_and_separator_do_not_matter(scorer, separator):
    for response in (separator.join(("肺炎", "肺癌, 小細胞")), separator.join(("肺癌, 小細胞", "肺炎"))):
        found = score(pair(), response, scorer)
        assert (found.exact_match, found.accuracy, found.picked) == (1, 1, frozenset("ac"))


@pytest.mark.parametrize("scorer", metrics.SCORERS)
def test_several_answers_are_all_or_nothing(scorer):
    plain = pair(choices=("肺炎", "気胸", "肺癌", "結核", "喘息"))
    assert score(plain, "肺炎,肺癌", scorer).accuracy == 1
    assert score(plain, "肺炎,気胸", scorer).accuracy == 0
    assert score(plain, "肺炎,気胸,肺癌", scorer).exact_match == 0


def test_number_to_choose_is_the_stems_not_golds():
    wrong_gold = question(gold=frozenset("ab"), choices=("肺炎", "気胸", "肺癌", "結核", "喘息"))
    assert score(wrong_gold, "肺炎球菌", "strict").picked == frozenset("a")
    assert score(wrong_gold, "肺炎球菌", "strict").accuracy == 0


# --- harness ------------------------------------------------------------------------------------------------------


def test_comma_in_a_choice_breaks_harness_only():
    comma = question(gold=frozenset("c"))
    assert score(comma, "肺癌, 小細胞", "harness").accuracy == 0
    assert score(comma, "肺癌, 小細胞", "journal").accuracy == score(comma, "肺癌, 小細胞", "strict").accuracy == 1


def test_full_stops_make_15_of_1_5_in_harness_only():
    numbers = question(choices=("15", "1.5", "25", "2.5", "35"))
    assert score(numbers, "1.5", "harness").exact_match == 1
    assert score(numbers, "1.5", "strict").picked == frozenset("b")
    assert score(numbers, "1.5", "journal").picked == frozenset("b")


def test_equal_choices_drift_in_harness_and_are_one_in_strict():
    double = pair(choices=("運動を避ける", "運動を避ける", "薬を飲む", "家族と話す", "休む"), gold=frozenset("ad"))
    for letters in ("a、d", "b、d"):
        assert score(double, letters, "strict").accuracy == 1
    assert score(double, "運動を避ける、家族と話す", "strict").picked == frozenset("ad")
    assert score(double, "運動を避ける、家族と話す", "harness").accuracy == 0


def test_what_raises_there_is_wrong_here():
    either = question(rule="any", gold=frozenset("ad"))
    number = question(rule="number", choices=(), gold=frozenset(), number="26")
    many = question(choices=("a,b,c,d,e,f", "い", "う", "え", "お"))
    for asked, response in ((either, "肺炎"), (number, "26"), (many, "い")):
        assert score(asked, response, "harness").accuracy == 0
    assert score(many, "a,b,c,d,e,f", "harness").exact_match == 1


# --- strict -------------------------------------------------------------------------------------------------------

READABLE = [
    *(
        "a,c",
        "a, c",
        "a、c",
        "Ａ、Ｃ",
        "（ａ）（ｃ）",
        "ac",
        "ca",
        "a\nc",
        "a.c.",
        "A C",
        "a and c",
        "aとc",
        "c・a",
        "答え：a、c",
        "正解はaとcです。",
    ),
    *("肺炎、肺癌, 小細胞", "肺癌，小細胞,肺炎", "肺炎 と 肺癌, 小細胞", "肺炎\n肺癌,小細胞", "肺炎。肺癌, 小細胞。"),
    *("a 肺炎、c 肺癌, 小細胞", "a. 肺炎\nc. 肺癌, 小細胞", "ａ）肺炎，ｃ）肺癌，小細胞", "a (肺炎), c", "肺炎、c"),
]


@pytest.mark.parametrize("response", READABLE)
def test_letters_texts_and_both_are_read(response):
    found = score(pair(), response)
    assert (found.picked, found.exact_match, found.readable) == (frozenset("ac"), 1, True)


@pytest.mark.parametrize(
    "response",
    ["", "\u3000", "画像がないため、お答えできません。", "a. 気胸", "c (肺炎)", "1,3", "acb", "fとg", "①③"],
)
def test_what_cannot_be_read_is_shown_and_wrong(response):
    found = score(pair(), response)
    assert (found.exact_match, found.accuracy, found.readable, found.picked) == (0, 0, False, frozenset())


def test_strict_reads_the_wrong_number_of_choices_and_counts_it_wrong():
    assert score(pair(), "a").picked == frozenset("a")
    assert score(pair(), "a、b、c").accuracy == 0
    assert score(question(rule="any", gold=frozenset("ad")), "a、d").accuracy == 0
    assert score(question(rule="any", gold=frozenset("ad")), "d").accuracy == 1


def test_strict_takes_the_nearest_answer_only_when_it_is_near():
    near = score(question(choices=("肺炎球菌性肺炎", "気胸", "肺癌", "結核", "喘息")), "肺炎球菌肺炎")
    assert (near.exact_match, near.accuracy, near.readable) == (0, 1, True)
    assert not score(question(), "この肺炎ではない何かについて、ここでは述べない").readable


def test_full_width_digits_in_choices_and_responses():
    percent = question(choices=("１０％", "２０％", "３０％", "４０％", "５０％"))
    assert score(percent, "10%").exact_match == 1
    assert score(percent, "10 %。").exact_match == 1


@pytest.mark.parametrize(
    ("response", "right"),
    [("10.0", 1), ("10", 1), ("１０．０", 1), ("100", 1), ("答え：10.0", 1), ("001", 0), ("1.00", 0), ("36.05", 0), ("10か20", 0), ("", 0)],
)
def test_free_numbers_are_decimals_through_the_mask(response, right):
    asked = question(rule="number", choices=(), gold=frozenset(), number="10.0", text="計算せよ。解答：①②.③/人口1,000対")
    assert score(asked, response).accuracy == right


def test_digits_are_not_sorted_and_thousands_are_read():
    asked = question(rule="number", choices=(), gold=frozenset(), number="2.1", text="解答：①.②")
    assert [score(asked, r).accuracy for r in ("2.1", "21", "12", "1.2")] == [1, 1, 0, 0]
    kcal = question(rule="number", choices=(), gold=frozenset(), number="1130", text="解答：1, ①②③ kcal")
    assert [score(kcal, r).accuracy for r in ("1,130 kcal", "1130", "113")] == [1, 1, 0]


def test_item_credited_to_everyone_is_right_whatever_is_said():
    credited = question(rule="always", gold=frozenset("e"))
    assert score(credited, "", "strict").accuracy == score(credited, "気胸", "journal").accuracy == 1
    assert score(credited, "", "harness").accuracy == 0


@given(st.text(max_size=40), st.sampled_from(metrics.SCORERS))
def test_any_text_is_scored_within_bounds(response, scorer):
    for asked in (question(), pair()):
        found = score(asked, response, scorer)
        assert found.exact_match in (0, 1)
        assert found.accuracy in (0, 1)
        assert 0 <= found.gestalt <= 1
        assert found.picked <= set("abcde")
        if scorer == "strict":
            assert found.readable or found.accuracy == 0
            assert found.exact_match <= found.accuracy


@given(
    st.lists(st.text(alphabet="肺炎、,と。.12a ", min_size=1, max_size=8).filter(lambda t: reading.plain(t) != ""), min_size=5, max_size=5)
)
def test_a_perfect_model_is_always_right(choices):
    if len({reading.plain(c) for c in choices}) < 5:
        return
    single = question(choices=tuple(choices), gold=frozenset("c"))
    assert score(single, prompts.answer_text(single), "journal").accuracy == 1
    if reading.read_choices(single, choices[2]):
        assert score(single, prompts.answer_text(single), "strict").accuracy == 1


# --- tables -------------------------------------------------------------------------------------------------------


def test_score_frame_has_one_row_per_question_and_scorer():
    frame = metrics.score_frame([question(), pair(id="2")], ["a", "肺炎"])
    assert list(frame["scorer"]) == list(metrics.SCORERS) * 2
    assert frame.loc[frame["scorer"] == "strict", "picked"].tolist() == ["a", "a"]
    with pytest.raises(JmedloraError, match="1 responses for 2 questions"):
        metrics.score_frame([question(), pair(id="2")], ["a"])


def test_random_choice_is_analytic():
    either = question(rule="any", gold=frozenset("ad"))
    number = question(rule="number", choices=(), gold=frozenset(), number="26")
    chances = [metrics.random_accuracy(q) for q in (question(), pair(), either, number, question(rule="always"))]
    assert chances == pytest.approx([0.2, 0.1, 0.4, 0, 1])


def test_baselines_name_every_baseline_and_scorer():
    table = metrics.baselines([question(), pair(id="2")])
    assert list(table["baseline"].unique()) == list(metrics.BASELINES)
    value = table.set_index(["baseline", "scorer"])["accuracy"]
    assert value["empty response", "strict"] == value["empty response", "journal"] == 0
    assert value["oracle", "strict"] == value["oracle", "journal"] == 1
    assert value["random choice", "journal"] == pytest.approx(0.15)
    assert math.isnan(table.set_index("baseline").loc["random choice", "gestalt"].iloc[0])
    with pytest.raises(JmedloraError, match="no question"):
        metrics.baselines([])


# --- the published exams ------------------------------------------------------------------------------------------

EXAMS = ("ja", "en", "jjsimqa")


@cache
def published(name: str) -> list[Question]:
    return load_jjsimqa(data_dir()) if name == "jjsimqa" else load_igakuqa(data_dir(), YEARS, name)


@needs_data
@pytest.mark.parametrize("name", EXAMS)
@pytest.mark.parametrize("separator", ["、", ", "])
def test_a_perfect_model_scores_100_percent_on_every_question(name, separator):
    questions = published(name)
    frame = metrics.score_frame(
        questions, [separator.join(q.choice(x) for x in q.right_letters()) or q.number for q in questions], ("journal", "strict")
    )
    short = frame[(frame["accuracy"] < 1) | (frame["exact_match"] < 1) | (frame["gestalt"] < 1)]
    assert short.empty, short


@needs_data
@pytest.mark.parametrize("name", EXAMS)
@pytest.mark.parametrize("form", ["{letter}", "{letter}. {text}", "（{wide}）{text}"])
def test_letters_and_labelled_texts_are_as_good(name, form):
    def write(q: Question) -> str:
        parts = [form.format(letter=x, text=q.choice(x), wide=chr(ord(x) + 0xFEE0)) for x in reversed(q.right_letters())]
        return "、".join(parts) or q.number

    questions = published(name)
    frame = metrics.score_frame(questions, [write(q) for q in questions], ("strict",))
    assert frame[frame["exact_match"] < 1].empty


# Exact / gestalt accuracy of a perfect model under `harness`, percent: IgakuQA 2018-2021 (n = 1,158) and JJSIMQA.
CEILINGS = {
    ("ja", ","): (100.0, 99.22),
    ("ja", ", "): (84.80, 99.22),
    ("ja", "\n"): (84.80, 87.39),
    ("en", ","): (99.91, 93.52),
    ("en", ", "): (84.72, 93.44),
    ("jjsimqa", ","): (100.0, 97.61),
    ("jjsimqa", ", "): (55.0, 97.61),
    ("jjsimqa", "\n"): (55.0, 66.96),
}


@needs_data
@pytest.mark.parametrize(("name", "separator"), list(CEILINGS))
def test_harness_reaches_exactly_its_ceilings(name, separator):
    questions = published(name) if name == "jjsimqa" else select_text_five(published(name))[0]
    responses = [separator.join(q.choice(letter) for letter in sorted(q.gold)) for q in questions]
    means = metrics.score_frame(questions, responses, ("harness",))[["exact_match", "accuracy"]].mean() * 100
    assert tuple(means.round(2)) == CEILINGS[name, separator]


def reference_harness(choices, letters, response):
    """The rule as peers.md states it, written a second time, straight from the description."""
    gold = ",".join(choices["abcdefghij".index(c)] for c in sorted(letters))
    wanted = gold.split(",")
    cleaned = response.replace(".", "").strip()
    exact = gold.replace(".", "").strip() == cleaned

    def two_way(c):
        return (SequenceMatcher(None, c, cleaned).ratio() + SequenceMatcher(None, cleaned, c).ratio()) / 2

    pool, scores, picks = list(choices), [two_way(c) for c in choices], []
    try:
        for _ in wanted:
            best = pool[scores.index(max(scores))]
            scores.pop(scores.index(max(scores)))
            pool.remove(best)
            picks.append(best)
    except ValueError:
        return exact, False
    return exact, sorted(picks) == sorted(wanted)


@given(
    st.lists(st.text(alphabet="あい,.肺ab", min_size=1, max_size=6).filter(str.strip), min_size=5, max_size=5),
    st.sets(st.sampled_from("abcde"), min_size=1, max_size=3),
    st.text(alphabet="あい,.肺ab 、", max_size=12),
)
def test_harness_is_the_described_rule(choices, letters, response):
    asked = question(choices=tuple(choices), gold=frozenset(letters), n_select=len(letters))
    found = score(asked, response, "harness")
    assert (found.exact_match, found.accuracy) == reference_harness(choices, letters, response)


@needs_data
def test_what_an_empty_response_earns_under_harness():
    # peers.md: 17.0 % on IgakuQA (2018-2022) and 12.4 % on JJSIMQA.
    earned = {}
    for name in ("ja", "jjsimqa"):
        questions = published(name) if name == "jjsimqa" else select_text_five(published(name))[0]
        earned[name] = 100 * metrics.score_frame(questions, [""] * len(questions), ("harness",))["accuracy"].mean()
    assert earned["jjsimqa"] == pytest.approx(12.4, abs=0.05)
    assert earned["ja"] == pytest.approx(17.18, abs=0.005)
