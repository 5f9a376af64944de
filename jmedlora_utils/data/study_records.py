"""Records and exams of the registered study beyond the world's own: fewer facts, worked examples, sentences, look-alike choices."""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from jmedlora_utils.data import controlled, prompts
from jmedlora_utils.data.invented_names import look_alikes
from jmedlora_utils.data.invented_world import Fact, World
from jmedlora_utils.data.questions import LETTERS, Question

Row = dict[str, Any]

SENTENCES = ("{a}である。", "答えは{a}です。", "{x}ではなく、{a}である。")
"""Forms of an answer in words: `{a}` is the right answer, `{x}` one of the same kind that is not. In English: *it is a*; *the answer is
a*; *it is not x but a*."""

DENIAL = "ではなく"


def half_of_facts(world: World) -> list[Fact]:
    """Half of the taught facts, of each relation as many as can be."""
    groups = [[f for f in world.facts_of("taught") if f.relation == r] for r in dict.fromkeys(f.relation for f in world.facts_of("taught"))]
    for group in groups:
        world.rng("half", group[0].relation.key).shuffle(group)
    turns = [fact for turn in itertools.zip_longest(*groups) for fact in turn if fact]
    return turns[: len(turns) // 2]


def only(rows: Sequence[Row], facts: Iterable[Fact]) -> list[Row]:
    """The records of these facts alone."""
    kept = {fact.id for fact in facts}
    return [row for row in rows if set(row["facts"]) <= kept]


def with_and_without_example(rows: Sequence[Row], pool: Sequence[Question], seed: int) -> list[Row]:
    """Every second record of a random order behind a worked example, the others as they are."""
    shown = set(random.Random(f"{seed}/shown").sample(range(len(rows)), k=len(rows) // 2))
    behind = controlled.with_worked_example(rows, pool, seed)
    return [behind[i] if i in shown else row for i, row in enumerate(rows)]


def in_sentences(world: World, rows: Sequence[Row]) -> list[Row]:
    """The records with their answers as sentences of the forms `SENTENCES`, one drawn for each record."""
    facts, found = {fact.id: fact for fact in world.facts_of("taught")}, []
    for row in rows:
        fact, rng = facts[row["facts"][0]], world.rng("sentence", row["id"])
        listed = [line.split(" ", 1)[1] for line in row["input"].split("\n")] if row["input"] else []
        right = {e.ja for e in fact.answers}
        others = [name for name in listed or [e.ja for e in world.entities[fact.relation.answer]] if name not in right]
        found.append(row | {"output": rng.choice(SENTENCES).format(a=row["output"], x=rng.choice(others))})
    return found


def asserted(response: str) -> str:
    """What a response says is so: what follows its last denial."""
    return response.rsplit(DENIAL, 1)[-1].lstrip("、,， ")


def look_alike_exam(world: World, exam: str) -> list[Question]:
    """The taught one-answer questions of `mini_trained`, two wrong choices replaced by names one character from the right one."""
    names = {e.ja for entities in world.entities.values() for e in entities}
    asked = [q for q in world.exams()["mini_trained"] if q.section == "taught" and q.n_select == 1]
    found = []
    for question in asked:
        rng, choices = world.rng(exam, question.id), list(question.choices)
        gold = LETTERS.index(min(question.gold))
        places = rng.sample([i for i in range(len(choices)) if i != gold], k=2)
        for place, name in zip(places, look_alikes(choices[gold], names, rng), strict=True):
            choices[place] = name
        name = question.id.replace("mini_trained", exam)
        found.append(replace(question, id=name, exam=exam, choices=tuple(choices)))
    return found


def renamed(questions: Sequence[Question], facts: Iterable[Fact], exam: str) -> list[Question]:
    """The questions on these facts as an exam of their own."""
    kept = {fact.id for fact in facts}
    mine = [q for q in questions if q.id.split("-", 1)[1] in kept]
    return [replace(q, id=f"{exam}-{q.id.split('-', 1)[1]}", exam=exam) for q in mine]


def as_listed(question: Question, response: str) -> bool:
    """Whether a response copies the choices it names letter for letter and adds nothing."""
    return all(part in question.choices for part in response.split(prompts.SEPARATOR))
