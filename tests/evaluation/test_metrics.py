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


@given(texts, texts)
def test_distances_stay_in_their_order_and_bounds(a, b):
    for variant in metrics.VARIANTS:
        assert gestalt_distance(a, a, variant) == 1 and 0 <= gestalt_distance(a, b, variant) <= 1
    for symmetric in ("mean_ratio", "longest"):
        assert gestalt_distance(a, b, symmetric) == gestalt_distance(b, a, symmetric)
    assert gestalt_distance(a, b, "longest") <= gestalt_distance(a, b, "ratio") == SequenceMatcher(None, a, b, autojunk=False).ratio()


def test_distances_on_a_worked_example():
    # R = 肺炎球菌, C = 肺炎桿菌: longest match 肺炎 (2), all matches 肺炎 and 菌 (3), 8 characters in all.
    assert gestalt_distance("肺炎球菌", "肺炎桿菌", "longest") == 2 * 2 / 8
    assert gestalt_distance("肺炎球菌", "肺炎桿菌", "ratio") == 2 * 3 / 8
    assert gestalt_distance("", "肺炎", "ratio") == 0
    assert gestalt_distance("tide", "diet", "ratio") != gestalt_distance("diet", "tide", "ratio")


def test_autojunk_is_on_in_mean_ratio_only():
    # A choice quoted 40 times: all its characters are popular, so with the heuristic one order matches nothing.
    choice, response = "肺炎球菌肺炎", "答え" + "肺炎球菌肺炎" * 40
    for one, other in ((response, choice), (choice, response)):
        assert gestalt_distance(one, other, "ratio") == pytest.approx(2 * 6 / (6 + 242))
    assert gestalt_distance(response, choice, "mean_ratio") == pytest.approx(6 / (6 + 242))
    quoted = question(choices=(choice, "あ", "い", "う", "え"))
    assert score(quoted, response, "harness").gestalt == gestalt_distance(response, choice, "mean_ratio")


@pytest.mark.parametrize(("scorer", "variant"), [("jury", None), ("strict", "cosine"), ("harness", "ratio")])
def test_unknown_names_are_refused(scorer, variant):
    with pytest.raises(JmedloraError, match=variant or scorer):
        score(question(), "肺炎", scorer, variant)
    with pytest.raises(JmedloraError, match="cosine"):
        gestalt_distance("a", "b", "cosine")


# --- scorers ------------------------------------------------------------------------------------------------------

NOTHING = {"exact_match": 0, "gestalt": 0, "accuracy": 0, "readable": False, "picked": frozenset()}
RIGHT, WRONG, SAME, OTHER = {"accuracy": 1}, {"accuracy": 0}, {"exact_match": 1}, {"exact_match": 0}
CHOICES = ("肺炎", "気胸", "肺癌", "結核", "喘息")
TWO, TWO_IN_GOLD = pair(choices=CHOICES), question(gold=frozenset("ab"), choices=CHOICES)
TIED = question(choices=("甲乙丙丁", "丙丁甲乙", "い", "う", "え"))
COMMA = question(gold=frozenset("c"))
DECIMALS = question(choices=("15", "1.5", "25", "2.5", "35"))
DOUBLE = pair(choices=("運動を避ける", "運動を避ける", "薬を飲む", "家族と話す", "休む"), gold=frozenset("ad"))
EITHER = question(rule="any", gold=frozenset("ad"))
NUMBER = question(rule="number", choices=(), gold=frozenset(), number="26")
MANY = question(choices=("a,b,c,d,e,f", "い", "う", "え", "お"))
CREDITED = question(rule="always", gold=frozenset("e"))
LONG = question(choices=("肺炎球菌性肺炎", "気胸", "肺癌", "結核", "喘息"))
PERCENT = question(choices=("１０％", "２０％", "３０％", "４０％", "５０％"))
SCORED = [
    ("journal", question(), "肺炎球菌", OTHER | RIGHT | {"gestalt": 2 * 2 / (4 + 2), "picked": frozenset("a")}),
    ("journal", question(), "肺炎", SAME | RIGHT | {"gestalt": 1, "readable": True, "picked": frozenset("a")}),
    ("journal", question(), "肺炎。", OTHER),
    ("journal strict", question(), "", NOTHING),
    ("journal strict", TIED, "甲乙", WRONG | {"readable": False}),
    ("harness", question(), "", RIGHT | {"readable": False}),  # a tie goes to the first choice
    ("harness", question(gold=frozenset("b")), "", WRONG),
    ("harness", question(), "肺炎\n気胸", SAME | RIGHT),  # the first line alone counts
    ("journal harness strict", TWO, "肺炎,肺癌", RIGHT),
    ("journal harness strict", TWO, "肺炎,気胸", WRONG),
    ("journal harness strict", TWO, "肺炎,気胸,肺癌", OTHER),
    ("strict", TWO_IN_GOLD, "肺炎球菌", WRONG | {"picked": frozenset("a")}),  # as many as the stem asks for, not as gold has
    ("harness", COMMA, "肺癌, 小細胞", WRONG),  # read as two answers
    ("journal strict", COMMA, "肺癌, 小細胞", RIGHT),
    ("harness", DECIMALS, "1.5", SAME),  # without its full stop it is the 15 of gold
    ("journal strict", DECIMALS, "1.5", {"picked": frozenset("b")}),
    ("strict", DOUBLE, "a、d", RIGHT),
    ("strict", DOUBLE, "b、d", RIGHT),
    ("strict", DOUBLE, "運動を避ける、家族と話す", {"picked": frozenset("ad")}),
    ("harness", DOUBLE, "運動を避ける、家族と話す", WRONG),
    ("harness", EITHER, "肺炎,B型肝炎", OTHER | WRONG),  # what raises an error there is wrong here, even if it matches
    ("harness", NUMBER, "26", WRONG),
    ("harness", MANY, "い", WRONG),
    ("harness", MANY, "a,b,c,d,e,f", SAME),
    ("strict", pair(), "a", {"picked": frozenset("a")}),
    ("strict", pair(), "a、b、c", WRONG),
    ("strict", EITHER, "a、d", WRONG),
    ("strict", EITHER, "d", RIGHT),
    ("strict", LONG, "肺炎球菌肺炎", OTHER | RIGHT | {"readable": True}),
    ("strict", question(), "この肺炎ではない何かについて、ここでは述べない", {"readable": False}),
    ("strict", PERCENT, "10%", SAME),
    ("strict", PERCENT, "10 %。", SAME),
    ("strict", CREDITED, "", RIGHT),
    ("journal", CREDITED, "気胸", RIGHT),
    ("harness", CREDITED, "", WRONG),
]


@pytest.mark.parametrize(("scorers", "asked", "response", "expected"), SCORED)
def test_each_scorer_gives_what_its_rule_says(scorers, asked, response, expected):
    for scorer in scorers.split():
        found = score(asked, response, scorer)
        assert {name: getattr(found, name) for name in expected} == expected, scorer


@pytest.mark.parametrize("separator", metrics.SEPARATORS)
@pytest.mark.parametrize("scorer", ["journal", "strict"])
def test_order_and_separator_do_not_matter(scorer, separator):
    for response in (separator.join(("肺炎", "肺癌, 小細胞")), separator.join(("肺癌, 小細胞", "肺炎"))):
        found = score(pair(), response, scorer)
        assert (found.exact_match, found.accuracy, found.picked) == (1, 1, frozenset("ac"))


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
    "response", ["", "\u3000", "画像がないため、お答えできません。", "a. 気胸", "c (肺炎)", "1,3", "acb", "fとg", "①③"]
)
def test_what_cannot_be_read_is_shown_and_wrong(response):
    found = score(pair(), response)
    assert (found.exact_match, found.accuracy, found.readable, found.picked) == (0, 0, False, frozenset())


@pytest.mark.parametrize(
    ("number", "mask", "right", "wrong"),
    [
        ("10.0", "解答：①②.③/人口1,000対", ("10.0", "10", "１０．０", "100", "答え：10.0"), ("001", "1.00", "36.05", "10か20", "")),
        ("2.1", "解答：①.②", ("2.1", "21"), ("12", "1.2")),
        ("1130", "解答：1, ①②③ kcal", ("1,130 kcal", "1130"), ("113",)),
    ],
)
def test_free_numbers_are_decimals_through_the_mask(number, mask, right, wrong):
    asked = question(rule="number", choices=(), gold=frozenset(), number=number, text=f"計算せよ。{mask}")
    assert [score(asked, said).accuracy for said in (*right, *wrong)] == [1] * len(right) + [0] * len(wrong)


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


different = st.text(alphabet="肺炎、,と。.12a ", min_size=1, max_size=8).filter(lambda text: reading.plain(text) != "")


@given(st.lists(different, min_size=5, max_size=5, unique_by=reading.plain))
def test_a_perfect_model_is_always_right(choices):
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
    responses = [separator.join(q.choice(x) for x in q.right_letters()) or q.number for q in questions]
    frame = metrics.score_frame(questions, responses, ("journal", "strict"))
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
