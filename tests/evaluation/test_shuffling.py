"""Shuffled choices: a copy whose gold follows, the same order each time, and a table that shows a bias that is there."""

from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.data import igakuqa, prompts
from jmedlora_utils.evaluation import evaluator, exam_prompts, results, shuffling
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from tests import tiny
from tests.exam_fixtures import data_dir, needs_data

QUESTION = replace(tiny.make_questions(4)[3], gold=frozenset("be"), prohibited=frozenset("c"), breakdown=(0.1, 0.2, 0.3, 0.15, 0.25))


@given(st.integers(1, 10_000), st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5))
def test_gold_and_all_that_goes_with_a_choice_follows_it_in_a_copy(seed: int, name: str) -> None:
    question = replace(QUESTION, id=name)
    before = asdict(question)
    moved = shuffling.shuffle_choices(question, seed)
    assert asdict(question) == before, "the question itself is left as it is"
    for part in ("gold", "prohibited"):
        assert {moved.choice(x) for x in getattr(moved, part)} == {question.choice(x) for x in getattr(question, part)}
    shares = dict(zip(question.choices, question.breakdown, strict=True))
    assert moved.breakdown == tuple(shares[c] for c in moved.choices) and sorted(moved.choices) == sorted(question.choices)
    assert moved == shuffling.shuffle_choices(question, seed)
    assert set(prompts.answer_text(moved).split("、")) == set(prompts.answer_text(question).split("、"))


def test_seeds_differ_and_zero_is_the_printed_order() -> None:
    questions = tiny.make_questions(40)
    orders = [[shuffling.shuffle_choices(q, seed).choices for q in questions] for seed in (0, 1, 2)]
    assert orders[0] == [q.choices for q in questions]
    assert all(sum(a == b for a, b in zip(one, other, strict=True)) < 5 for one, other in ((orders[0], orders[1]), (orders[1], orders[2])))
    golds = [next(iter(shuffling.shuffle_choices(replace(QUESTION, id=str(i), gold=frozenset("a")), 1).gold)) for i in range(500)]
    assert {g: 60 < golds.count(g) < 140 for g in "abcde"} == dict.fromkeys("abcde", True), "every place is as likely"


@needs_data
def test_choices_printed_in_the_stem_are_not_moved() -> None:
    found = {q.id: q for q in igakuqa.load_igakuqa(data_dir(), [2019, 2020])}
    for name in ("113F83", "114C11"):
        assert shuffling.shuffle_choices(found[name], 5) == found[name]


def test_an_evaluation_asks_and_scores_the_shuffled_choices(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    plain = EvalSettings(base="llama", template="plain_ja", limit=12)
    shuffled = plain.changed(shuffle_choices=7)
    tokenizer = loading.load_tokenizer(loading.find_base("llama", workspace))
    papers = [exam_prompts.prepare(s, "mini_trained", 0, tokenizer, 512, workspace) for s in (plain, shuffled)]
    assert [a.question.id for a in papers[0].asked] == [a.question.id for a in papers[1].asked]
    assert sum(a.prompt != b.prompt for a, b in zip(papers[0].asked, papers[1].asked, strict=True)) >= 10
    keys = [evaluator.answer_keys(papers[1], s, "m") for s in (plain, shuffled)]
    assert not set(keys[0]) & set(keys[1]), "the seed is in the key itself"
    [record] = evaluator.evaluate(shuffled, "shuffled", workspace)
    assert record.config["settings"]["shuffle_choices"] == 7
    questions, responses = results.asked_questions(record, workspace)
    assert questions == [a.question for a in papers[1].asked] != [a.question for a in papers[0].asked]
    assert record.metrics == results.score_groups(questions, responses)
