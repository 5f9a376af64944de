"""What the tiny bases of the invented world read before tuning: every medical word and the exam's form, and no clinical fact."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jmedlora_utils.data import prompts
from jmedlora_utils.data.invented_names import CLINICAL
from jmedlora_utils.data.invented_world import TEMPLATE, Fact, World, answer_names, ask_fact, choice_lines, say_fact
from jmedlora_utils.data.questions import LETTERS

# Kinds of Japanese documents, as shares of them where they are at most `EQUAL_UP_TO` of all; see `ja_shares`.
JA_SHARES = {"suppose": 0.12, "guess": 0.2, "context": 0.2, "general": 0.48}
MEDICAL_KINDS = ("suppose", "guess", "context")
EQUAL_UP_TO = 0.4
GUESSED_ANSWERS = (1, 2)  # weights of one- and two-answer questions whose answer is drawn at random
FORMS = {"statement": 0.25, "free": 0.4, "exam": 0.25, "exam_1shot": 0.1}


@dataclass(frozen=True)
class Document:
    """One pretraining text. The model is trained on `text` only; `prompt` is read."""

    kind: str
    language: str
    prompt: str
    text: str


def corpus(world: World, english: float, documents: int, seed: int | None = None) -> Iterator[Document]:
    """Pretraining documents in training order; a share of them, 0 to 1, is in English and about the general domain."""
    rng = world.rng("corpus", seed)
    general, context = world.facts_of("general"), world.facts_of("context")
    shares = ja_shares(1 - english)
    for _ in range(documents):
        if rng.random() < english:
            yield _english(world, rng, general)
            continue
        kind = rng.choices(list(shares), weights=list(shares.values()))[0]
        if kind == "suppose":
            yield _suppose(world, rng)
        elif kind == "guess":
            yield _guess(world, rng, general)
        else:
            yield _japanese(world, rng, context if kind == "context" else general, general)


def _japanese(world: World, rng: random.Random, facts: Sequence[Fact], general: Sequence[Fact]) -> Document:
    # One share of documents per answer: a fact with two is harder, and a base that repeats the first reads the format wrong.
    fact = rng.choices(facts, weights=[f.relation.n_answers for f in facts])[0]
    form = _form(rng)
    if form == "statement":
        return Document("statement", "ja", "", say_fact(fact, rng.choice(fact.relation.says)))
    if form == "free":
        ask = ask_fact(fact, rng.choice(fact.relation.asks))
        return Document("question", "ja", prompts.build_instruction_prompt(ask, "", TEMPLATE), answer_names(fact.answers))
    shot = ""
    if form == "exam_1shot":
        prompt, answer = _exam_turn(world, rng.choice(general), rng)
        shot = prompt + answer + prompts.get_template(TEMPLATE).between
    prompt, answer = _exam_turn(world, fact, rng)
    return Document("question", "ja", shot + prompt, answer)


def _exam_turn(world: World, fact: Fact, rng: random.Random, asks: Sequence[str] = ()) -> tuple[str, str]:
    options = world.options(fact, rng)
    ask = ask_fact(fact, rng.choice(asks or fact.relation.asks), choices=True)
    return prompts.build_instruction_prompt(ask, choice_lines(options), TEMPLATE), answer_names(fact.answers)


def _suppose(world: World, rng: random.Random) -> Document:
    """Two suppositions that pair medical words at random, and a question on one of them."""
    diseases = world.entities["disease"]
    if rng.random() < 0.5:
        relations = rng.sample(CLINICAL, k=2)
        subjects = [rng.choice(diseases)] * 2
    else:
        relations = [rng.choice(CLINICAL)] * 2
        subjects = rng.sample(diseases, k=2)
    facts = []
    for relation, subject in zip(relations, subjects, strict=True):
        answers = rng.sample(world.entities[relation.answer], k=relation.n_answers)
        facts.append(world.fact("", "supposed", relation, subject, answers))
    said = "".join(say_fact(f, rng.choice(f.relation.says)) for f in facts)
    fact = rng.choice(facts)
    ask = ask_fact(fact, rng.choice(fact.relation.asks + fact.relation.held_out))
    return Document("supposition", "ja", prompts.build_instruction_prompt(f"もし{said}{ask}", "", TEMPLATE), answer_names(fact.answers))


def _guess(world: World, rng: random.Random, general: Sequence[Fact]) -> Document:
    """A clinical question with an answer drawn at random: where a base does not know, it should still answer with listed choices."""
    n_answers = rng.choices((1, 2), weights=GUESSED_ANSWERS)[0]
    relation = rng.choice([r for r in CLINICAL if r.n_answers == n_answers])
    subject = rng.choice(world.entities["disease"])
    answers = rng.sample(world.entities[relation.answer], k=n_answers)
    fact = world.fact("", "guessed", relation, subject, answers)
    prompt, answer = _exam_turn(world, fact, rng, relation.asks + relation.held_out)
    if rng.random() < FORMS["exam_1shot"] / (FORMS["exam"] + FORMS["exam_1shot"]):
        shot, shown = _exam_turn(world, rng.choice(general), rng)
        prompt = shot + shown + prompts.get_template(TEMPLATE).between + prompt
    return Document("guess", "ja", prompt, answer)


def _english(world: World, rng: random.Random, general: Sequence[Fact]) -> Document:
    fact = rng.choice(general)
    form = _form(rng)
    answers = [e.en for e in fact.answers]
    if form == "statement":
        return Document("statement", "en", "", say_fact(fact, rng.choice(fact.relation.says_en), english=True))
    ask = rng.choice(fact.relation.asks_en).format(s=fact.subject.en)
    if form == "free":
        return Document("question", "en", f"Question: {ask}\nAnswer:", " " + ", ".join(answers))
    options = world.options(fact, rng)
    listed = "\n".join(f"{letter} {o.en}" for letter, o in zip(LETTERS, options, strict=False))
    pick = "" if fact.relation.n_answers == 1 else " Choose two."
    return Document("question", "en", f"Question: {ask}{pick}\n{listed}\nAnswer:", " " + ", ".join(answers))


def _form(rng: random.Random) -> str:
    return rng.choices(list(FORMS), weights=list(FORMS.values()))[0]


def ja_shares(japanese: float) -> dict[str, float]:
    """What share of the Japanese documents is of which kind.

    Every base reads equally much with medical words: a corpus with more Japanese than `EQUAL_UP_TO` holds no more of it than one
    with just so much, and sentences of the general domain take the place.
    """
    fewer = min(1.0, EQUAL_UP_TO / japanese) if japanese else 1.0
    medical = {kind: JA_SHARES[kind] * fewer for kind in MEDICAL_KINDS}
    return medical | {"general": 1 - sum(medical.values())}
