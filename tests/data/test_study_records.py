"""Records and exams of the registered study: half the facts, worked examples, sentences that can be read back, look-alike choices."""

import pytest

from jmedlora_utils.data import invented_world, prompts, study_records
from jmedlora_utils.evaluation import metrics, reading

WORLDS = [invented_world.World(invented_world.WorldSettings(seed, 9, 9, 8, 4, 2, 24)) for seed in (1, 2, 3)]


@pytest.mark.parametrize("world", WORLDS)
def test_half_of_the_facts_covers_every_relation_alike(world: invented_world.World) -> None:
    half, taught = study_records.half_of_facts(world), world.facts_of("taught")
    assert set(half) < set(taught) and 2 * len(half) == len(taught)
    each = [sum(f.relation == r for f in half) for r in dict.fromkeys(f.relation for f in taught)]
    assert max(each) - min(each) <= 1
    rows = study_records.only(world.instructions(), half)
    assert {i for row in rows for i in row["facts"]} == {f.id for f in half}
    asked = study_records.renamed(world.exams()["mini_heldout"], half, "mini_half")
    assert sorted(q.id for q in asked) == sorted(f"mini_half-{f.id}" for f in half) and {q.section for q in asked} == {"taught"}


@pytest.mark.parametrize("world", WORLDS)
def test_half_of_the_records_stand_behind_a_worked_example(world: invented_world.World) -> None:
    rows = world.instructions()
    mixed = study_records.with_and_without_example(rows, world.shots(), 1)
    changed = [new for new, old in zip(mixed, rows, strict=True) if new != old]
    assert len(changed) == len(rows) // 2 and all(old["output"] == new["output"] for new, old in zip(mixed, rows, strict=True))
    assert all(row["instruction"].count("答え:") == 1 for row in changed)


@pytest.mark.parametrize("world", WORLDS)
def test_sentences_assert_the_right_answer_and_denials_name_a_wrong_one(world: invented_world.World) -> None:
    rows = world.instructions()
    sentences = study_records.in_sentences(world, rows)
    denied = 0
    for old, new in zip(rows, sentences, strict=True):
        said = study_records.asserted(new["output"])
        assert old["output"] in said and new["output"] != old["output"] and old["input"] == new["input"]
        if study_records.DENIAL in new["output"]:
            denied += 1
            wrong = new["output"].split(study_records.DENIAL)[0]
            assert wrong not in old["output"].split(prompts.SEPARATOR) and (not old["input"] or wrong in old["input"])
    assert 0.2 < denied / len(rows) < 0.5
    assert sentences == study_records.in_sentences(world, rows)


def test_what_a_sentence_asserts_is_read_and_exact_match_refuses_it() -> None:
    for question in study_records.look_alike_exam(WORLDS[0], "mini_lookalike"):
        gold = question.choice(min(question.gold))
        wrong = next(c for c in question.choices if c != gold)
        for form in study_records.SENTENCES:
            response = form.format(a=gold, x=wrong)
            assert reading.read_choices(question, study_records.asserted(response)) == question.gold
            assert not metrics.score(question, response, "journal").exact_match and not study_records.as_listed(question, response)
            assert reading.read_choices(question, study_records.asserted(form.format(a=wrong, x=gold))) != question.gold
        assert study_records.as_listed(question, gold)


@pytest.mark.parametrize("world", WORLDS)
def test_look_alike_choices_differ_from_the_right_one_in_one_character_and_are_no_names(world: invented_world.World) -> None:
    names = {e.ja for entities in world.entities.values() for e in entities}
    known = {q.id.split("-", 1)[1]: q for q in world.exams()["mini_trained"]}
    for question in study_records.look_alike_exam(world, "mini_lookalike"):
        before, gold = known[question.id.split("-", 1)[1]], question.choice(min(question.gold))
        assert question.gold == before.gold and gold == before.choice(min(before.gold)) and question.text == before.text
        new = [c for c in question.choices if c not in names]
        assert len(new) == 2 and len(set(question.choices)) == 5
        assert all(sum(a != b for a, b in zip(c, gold, strict=True)) == 1 for c in new)
