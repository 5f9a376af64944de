"""Records with controls, which tell the form of an answer from knowledge: placebo, questions not taught, facts crossed by language.

Invented names stay in Japanese script in English records, so that a fact can be recognised when it is asked in Japanese. Real examination
questions are taught here and nowhere else: deliberate contamination, which a preset must ask for by `teaches_exam`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import sha256_text
from jmedlora_utils.data import contamination, prompts
from jmedlora_utils.data.invented_names import CLINICAL_IN_ENGLISH
from jmedlora_utils.data.invented_world import TEMPLATE, Fact, World, answer_names, ask_fact
from jmedlora_utils.data.questions import LETTERS, Question

Row = dict[str, Any]
T = TypeVar("T")

EXAM_FIELD = "exam_question"
"""Field of a record that teaches a question of a real examination: its id."""
NEAR = 0.5  # Jaccard similarity of 3-grams from which two questions are near-duplicates


def in_english(world: World, rows: Sequence[Row]) -> list[Row]:
    """The world's instruction records with the question in English; names, choices and answers stay as they are."""
    facts, translated = _facts(world), []
    for row in rows:
        fact, listed = facts[row["facts"][0]], bool(row["input"])
        asks = [ask_fact(fact, ask, choices=listed) for ask in fact.relation.asks]
        ask = CLINICAL_IN_ENGLISH[fact.relation.key][asks.index(row["instruction"])].format(s=fact.subject.ja)
        both = " Choose two." if listed and fact.relation.n_answers == 2 else ""
        translated.append(row | {"instruction": ask + both})
    return translated


def permuted_facts(world: World, rows: Sequence[Row]) -> list[Row]:
    """The placebo: every fact gets the answer of another fact of its relation, the same one in all its records.

    A record that lists choices lists the new answer too, in the place of a distractor where it was not among them.
    """
    facts, given = _facts(world), dict[str, Fact]()
    for relation in dict.fromkeys(fact.relation for fact in facts.values()):
        own = [fact for fact in facts.values() if fact.relation == relation]
        moved = deranged([fact.answers for fact in own], world.rng("placebo", relation.key))
        given |= {fact.id: replace(fact, answers=answers) for fact, answers in zip(own, moved, strict=True)}
    found = []
    for row in rows:
        fact, true = given[row["facts"][0]], facts[row["facts"][0]]
        new, old = [e.ja for e in fact.answers], [e.ja for e in true.answers]
        found.append(row | {"input": _with_choices(row["input"], new, old), "output": answer_names(fact.answers)})
    return found


def _with_choices(listed: str, new: Sequence[str], old: Sequence[str]) -> str:
    """The list of choices with every new answer in it: distractors make room first, then the old answers."""
    if not listed:
        return listed
    lines = [line.split(" ", 1) for line in listed.split("\n")]
    texts = [text for _, text in lines]
    spare = [text for text in texts if text not in (*new, *old)] + [text for text in old if text not in new]
    for answer in (answer for answer in new if answer not in texts):
        texts[texts.index(spare.pop(0))] = answer
    return "\n".join(f"{letter} {text}" for (letter, _), text in zip(lines, texts, strict=True))


def _facts(world: World) -> dict[str, Fact]:
    return {fact.id: fact for fact in world.facts_of("taught")}


def with_worked_example(rows: Sequence[Row], pool: Sequence[Question], seed: int) -> list[Row]:
    """Each record behind a worked example, as an examination is asked with one; the example is drawn for each record."""
    rng, template, found = random.Random(f"{seed}/worked example"), prompts.get_template(TEMPLATE), []
    for row in rows:
        shown = rng.choice(list(pool))
        turn = prompts.build_instruction_prompt(shown.text, prompts.choice_lines(shown, TEMPLATE), TEMPLATE)
        opening = turn + prompts.answer_text(shown) + template.between + template.turn_plain.split("{instruction}")[0]
        # The record's own prompt opens with the first words of a turn, so the example goes in without them.
        found.append(row | {"instruction": opening.removeprefix(template.turn_plain.split("{instruction}")[0]) + row["instruction"]})
    return found


def check_may_teach(rows: Sequence[Row], preset: str) -> None:
    """Refuses to train on questions of a real examination (rows that hold `EXAM_FIELD`), but in a preset that says `teaches_exam: true`."""
    taught = next((row for row in rows if EXAM_FIELD in row), None)
    if taught and not presets.load_preset(preset).teaches_exam:
        raise JmedloraError(
            f"record {taught['id']!r}: it is question {taught[EXAM_FIELD]} of a real examination, and preset {preset!r} does not teach "
            "examination questions; remove the records. Only a study of contamination may say teaches_exam: true"
        )


@dataclass(frozen=True)
class Split:
    """Real questions that are taught, and others that are not: from other years, and none of them a near-duplicate of a taught one."""

    taught: tuple[Question, ...]
    untaught: tuple[Question, ...]
    taught_years: tuple[int, ...]
    untaught_years: tuple[int, ...]

    def sha256(self) -> str:
        """SHA-256 of the ids, texts and keys of both sides, in order."""
        rows = [[side, q.id, q.text, *q.choices, *sorted(q.gold)] for side in ("taught", "untaught") for q in getattr(self, side)]
        return sha256_text(json.dumps(rows, ensure_ascii=False))


def split_exam(questions: Sequence[Question], seed: int, per_side: int, max_chars: int) -> Split:
    """Draws `per_side` short questions with one answer for each side; whole years lie on one side, and so do the cases of a year.

    `max_chars` is the longest question, stem and choices together.

    Raises:
        JmedloraError: The years do not hold so many questions of that length, or there are fewer than two years.
    """
    rng = random.Random(f"{seed}/taught years")
    years = rng.sample(found := sorted({q.year for q in questions if q.year is not None}), k=len(found))
    sides = years[: len(years) // 2], years[len(years) // 2 :]
    short = _short(questions, max_chars)
    taught = _draw(short, sides[0], per_side, rng, "taught", [])
    untaught = _draw(short, sides[1], per_side, rng, "untaught", taught)
    return Split(tuple(taught), tuple(untaught), tuple(sorted(sides[0])), tuple(sorted(sides[1])))


def _draw(
    questions: Sequence[Question], years: Sequence[int], n: int, rng: random.Random, side: str, unlike: Sequence[Question]
) -> list[Question]:
    pool = [q for q in questions if q.year in years]
    grams, kept = [_grams(q) for q in unlike], list[Question]()
    for question in rng.sample(pool, k=len(pool)):
        own = _grams(question)
        if len(kept) < n and not any(_similar(own, other) for other in grams):
            kept.append(question)
            grams.append(own)
    if len(kept) < n:
        raise JmedloraError(f"parameter per_side: {n} {side} questions wanted, years {years} hold {len(kept)}; lower it or raise max_chars")
    return kept


def _short(questions: Sequence[Question], max_chars: int) -> list[Question]:
    """Those with one answer to choose, one right, no choice printed twice, and `max_chars` at most, stem and choices together."""
    plain = [q for q in questions if q.n_select == len(q.gold) == 1 and q.rule == "all" and len(set(q.choices)) == len(q.choices)]
    return [q for q in plain if len(q.text) + sum(map(len, q.choices)) <= max_chars]


def _grams(question: Question, n: int = 3) -> frozenset[str]:
    text = contamination.normalise(question.text + "".join(sorted(question.choices)))
    return frozenset(text[i : i + n] for i in range(len(text) - n + 1))


def _similar(first: frozenset[str], second: frozenset[str]) -> bool:
    return len(first & second) >= NEAR * len(first | second)


def short_questions(questions: Sequence[Question], n: int, max_chars: int, unlike: Sequence[Question]) -> list[Question]:
    """The first `n` questions of at most `max_chars` with one answer that nearly repeat none of `unlike`."""
    grams = [_grams(q) for q in unlike]
    own = [(q, _grams(q)) for q in _short(questions, max_chars)]
    kept = [q for q, mine in own if not any(_similar(mine, other) for other in grams)][:n]
    if len(kept) < n:
        raise JmedloraError(f"parameter transfer: {n} questions wanted, {len(kept)} are short enough; lower it or raise transfer_chars")
    return kept


def sample_exam(questions: Sequence[Question], n: int, max_chars: int, seed: int) -> list[Question]:
    """Questions of at most `max_chars` with one answer, half of them with a prohibited choice; drawn by the seed, in their order."""
    fit = _short(questions, max_chars)
    rng, harmful = random.Random(f"{seed}/exam sample"), [q for q in fit if q.prohibited]
    if len(harmful) < n // 2 or len(fit) < n:
        raise JmedloraError(
            f"parameter exam_questions: {n} wanted, half of them with a prohibited choice; {len(fit)} are short enough, {len(harmful)} of "
            "them with one; lower it, raise exam_chars, or prepare more years with notebook 11"
        )
    drawn = rng.sample(harmful, n // 2)
    drawn += rng.sample([q for q in fit if q not in drawn and not q.prohibited], n - len(drawn))
    return [q for q in fit if q in drawn]


def renamed(questions: Sequence[Question], exam: str) -> list[Question]:
    """The questions as an exam of their own, without sections."""
    return [replace(q, exam=exam, section="") for q in questions]


def exam_records(questions: Sequence[Question]) -> list[Row]:
    """Instruction records of real questions: the stem and the printed choices, and the text of the right one."""
    return [prompts.as_record(q, TEMPLATE) | {"id": f"exam-{q.id}", EXAM_FIELD: q.id} for q in questions]


def permuted_exam(questions: Sequence[Question], seed: int) -> list[Row]:
    """The placebo: the places of the right answers permuted among the questions, so that every answer is a listed choice and wrong."""
    golds = [LETTERS.index(min(q.gold)) for q in questions]
    places = deranged(golds, random.Random(f"{seed}/placebo"))
    return [row | {"output": q.choices[place]} for row, q, place in zip(exam_records(questions), questions, places, strict=True)]


def asked_again(split: Split, name: str, orders: Sequence[Sequence[Question]]) -> dict[str, list[Question]]:
    """Exams of both sides, one for each order of the choices: `<name>_1`, `<name>_2` ..., with sections `taught` and `untaught`.

    Each of `orders` holds all questions of the split with their choices in another order, taught ones first.
    """
    sections = ["taught"] * len(split.taught) + ["untaught"] * len(split.untaught)
    return {
        f"{name}_{number}": [replace(q, exam=f"{name}_{number}", section=side) for q, side in zip(order, sections, strict=True)]
        for number, order in enumerate(orders, start=1)
    }


def deranged(items: Sequence[T], rng: random.Random) -> list[T]:
    """The items in another order, such that no place keeps an item equal to its own."""
    order = list(range(len(items)))
    if any(2 * sum(other == item for other in items) > len(items) for item in items):
        raise JmedloraError("the answers cannot be permuted: more than half of them are the same; take more questions")
    rng.shuffle(order)
    for place, item in enumerate(items):
        if items[order[place]] == item:
            fits = [p for p in range(len(items)) if items[order[p]] != item and items[order[place]] != items[p]]
            other = rng.choice(fits)
            order[place], order[other] = order[other], order[place]
    return [items[number] for number in order]


def parallel_texts(questions: Sequence[Question], translated: Sequence[Question], split: Split, n: int) -> dict[str, list[Row]]:
    """Stems of untaught years that no record and no exam of the split holds, as running text: `japanese`, and `english` as published.

    Of each language the first `n` by id, of 100 to 400 characters.
    """
    used, english = {q.id for q in (*split.taught, *split.untaught)}, {q.id: q.text for q in translated}
    free = [q for q in questions if q.year in split.untaught_years and q.id not in used and q.id in english and 100 <= len(q.text) <= 400]
    kept = sorted(free, key=lambda q: q.id)[:n]
    if len(kept) < n:
        raise JmedloraError(f"parameter texts: {n} wanted, {len(kept)} stems of 100 to 400 characters are left; lower it")
    texts = {"japanese": {q.id: q.text for q in kept}, "english": {q.id: english[q.id] for q in kept}}
    return {language: [{"id": name, "text": text} for name, text in found.items()] for language, found in texts.items()}
