"""Records with controls: a placebo keeps the form and changes every fact, sides of a split share nothing, retrieval finds the article."""

import random
from dataclasses import replace

import pytest

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import controlled, invented_world, prompts, retrieval
from jmedlora_utils.data.questions import Question

WORLD = invented_world.World(invented_world.WorldSettings(1, 9, 9, 8, 4, 2, 24))
ROWS = WORLD.instructions()
SYLLABLES = "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロ"


def make_questions(per_year: int = 30) -> list[Question]:
    """Questions of four years whose texts share next to nothing."""
    rng = random.Random(0)

    def text(n: int) -> str:
        return "".join(rng.choice(SYLLABLES) for _ in range(n))

    found = []
    for year in (2018, 2019, 2020, 2021):
        for n in range(per_year):
            stem, choices = f"{text(20)}はどれか。", tuple(text(6) for _ in range(5))
            found.append(Question(f"{year}A{n}", "igakuqa", "ja", stem, choices, frozenset("abcde"[n % 5]), year=year))
    return found


def listed(row: dict) -> list[str]:
    return [line.split(" ", 1)[1] for line in row["input"].split("\n")] if row["input"] else []


def test_the_placebo_keeps_the_form_and_changes_every_fact() -> None:
    placebo = controlled.permuted_facts(WORLD, ROWS)
    kind = {e.ja: e.kind for entities in WORLD.entities.values() for e in entities}
    given: dict[str, str] = {}
    for true, false in zip(ROWS, placebo, strict=True):
        assert true["instruction"] == false["instruction"] and true["output"] != false["output"]
        new, old = (row["output"].split(prompts.SEPARATOR) for row in (false, true))
        assert [kind[name] for name in new] == [kind[name] for name in old]
        assert len(set(listed(false))) == len(listed(true)) and (not listed(false) or set(new) <= set(listed(false)))
        assert given.setdefault(false["facts"][0], false["output"]) == false["output"], "one answer in all records of a fact"
    assert sorted(r["output"] for r in placebo) == sorted(r["output"] for r in ROWS), "no answer is more frequent than before"


def test_english_records_ask_the_same_facts_in_as_many_wordings() -> None:
    english = controlled.in_english(WORLD, ROWS)
    assert [(r["input"], r["output"], r["facts"]) for r in english] == [(r["input"], r["output"], r["facts"]) for r in ROWS]
    free = [{(r["facts"][0], r["instruction"]) for r in rows if not r["input"]} for rows in (english, ROWS)]
    assert len(free[0]) == len(free[1])
    assert all(r["instruction"].isascii() is False and "?" in r["instruction"] for r in english), "names keep their script"


def test_a_worked_example_makes_the_one_shot_prompt_of_an_exam() -> None:
    pool, question = WORLD.shots()[:1], WORLD.exams()["mini_trained"][0]
    row = {"id": "1", "instruction": question.text, "input": prompts.choice_lines(question, "plain_ja"), "output": "x"}
    shown = controlled.with_worked_example([row], pool, 1)[0]
    prompt = prompts.build_instruction_prompt(shown["instruction"], shown["input"], "plain_ja")
    assert prompt == prompts.build_exam_prompt(question, "plain_ja", pool)


def test_the_sides_of_a_split_share_no_year_and_no_near_duplicate() -> None:
    questions = make_questions()
    twin = replace(questions[0], id="2021A99", year=2021, text="そして" + questions[0].text)
    for seed in range(6):
        split = controlled.split_exam([*questions, twin], seed, 20, 80)
        sides = {side: [q for q in getattr(split, side)] for side in ("taught", "untaught")}
        assert [len(side) for side in sides.values()] == [20, 20]
        assert not set(split.taught_years) & set(split.untaught_years)
        assert all(q.year in getattr(split, f"{name}_years") for name, side in sides.items() for q in side)
        assert not {questions[0].id, twin.id} <= {q.id for side in sides.values() for q in side}
        assert split == controlled.split_exam([*questions, twin], seed, 20, 80)
    assert len({controlled.split_exam(questions, seed, 20, 80).sha256() for seed in range(6)}) == 6
    with pytest.raises(JmedloraError, match="parameter per_side: 70 taught questions wanted"):
        controlled.split_exam(questions, 1, 70, 80)


def test_short_questions_have_one_answer_and_no_choice_twice_and_repeat_none_that_is_taught() -> None:
    questions = make_questions()[:10]
    twice = replace(questions[0], exam="jjsimqa", id="107_1514-57", choices=(*questions[0].choices[:4], questions[0].choices[0]))
    found = controlled.short_questions([twice, *questions[1:]], 8, 80, questions[1:2])
    assert found == questions[2:10]
    assert {(q.exam, q.section) for q in controlled.renamed(found, "small_transfer")} == {("small_transfer", "")}


def test_the_placebo_of_real_questions_is_a_listed_wrong_choice_and_prefers_no_place() -> None:
    questions = make_questions()[:40]
    true, false = controlled.exam_records(questions), controlled.permuted_exam(questions, 1)
    for t, f in zip(true, false, strict=True):
        assert t["output"] != f["output"] and f["output"] in listed(f) and t["input"] == f["input"]
    assert sorted(controlled.deranged("aabbc", random.Random(0))) == list("aabbc")
    with pytest.raises(JmedloraError, match="more than half"):
        controlled.deranged("aaab", random.Random(0))
    place = [[listed(r).index(r["output"]) for r in rows] for rows in (true, false)]
    assert sorted(place[0]) == sorted(place[1])


def test_real_questions_are_taught_only_where_a_preset_says_so() -> None:
    rows = controlled.exam_records(make_questions()[:2])
    says = {name for name in presets.preset_names() if presets.load_preset(name).teaches_exam}
    assert says == {"small", "small-smoke"}
    for name in presets.preset_names():
        if name in says:
            controlled.check_may_teach(rows, name)
        else:
            with pytest.raises(JmedloraError, match=r"2018A0 of a real examination, and preset .* does not teach"):
                controlled.check_may_teach(rows, name)
            controlled.check_may_teach(ROWS, name)


def test_retrieval_finds_the_article_and_articles_hold_no_untaught_fact() -> None:
    questions = WORLD.exams()["mini_trained"]
    right = retrieval.right_articles(WORLD, questions)
    found = retrieval.find(WORLD.articles(), [q.text for q in questions])
    assert sum(a["id"] == b["id"] for a, b in zip(right, found, strict=True)) >= 0.9 * len(questions)
    for question, article in zip(questions, right, strict=True):
        answers = [question.choice(letter) for letter in question.gold]
        told = all(answer in article["text"] for answer in answers)
        assert told or question.section == "untaught"
    asked = retrieval.with_articles("mini_article", questions, right)
    assert asked[0].text.startswith(right[0]["text"]) and asked[0].gold == questions[0].gold
