"""The invented world of the mini study: entities, facts, texts, instruction records and exams, all from one seed.

Its design was fixed before any result; notebook 10 states it, and the rule of the verdicts is in `analysis.claims`.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.paths import Workspace
from jmedlora_utils.core.records import read_json, write_json, write_jsonl
from jmedlora_utils.data import invented_names, prompts
from jmedlora_utils.data.invented_names import CLINICAL, CONTEXT, GENERAL, Entity, Relation
from jmedlora_utils.data.questions import LETTERS, Question, write_exam

SOURCES = ("toyworld", "articles")
N_CHOICES = 5
TEMPLATE = "plain_ja"
PAIRS_PER_ARTICLE = 15  # the paper asks for 15 question/answer pairs per text


@dataclass(frozen=True)
class WorldSettings:
    """Size of the world; everything else derives from it."""

    seed: int = 1  #: Everything in the world derives from it
    #: Towns, and likewise rivers and crafts; there are twice as many diseases, so that each relation has this many taught and this many
    #: untaught facts. A multiple of 3 from 6 to 60.
    towns: int = 15
    answers: int = 5  #: Drugs, and likewise organisms, tests and symptoms; divides `towns`, so that each is right equally often
    people: int = 16  #: People of the general domain; a multiple of 4, so that every trade is met equally often
    phrasings: int = 4  #: Question phrasings of a clinical fact that tuning sees, 1 to 4
    choice_pairs: int = 2  #: Of the pairs made from one fact, how many list five choices; the others ask freely
    general_questions: int = 50  #: Questions of the general exam

    def __post_init__(self) -> None:
        most = 2 * (self.towns + self.people) * 9 // 10  # the rest is left for worked examples
        for name, met, takes in (
            ("towns", self.towns % 3 == 0 and 6 <= self.towns <= 60, "a multiple of 3 from 6 to 60, so that the taught half is balanced"),
            ("answers", self.answers >= N_CHOICES and self.towns % self.answers == 0, f"a divisor of towns of at least {N_CHOICES}"),
            ("people", self.people % 4 == 0 and 4 <= self.people <= 80, "a multiple of 4 from 4 to 80"),
            ("phrasings", 1 <= self.phrasings <= 4, "1 to 4"),
            ("choice_pairs", self.choice_pairs >= 0, "0 or more"),
            ("general_questions", 1 <= self.general_questions <= most, f"1 to {most}, nine tenths of the general facts"),
        ):
            if not met:
                raise JmedloraError(f"{name} = {getattr(self, name)}: takes {takes}")


@dataclass(frozen=True)
class Fact:
    """One fact of the world; `section` is taught, untaught, general or context (medical words, no clinical content)."""

    id: str
    section: str
    relation: Relation
    subject: Entity
    answers: tuple[Entity, ...]


class World:
    """Everything that follows from the settings; the same settings give the same world in every process."""

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.entities = self._make_entities()  #: Kind to its entities
        self.facts = (*self._clinical_facts(), *self._general_facts(), *self._context_facts())

    def facts_of(self, *sections: str) -> list[Fact]:
        """The facts of these sections, in their fixed order."""
        return [f for f in self.facts if f.section in sections]

    def articles(self) -> list[dict[str, Any]]:
        """One short article a disease, from its taught facts only.

        Returns:
            Rows with `id`, `title`, `text` and `facts` (ids of the facts it states).
        """
        by_disease: dict[str, list[Fact]] = {}
        for fact in self.facts_of("taught"):
            by_disease.setdefault(fact.subject.ja, []).append(fact)
        reported = {f.subject.ja: f for f in self.facts_of("context") if f.relation.key == "reported"}
        rows = []
        for number, (disease, facts) in enumerate(by_disease.items(), start=1):
            rng = self.rng("article", disease)
            says = [[say_fact(f, s) for s in f.relation.says] for f in facts]
            for group in says:
                rng.shuffle(group)
            lines = [say_fact(reported[disease], reported[disease].relation.says[0])]
            lines += [line for turn in itertools.zip_longest(*says) for line in turn if line]
            rows.append({"id": f"article{number:03d}", "title": disease, "text": "".join(lines), "facts": [f.id for f in facts]})
        return rows

    def instructions(self) -> list[dict[str, Any]]:
        """Question/answer pairs made from the articles, at most 15 an article.

        Each taught fact is asked freely in every training phrasing, and `choice_pairs` times with five choices.

        Returns:
            Rows with `id`, `instruction`, `input` (the choices, or empty), `output`, `article` and `facts`.
        """

        def pairs(fact: Fact) -> Iterator[tuple[str, list[Entity]]]:
            rng = self.rng("pairs", fact.id)
            asks = fact.relation.asks[: self.settings.phrasings]
            yield from ((ask, []) for ask in asks)
            for _ in range(self.settings.choice_pairs):
                yield rng.choice(asks), self.options(fact, rng)

        return self._records(pairs)

    def held_out_instructions(self) -> list[dict[str, Any]]:
        """The same taught facts in the phrasings that tuning never sees, for the loss on unseen wording; rows as `instructions`."""
        return self._records(lambda fact: ((ask, []) for ask in fact.relation.held_out))

    def _records(self, pairs: Callable[[Fact], Iterable[tuple[str, list[Entity]]]]) -> list[dict[str, Any]]:
        known = {f.id: f for f in self.facts_of("taught")}
        rows = []
        for article in self.articles():
            made = [(fact, ask, options) for fact in (known[i] for i in article["facts"]) for ask, options in pairs(fact)]
            for number, (fact, ask, options) in enumerate(made[:PAIRS_PER_ARTICLE], start=1):
                asked = {"instruction": ask_fact(fact, ask, choices=bool(options)), "input": choice_lines(options)}
                row = {"id": f"{article['id']}-{number:02d}", **asked, "output": answer_names(fact.answers)}
                rows.append(row | {"article": article["id"], "facts": [fact.id]})
        return rows

    def exams(self) -> dict[str, list[Question]]:
        """The three mini exams: `mini_trained`, `mini_heldout` (both over all clinical facts) and `mini_general`."""
        clinical = self.facts_of("taught", "untaught")
        general = self.rng("general exam").sample(self.facts_of("general"), k=self.settings.general_questions)
        return {
            "mini_trained": self._exam("mini_trained", clinical, held_out=False),
            "mini_heldout": self._exam("mini_heldout", clinical, held_out=True),
            "mini_general": self._exam("mini_general", general, held_out=False),
        }

    def shots(self) -> list[Question]:
        """Single-answer general questions that are in no exam: the pool of worked examples."""
        asked = {q.id.removeprefix("mini_general-") for q in self.exams()["mini_general"]}
        free = [f for f in self.facts_of("general") if f.id not in asked and f.relation.n_answers == 1]
        return self._exam("mini_shots", free, held_out=False)

    def rng(self, *what: Any) -> random.Random:
        # A string seed goes through SHA-512, so it is the same in every process, unlike hash().
        return random.Random(f"{self.settings.seed}/" + "/".join(map(str, what)))

    def _make_entities(self) -> dict[str, tuple[Entity, ...]]:
        n, few = self.settings.towns, self.settings.answers
        many = {"person": self.settings.people, "disease": 2 * n, "trade": len(invented_names.PARTS["trade"])}
        many |= {relation.answer: few for relation in CLINICAL}
        found = {}
        for kind, pool in invented_names.pools().items():
            # A name is drawn so that its first two characters are its own: choices then differ where they begin.
            rng, taken, kept = self.rng("names", kind), set(), []
            for ja, en in rng.sample(pool, k=len(pool)):
                if len(kept) < many.get(kind, n) and (ja[:2] not in taken or kind in ("person", "craft")):
                    taken.add(ja[:2])
                    kept.append(Entity(kind, ja, en))
            found[kind] = tuple(kept)
        return found

    def fact(self, id: str, section: str, relation: Relation, subject: Entity, answers: Iterable[Entity]) -> Fact:
        """A fact with its answers in the order of their kind, as a textbook has an order: a second answer then comes after the first."""
        return Fact(id, section, relation, subject, tuple(sorted(answers, key=self.entities[relation.answer].index)))

    def _clinical_facts(self) -> list[Fact]:
        """Each disease has each relation once; two of the four relations are taught, every pair of them equally often."""
        n, diseases = self.settings.towns, self.entities["disease"]
        pairs = list(itertools.combinations(range(len(CLINICAL)), 2)) * (2 * n // 6)
        self.rng("split").shuffle(pairs)
        facts = []
        for number, relation in enumerate(CLINICAL):
            for section in ("taught", "untaught"):
                # The n diseases of this half get the answers, each equally often a slot, in random order.
                subjects = [d for d, pair in zip(diseases, pairs, strict=True) if (number in pair) == (section == "taught")]
                columns = self._columns(relation, section, n)
                for subject, answers in zip(subjects, zip(*columns, strict=True), strict=True):
                    facts.append(self.fact(f"{relation.key}{diseases.index(subject) + 1:03d}", section, relation, subject, answers))
        return sorted(facts, key=lambda f: f.id)

    def _columns(self, relation: Relation, section: str, n: int) -> list[list[Entity]]:
        """For each answer slot, `n` answers, each equally often, in random order; no fact gets the same answer twice."""
        pool, rng = list(self.entities[relation.answer]), self.rng("answers", relation.key, section)
        first = [e for _ in range(n // len(pool)) for e in rng.sample(pool, k=len(pool))]
        if relation.n_answers == 1:
            return [first]
        # The second answer is the first one moved around a circle of the pool. Steps are dealt, so that no pair is right much more often.
        steps = [step for _ in range(n // len(pool)) for step in rng.sample(range(1, len(pool) // 2 + 1), k=len(pool) // 2)]
        circle = rng.sample(pool, k=len(pool))
        place = {e: i for i, e in enumerate(circle)}
        return [first, [circle[(place[e] + steps[k // len(pool)]) % len(pool)] for k, e in enumerate(first)]]

    def _general_facts(self) -> list[Fact]:
        facts = []
        for relation in GENERAL:
            subjects, pool = self.entities[relation.subject], self.entities[relation.answer]
            rng = self.rng("general", relation.key)
            order = [e for _ in range(-(-len(subjects) * relation.n_answers // len(pool))) for e in rng.sample(pool, k=len(pool))]
            for number, subject in enumerate(subjects):
                first, second = order[number], order[(number + 1) % len(subjects)]
                answers = (first,) if relation.n_answers == 1 else (first, second)
                if len(set(answers)) < relation.n_answers:
                    answers = (first, next(e for e in pool if e != first))
                facts.append(self.fact(f"{relation.key}{number + 1:03d}", "general", relation, subject, answers))
        return facts

    def _context_facts(self) -> list[Fact]:
        facts = []
        for relation in CONTEXT:
            subjects, pool = self.entities[relation.subject], self.entities[relation.answer]
            rng = self.rng("context", relation.key)
            order = [e for _ in range(-(-len(subjects) // len(pool))) for e in rng.sample(pool, k=len(pool))]
            facts += [Fact(f"{relation.key}{i + 1:03d}", "context", relation, s, (order[i],)) for i, s in enumerate(subjects)]
        return facts

    def options(self, fact: Fact, rng: random.Random) -> list[Entity]:
        """The answers and distractors of the same kind, five in all, in random order."""
        others = [e for e in self.entities[fact.relation.answer] if e not in fact.answers]
        options = [*fact.answers, *rng.sample(others, k=N_CHOICES - len(fact.answers))]
        rng.shuffle(options)
        return options

    def _exam(self, exam: str, facts: Sequence[Fact], held_out: bool) -> list[Question]:
        questions = []
        places: dict[tuple[str, int], list[tuple[int, ...]]] = {}
        for fact in facts:
            rng = self.rng(exam, fact.id)
            n = fact.relation.n_answers
            # Gold positions are dealt from a shuffled deck, so each is gold equally often in each section.
            deck = places.setdefault((fact.section, n), [])
            if not deck:
                deck += list(itertools.combinations(range(N_CHOICES), n))
                self.rng(exam, "deck", fact.id).shuffle(deck)
            gold = deck.pop()
            # The same distractors in both clinical exams, each used about equally often.
            pool = [e for e in self.entities[fact.relation.answer] if e not in fact.answers]
            others = iter(self.rng("distractors", fact.id).sample(pool, k=N_CHOICES - n))
            right = iter(rng.sample(fact.answers, k=n))
            options = [next(right) if i in gold else next(others) for i in range(N_CHOICES)]
            asks = fact.relation.held_out if held_out else fact.relation.asks[: self.settings.phrasings]
            questions.append(
                Question(
                    id=f"{exam}-{fact.id}",
                    exam=exam,
                    language="ja",
                    text=ask_fact(fact, rng.choice(asks), choices=True),
                    choices=tuple(o.ja for o in options),
                    gold=frozenset(LETTERS[i] for i in gold),
                    section=fact.section,
                    category=fact.relation.key,
                    n_select=n,
                )
            )
        return questions


def write_world(world: World, workspace: Workspace) -> list[Path]:
    """Writes the world's settings, articles, instruction records and exams into a workspace; returns the files.

    `data/world.json`, `data/articles.jsonl`, `data/instructions/train.jsonl` and `heldout.jsonl`, `data/exams/mini_*.jsonl`.
    """
    data, exams = workspace.data, world.exams() | {"mini_shots": world.shots()}
    return [
        write_json(data / "world.json", asdict(world.settings)),
        write_jsonl(data / "articles.jsonl", world.articles()),
        write_jsonl(data / "instructions" / "train.jsonl", world.instructions()),
        write_jsonl(data / "instructions" / "heldout.jsonl", world.held_out_instructions()),
        *(write_exam(data / "exams" / f"{name}.jsonl", questions) for name, questions in exams.items()),
    ]


def require_source(source: str) -> None:
    """Refuses a source of articles that is not known."""
    if source not in SOURCES:
        raise JmedloraError(f"source is {source!r}; it takes {', '.join(SOURCES)}")


def read_world(workspace: Workspace) -> World:
    """The world whose settings `write_world` left in a workspace."""
    path = workspace.data / "world.json"
    if not path.is_file():
        raise JmedloraError(f"{path}: no such file; run notebook 10 with source 'toyworld' first")
    return World(WorldSettings(**read_json(path)))


def say_fact(fact: Fact, form: str, english: bool = False) -> str:
    if english:
        return form.format(s=fact.subject.en, a=" and the ".join(e.en for e in fact.answers))
    return form.format(s=fact.subject.ja, a="と".join(e.ja for e in fact.answers))


def ask_fact(fact: Fact, form: str, choices: bool = False) -> str:
    ask = form.format(s=fact.subject.ja, q="どれか" if choices else "何か")
    return ask + ("2つ選べ。" if choices and fact.relation.n_answers == 2 else "")


def answer_names(answers: Sequence[Entity]) -> str:
    return prompts.SEPARATOR.join(e.ja for e in answers)


def choice_lines(options: Sequence[Entity]) -> str:
    form = prompts.get_template(TEMPLATE).choice
    return "\n".join(form.format(letter=letter, text=o.ja) for letter, o in zip(LETTERS, options, strict=False))
