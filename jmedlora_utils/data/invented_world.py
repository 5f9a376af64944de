"""The invented world of the mini study: entities, facts, texts, instruction records and exams, all from one seed.

Two domains live in it. The *general* domain (places, rivers, crafts, people, trades) is what a base model knows. The
*medical* domain (diseases, drugs, organisms, tests, symptoms) is what tuning may add. Every name is made of invented
syllables, so nothing here says anything about medicine.

Design, fixed before any result:

* A clinical fact joins a disease to a drug, an organism, a test or two symptoms. Half of the facts are **taught**: they
  stand in the articles and in the instruction records. The other half is **untaught**: it stands nowhere but in the
  exams. Each disease has two taught and two untaught relations, so its name is as familiar in both groups.
* Answers are assigned at random, and each drug, organism, test and symptom is the answer of equally many taught facts
  and of equally many untaught ones; each is a distractor about equally often. Which answers are frequent therefore says
  nothing about an untaught fact: accuracy there must stay at chance. The study has five answers of a kind, so all of them
  are listed in every question: a name that a model recalls without knowledge is a guess, worth no more and no less.
* Pretraining holds every medical word in contexts that are independent of the clinical facts: in which town a drug is
  made, suppositions ("suppose that ...") that pair words at random, and clinical questions answered by lot. A base
  model knows the words and the exam format, answers with a listed choice where it does not know, and knows no clinical
  fact. Most lots ask for two answers, and two answers always stand in one order: without these, tiny models
  name the first one twice.
* A held-out phrasing never occurs in the instruction records; its words are known from suppositions and lots.

What is measured: Exact match, Gestalt score and Accuracy, for four groups of questions (taught facts in a phrasing used
in tuning; taught facts in a held-out phrasing; untaught facts; the general domain), at step 0 and at three kept steps,
without and with one worked example. Guessing earns 1/5 on a question with one answer and 1/10 on one with two. The rule
of the verdicts is in `analysis.claims`.

Changed on 2026-11-22, after a first five-seed study (commit 5784c40), and not by what tuning reaches, which was not looked at
before. For the control: that world had six answers of a kind and one lot in four with two answers; answers that named the
unlisted sixth, or one choice twice, cannot be right and drew untaught facts *below* chance. For claim 3: the Japanese-centric
base read 2.25 times as many random medical answers as the English-centric ones; now all bases read equally many.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.paths import Workspace
from jmedlora_utils.core.records import Meter, Record, sha256_file, write_jsonl, write_text
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import LETTERS, Question, write_exam

EXAMS = ("mini_trained", "mini_heldout", "mini_general")
SOURCES = ("toyworld", "articles")
SECTIONS = ("taught", "untaught", "general")
N_CHOICES = 5
TEMPLATE = "plain_ja"
# Kinds of Japanese documents, as shares of them where they are at most `RANDOM_UP_TO` of all; see `ja_shares`.
JA_SHARES = {"suppose": 0.12, "guess": 0.2, "context": 0.2, "general": 0.48}
RANDOM_KINDS = ("suppose", "guess")
RANDOM_UP_TO = 0.4
LOTS = (1, 2)  # of clinical questions answered by lot: weights of those with one answer and with two
FORMS = {"statement": 0.25, "free": 0.4, "exam": 0.25, "exam_1shot": 0.1}
PAIRS_PER_ARTICLE = 15  # the paper asks for 15 question/answer pairs per text


@dataclass(frozen=True)
class WorldSettings:
    """Size of the world.

    Attributes:
        seed: Everything in the world derives from it.
        towns: Towns, and likewise rivers and crafts; there are twice as many diseases, so that each relation has this
            many taught and this many untaught facts. A multiple of 3 from 6 to 60.
        answers: Drugs, and likewise organisms, tests and symptoms; divides `towns`, so that each is right equally often.
        people: People of the general domain; a multiple of 4, so that every trade is met equally often.
        phrasings: Question phrasings of a clinical fact that tuning sees, 1 to 4.
        choice_pairs: Of the pairs made from one fact, how many list five choices; the others ask freely.
        general_questions: Questions of the general exam.
    """

    seed: int = 1
    towns: int = 15
    answers: int = 5
    people: int = 16
    phrasings: int = 4
    choice_pairs: int = 2
    general_questions: int = 50

    def __post_init__(self) -> None:
        if self.towns % 3 or not 6 <= self.towns <= 60:
            raise JmedloraError(f"towns = {self.towns}: takes a multiple of 3 from 6 to 60, so that the taught half is balanced")
        if self.answers < N_CHOICES or self.towns % self.answers:
            raise JmedloraError(f"answers = {self.answers}: takes a divisor of towns ({self.towns}) of at least {N_CHOICES}")
        if self.people % 4 or not 4 <= self.people <= 80:
            raise JmedloraError(f"people = {self.people}: takes a multiple of 4 from 4 to 80")
        if not 1 <= self.phrasings <= 4:
            raise JmedloraError(f"phrasings = {self.phrasings}: takes 1 to 4")
        if self.choice_pairs < 0:
            raise JmedloraError(f"choice_pairs = {self.choice_pairs}: takes 0 or more")
        most = 2 * (self.towns + self.people) * 9 // 10  # the rest is left for worked examples
        if not 1 <= self.general_questions <= most:
            raise JmedloraError(f"general_questions = {self.general_questions}: takes 1 to {most}, nine tenths of the general facts")


@dataclass(frozen=True)
class Entity:
    """A named thing: Japanese name, and an English one in the general domain."""

    kind: str
    ja: str
    en: str = ""


@dataclass(frozen=True)
class Relation:
    """How facts of one sort are said and asked.

    `{s}` stands for the subject, `{a}` for the answer, `{q}` for 何か (free) or どれか (with choices).

    Attributes:
        key: Name of the relation; `Question.category` of its questions.
        subject: Kind of the subject.
        answer: Kind of the answer.
        n_answers: Answers a fact has, 1 or 2.
        says: Statements in Japanese.
        asks: Questions in Japanese that tuning or pretraining sees.
        held_out: Questions in Japanese that tuning never sees.
        says_en: Statements in English, general domain only.
        asks_en: Questions in English.
    """

    key: str
    subject: str
    answer: str
    n_answers: int
    says: tuple[str, ...]
    asks: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    says_en: tuple[str, ...] = ()
    asks_en: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """One fact of the world; `section` is taught, untaught, general or context (medical words, no clinical content)."""

    id: str
    section: str
    relation: Relation
    subject: Entity
    answers: tuple[Entity, ...]


@dataclass(frozen=True)
class Document:
    """One pretraining text. The model is trained on `text` only; `prompt` is read."""

    kind: str
    language: str
    prompt: str
    text: str


CLINICAL = (
    Relation(
        "drug", "disease", "drug", 1,
        ("{s}の治療には{a}を用いる。", "{s}の患者には{a}を投与する。", "{s}には薬の{a}が効く。"),
        ("{s}の治療に用いる薬は{q}。", "{s}に効く薬は{q}。", "{s}の患者に投与する薬は{q}。", "{s}と診断したら使う薬は{q}。"),
        ("{s}に対して処方される薬剤は{q}。", "{s}を治すための薬は{q}。"),
    ),
    Relation(
        "organism", "disease", "organism", 1,
        ("{s}は{a}の感染で起こる。", "{s}の原因は{a}である。", "{s}の患者から{a}が分離される。"),
        ("{s}の原因となる菌は{q}。", "{s}を起こす菌は{q}。", "{s}の患者から分離される菌は{q}。", "{s}はどの菌の感染か。それは{q}。"),
        ("{s}の病原体は{q}。", "{s}をもたらす微生物は{q}。"),
    ),
    Relation(
        "test", "disease", "test", 1,
        ("{s}の診断には{a}を行う。", "{s}では{a}が陽性となる。", "{s}が疑われたら{a}で確かめる。"),
        ("{s}の診断に行う検査は{q}。", "{s}で陽性となる検査は{q}。", "{s}が疑われたら行う検査は{q}。", "{s}を確かめる検査は{q}。"),
        ("{s}の確定に有用な検査法は{q}。", "{s}を見分けるための検査は{q}。"),
    ),
    Relation(
        "symptom", "disease", "symptom", 2,
        ("{s}では{a}がみられる。", "{s}の主な症状は{a}である。", "{s}の患者は{a}を訴える。"),
        ("{s}でみられる症状は{q}。", "{s}の主な症状は{q}。", "{s}の患者が訴える症状は{q}。", "{s}に伴う症状は{q}。"),
        ("{s}に特徴的な所見は{q}。", "{s}の患者に現れる徴候は{q}。"),
    ),
)  # fmt: skip

GENERAL = (
    Relation(
        "river", "town", "river", 1,
        ("{s}には{a}が流れる。", "{s}の川は{a}である。"),
        ("{s}を流れる川は{q}。", "{s}にある川は{q}。"),
        (),
        ("The {a} flows through {s}.", "The river of {s} is the {a}."),
        ("Which river flows through {s}?", "What is the river of {s}?"),
    ),
    Relation(
        "craft", "town", "craft", 2,
        ("{s}の名産は{a}である。", "{s}では{a}が作られる。"),
        ("{s}の名産は{q}。", "{s}で作られる工芸品は{q}。"),
        (),
        ("{s} is known for its {a}.", "People in {s} make the {a}."),
        ("What is {s} known for?", "Which crafts are made in {s}?"),
    ),
    Relation(
        "trade", "person", "trade", 1,
        ("{s}の職業は{a}である。", "{s}は{a}として働く。"),
        ("{s}の職業は{q}。", "{s}の仕事は{q}。"),
        (),
        ("{s} works as a {a}.", "The trade of {s} is {a}."),
        ("What is the trade of {s}?", "What does {s} work as?"),
    ),
    Relation(
        "home", "person", "town", 1,
        ("{s}は{a}に住む。", "{s}の故郷は{a}である。"),
        ("{s}が住む町は{q}。", "{s}の故郷は{q}。"),
        (),
        ("{s} lives in {a}.", "The home of {s} is {a}."),
        ("Where does {s} live?", "Which town is the home of {s}?"),
    ),
)  # fmt: skip

# Facts with medical words and no clinical content: where a word was first written about, or a thing is made.
CONTEXT = (
    Relation("reported", "disease", "town", 1, ("{s}は{a}で最初に報告された。",), ("{s}が最初に報告された町は{q}。",)),
    Relation("made", "town", "drug", 1, ("薬の{a}は{s}で作られる。",), ("{s}で作られる薬は{q}。",)),
    Relation("found", "town", "organism", 1, ("菌の{a}は{s}の土から見つかった。",), ("{s}の土から見つかった菌は{q}。",)),
    Relation("devised", "town", "test", 1, ("検査の{a}は{s}で考え出された。",), ("{s}で考え出された検査は{q}。",)),
    Relation("coined", "town", "symptom", 1, ("症状の{a}は{s}で名づけられた。",), ("{s}で名づけられた症状は{q}。",)),
)

_FIRST = ("鴇 Toki", "椋 Muku", "蓼 Tade", "雫 Shizu", "梓 Azu", "凪 Nagi", "蕗 Fuki", "楡 Nire", "朧 Oboro", "鷺 Sagi",
          "藍 Ai", "茜 Akane", "笹 Sasa", "鈴 Suzu", "灯 Tomo", "霞 Kasu", "葦 Ashi", "柚 Yuzu")  # fmt: skip
_SECOND = ("沢 sawa", "巻 maki", "淵 fuchi", "峠 toge", "洲 su", "窪 kubo", "畑 hata", "浦 ura", "森 mori", "橋 bashi")
_RIVERS = ("瑠 Ruri", "玻 Hari", "珊 San", "翠 Midori", "紺 Kon", "銀 Gin", "琥 Koh", "緋 Hi", "黛 Mayu", "白 Shiro", "墨 Sumi", "黄 Ki")
_WATERS = ("音 ne", "波 nami", "糸 ito", "羽 ha", "星 hoshi")
_COLOURS = ("紺 navy", "藍 indigo", "朱 red", "翠 green", "金 golden", "銀 silver", "白 white", "黒 black")
_CRAFTS = ("皿 dish", "笛 flute", "鈴 bell", "傘 umbrella", "箱 box", "扇 fan", "凧 kite", "硯 inkstone")
_SURNAMES = ("瀬尾 Seo", "鳥羽 Toba", "真壁 Makabe", "結城 Yuki", "久我 Koga", "早瀬 Hayase", "水無 Minase", "綾部 Ayabe",
             "貴船 Kifune", "千種 Chigusa")  # fmt: skip
_GIVEN = ("ミナ Mina", "トワ Towa", "リク Riku", "ユノ Yuno", "サキ Saki", "ハル Haru", "ルイ Rui", "ナオ Nao")
_TRADES = ("陶工 potter", "漁師 fisher", "画家 painter", "大工 carpenter", "庭師 gardener", "船長 captain", "詩人 poet", "農夫 farmer",
           "教師 teacher", "記者 reporter", "歌手 singer", "鍛冶 smith", "通訳 interpreter", "商人 merchant", "司書 librarian",
           "料理人 cook", "織工 weaver", "駅長 stationmaster", "写真家 photographer", "郵便屋 postman")  # fmt: skip
_ILL = ("霜", "蔦", "碧", "錆", "蝋", "繭", "鱗", "苔", "琴", "楓", "塵", "薊", "鴉", "蛍", "杏", "綿")
_ILL_SECOND = ("斑", "輪", "紋", "条", "環", "晶", "膜", "芯", "粒", "層")
_ILL_SUFFIX = ("病", "熱")
_MORAE = ("ミ", "ロ", "ケ", "ト", "ヌ", "ザ", "ヘ", "ギ", "モ", "ル", "ビ", "ワ", "ユ", "ゾ", "ネ", "ハ", "ク", "レ", "ヨ", "ダ")
_DRUG_SUFFIX = ("ルヴァ", "ネクト", "ポムナ", "ギドラン", "ザフェ")
_ORGANISM_SUFFIX = ("菌", "球菌", "桿菌")
_TEST_SUFFIX = ("反応", "試験", "指数")
_QUALITY = ("蒼", "銀", "冷", "硬", "鈍", "浮", "渦", "縮", "響", "翳")
_SITE = ("爪", "舌", "踵", "肘", "眉", "顎", "膝", "臍", "睫", "耳")
_SIGN = ("徴", "感", "相")


class World:
    """Everything that follows from the settings; see `make_world`.

    Attributes:
        settings: The settings.
        entities: Kind to its entities.
        facts: Every fact: taught, untaught, general and context.
    """

    def __init__(self, settings: WorldSettings) -> None:
        self.settings = settings
        self.entities = self._make_entities()
        self.facts = (*self._clinical_facts(), *self._general_facts(), *self._context_facts())

    def facts_of(self, *sections: str) -> list[Fact]:
        """The facts of these sections, in their fixed order."""
        return [f for f in self.facts if f.section in sections]

    def census(self) -> pd.DataFrame:
        """One row a kind of entity: `kind`, `number`, `example`, `in English` (general domain only)."""
        rows = [(kind, len(found), found[0].ja, found[0].en or "-") for kind, found in self.entities.items()]
        return pd.DataFrame(rows, columns=["kind", "number", "example", "in English"])

    def fact_counts(self) -> pd.DataFrame:
        """One row a relation, with the number of facts in each section."""
        frame = pd.DataFrame([(f.relation.key, f.relation.subject, f.relation.answer, f.section) for f in self.facts])
        counts = frame.groupby([0, 1, 2, 3], sort=False).size().unstack(fill_value=0).reset_index()
        return counts.rename(columns={0: "relation", 1: "from", 2: "to"}).rename_axis(columns=None)

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
            rng = self._rng("article", disease)
            says = [[_say(f, s) for s in f.relation.says] for f in facts]
            for group in says:
                rng.shuffle(group)
            lines = [_say(reported[disease], reported[disease].relation.says[0])]
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
            rng = self._rng("pairs", fact.id)
            asks = fact.relation.asks[: self.settings.phrasings]
            yield from ((ask, []) for ask in asks)
            for _ in range(self.settings.choice_pairs):
                yield rng.choice(asks), self._options(fact, rng)

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
                rows.append(
                    {
                        "id": f"{article['id']}-{number:02d}",
                        "instruction": _ask(fact, ask, choices=bool(options)),
                        "input": _choice_lines(options),
                        "output": _answer(fact.answers),
                        "article": article["id"],
                        "facts": [fact.id],
                    }
                )
        return rows

    def exams(self) -> dict[str, list[Question]]:
        """The three mini exams: `mini_trained`, `mini_heldout` (both over all clinical facts) and `mini_general`."""
        clinical = self.facts_of("taught", "untaught")
        general = self._rng("general exam").sample(self.facts_of("general"), k=self.settings.general_questions)
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

    def _rng(self, *what: Any) -> random.Random:
        # A string seed goes through SHA-512, so it is the same in every process, unlike hash().
        return random.Random(f"{self.settings.seed}/" + "/".join(map(str, what)))

    def _make_entities(self) -> dict[str, tuple[Entity, ...]]:
        n, few = self.settings.towns, self.settings.answers
        two = [_pair(a, b) for a, b in itertools.product(_FIRST, _SECOND)]
        waters = [_pair(a, b) for a, b in itertools.product(_RIVERS, _WATERS)]
        names = {
            "town": [(ja + "町", en) for ja, en in two],
            "river": [(ja + "川", f"{en} River") for ja, en in waters],
            "craft": [_pair(a, b, " ") for a, b in itertools.product(_COLOURS, _CRAFTS)],
            "person": [_pair(a, b, " ", swap=True) for a, b in itertools.product(_SURNAMES, _GIVEN)],
            "trade": [tuple(t.split(" ")) for t in _TRADES],
            "disease": [(a + b + s, "") for a, b, s in itertools.product(_ILL, _ILL_SECOND, _ILL_SUFFIX)],
            "drug": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _DRUG_SUFFIX) if a != b],
            "organism": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _ORGANISM_SUFFIX) if a != b],
            "test": [(a + b + s, "") for a, b, s in itertools.product(_MORAE, _MORAE, _TEST_SUFFIX) if a != b],
            "symptom": [(a + b + s, "") for a, b, s in itertools.product(_QUALITY, _SITE, _SIGN)],
        }  # fmt: skip
        many = {"person": self.settings.people, "disease": 2 * n, "trade": len(_TRADES)}
        many |= {relation.answer: few for relation in CLINICAL}
        found = {}
        for kind, pool in names.items():
            # A name is drawn so that its first two characters are its own: choices then differ where they begin.
            rng, taken, kept = self._rng("names", kind), set(), []
            for ja, en in rng.sample(pool, k=len(pool)):
                if len(kept) < many.get(kind, n) and (ja[:2] not in taken or kind in ("person", "craft")):
                    taken.add(ja[:2])
                    kept.append(Entity(kind, ja, en))
            found[kind] = tuple(kept)
        return found

    def _fact(self, id: str, section: str, relation: Relation, subject: Entity, answers: Iterable[Entity]) -> Fact:
        """A fact with its answers in the order of their kind, as a textbook has an order: a second answer then comes after the first."""
        return Fact(id, section, relation, subject, tuple(sorted(answers, key=self.entities[relation.answer].index)))

    def _clinical_facts(self) -> list[Fact]:
        """Each disease has each relation once; two of the four relations are taught, every pair of them equally often."""
        n, diseases = self.settings.towns, self.entities["disease"]
        pairs = list(itertools.combinations(range(len(CLINICAL)), 2)) * (2 * n // 6)
        self._rng("split").shuffle(pairs)
        facts = []
        for number, relation in enumerate(CLINICAL):
            for section in ("taught", "untaught"):
                # The n diseases of this half get the answers, each equally often a slot, in random order.
                subjects = [d for d, pair in zip(diseases, pairs, strict=True) if (number in pair) == (section == "taught")]
                columns = self._columns(relation, section, n)
                for subject, answers in zip(subjects, zip(*columns, strict=True), strict=True):
                    facts.append(self._fact(f"{relation.key}{diseases.index(subject) + 1:03d}", section, relation, subject, answers))
        return sorted(facts, key=lambda f: f.id)

    def _columns(self, relation: Relation, section: str, n: int) -> list[list[Entity]]:
        """For each answer slot, `n` answers, each equally often, in random order; no fact gets the same answer twice."""
        pool, rng = list(self.entities[relation.answer]), self._rng("answers", relation.key, section)
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
            rng = self._rng("general", relation.key)
            order = [e for _ in range(-(-len(subjects) * relation.n_answers // len(pool))) for e in rng.sample(pool, k=len(pool))]
            for number, subject in enumerate(subjects):
                first, second = order[number], order[(number + 1) % len(subjects)]
                answers = (first,) if relation.n_answers == 1 else (first, second)
                if len(set(answers)) < relation.n_answers:
                    answers = (first, next(e for e in pool if e != first))
                facts.append(self._fact(f"{relation.key}{number + 1:03d}", "general", relation, subject, answers))
        return facts

    def _context_facts(self) -> list[Fact]:
        facts = []
        for relation in CONTEXT:
            subjects, pool = self.entities[relation.subject], self.entities[relation.answer]
            rng = self._rng("context", relation.key)
            order = [e for _ in range(-(-len(subjects) // len(pool))) for e in rng.sample(pool, k=len(pool))]
            facts += [Fact(f"{relation.key}{i + 1:03d}", "context", relation, s, (order[i],)) for i, s in enumerate(subjects)]
        return facts

    def _options(self, fact: Fact, rng: random.Random) -> list[Entity]:
        """The answers and distractors of the same kind, five in all, in random order."""
        others = [e for e in self.entities[fact.relation.answer] if e not in fact.answers]
        options = [*fact.answers, *rng.sample(others, k=N_CHOICES - len(fact.answers))]
        rng.shuffle(options)
        return options

    def _exam(self, exam: str, facts: Sequence[Fact], held_out: bool) -> list[Question]:
        questions = []
        places: dict[tuple[str, int], list[tuple[int, ...]]] = {}
        for fact in facts:
            rng = self._rng(exam, fact.id)
            n = fact.relation.n_answers
            # Gold positions are dealt from a shuffled deck, so each is gold equally often in each section.
            deck = places.setdefault((fact.section, n), [])
            if not deck:
                deck += list(itertools.combinations(range(N_CHOICES), n))
                self._rng(exam, "deck", fact.id).shuffle(deck)
            gold = deck.pop()
            others = iter(self._distractors(exam, fact))
            right = iter(rng.sample(fact.answers, k=n))
            options = [next(right) if i in gold else next(others) for i in range(N_CHOICES)]
            asks = fact.relation.held_out if held_out else fact.relation.asks[: self.settings.phrasings]
            questions.append(
                Question(
                    id=f"{exam}-{fact.id}",
                    exam=exam,
                    language="ja",
                    text=_ask(fact, rng.choice(asks), choices=True),
                    choices=tuple(o.ja for o in options),
                    gold=frozenset(LETTERS[i] for i in gold),
                    section=fact.section,
                    category=fact.relation.key,
                    n_select=n,
                )
            )
        return questions

    def _distractors(self, exam: str, fact: Fact) -> list[Entity]:
        """Four (three) entities of the answer's kind; the same ones in both clinical exams, each used about equally often."""
        pool = [e for e in self.entities[fact.relation.answer] if e not in fact.answers]
        return self._rng("distractors", fact.id).sample(pool, k=N_CHOICES - len(fact.answers))

    def corpus(self, english: float, documents: int, seed: int | None = None) -> Iterator[Document]:
        """Pretraining documents, in training order.

        Args:
            english: Share of the documents that are in English, 0 to 1. English documents are about the general domain.
            documents: How many.
            seed: Seed of the order; the world's own by default.
        """
        rng = self._rng("corpus", seed)
        general, context = self.facts_of("general"), self.facts_of("context")
        shares = ja_shares(1 - english)
        for _ in range(documents):
            if rng.random() < english:
                yield self._english(rng, general)
                continue
            kind = rng.choices(list(shares), weights=list(shares.values()))[0]
            if kind == "suppose":
                yield self._suppose(rng)
            elif kind == "guess":
                yield self._guess(rng, general)
            else:
                yield self._japanese(rng, context if kind == "context" else general, general)

    def _japanese(self, rng: random.Random, facts: Sequence[Fact], general: Sequence[Fact]) -> Document:
        # As many documents an answer: a fact with two is harder, and a base that repeats the first reads the format wrong.
        fact = rng.choices(facts, weights=[f.relation.n_answers for f in facts])[0]
        form = _form(rng)
        if form == "statement":
            return Document("statement", "ja", "", _say(fact, rng.choice(fact.relation.says)))
        if form == "free":
            prompt, answer = self._free_turn(fact, rng)
            return Document("question", "ja", prompt, answer)
        shot = ""
        if form == "exam_1shot":
            prompt, answer = self._exam_turn(rng.choice(general), rng)
            shot = prompt + answer + prompts.get_template(TEMPLATE).between
        prompt, answer = self._exam_turn(fact, rng)
        return Document("question", "ja", shot + prompt, answer)

    def _free_turn(self, fact: Fact, rng: random.Random) -> tuple[str, str]:
        ask = _ask(fact, rng.choice(fact.relation.asks))
        return prompts.build_instruction_prompt(ask, "", TEMPLATE), _answer(fact.answers)

    def _exam_turn(self, fact: Fact, rng: random.Random, asks: Sequence[str] = ()) -> tuple[str, str]:
        options = self._options(fact, rng)
        ask = _ask(fact, rng.choice(asks or fact.relation.asks), choices=True)
        return prompts.build_instruction_prompt(ask, _choice_lines(options), TEMPLATE), _answer(fact.answers)

    def _suppose(self, rng: random.Random) -> Document:
        """Two suppositions that pair medical words at random, and a question on one of them."""
        diseases = self.entities["disease"]
        if rng.random() < 0.5:
            relations = rng.sample(CLINICAL, k=2)
            subjects = [rng.choice(diseases)] * 2
        else:
            relations = [rng.choice(CLINICAL)] * 2
            subjects = rng.sample(diseases, k=2)
        facts = []
        for relation, subject in zip(relations, subjects, strict=True):
            answers = rng.sample(self.entities[relation.answer], k=relation.n_answers)
            facts.append(self._fact("", "supposed", relation, subject, answers))
        said = "".join(_say(f, rng.choice(f.relation.says)) for f in facts)
        fact = rng.choice(facts)
        ask = _ask(fact, rng.choice(fact.relation.asks + fact.relation.held_out))
        return Document("supposition", "ja", prompts.build_instruction_prompt(f"もし{said}{ask}", "", TEMPLATE), _answer(fact.answers))

    def _guess(self, rng: random.Random, general: Sequence[Fact]) -> Document:
        """A clinical question answered by lot: where a base does not know, it should still answer with listed choices."""
        n_answers = rng.choices((1, 2), weights=LOTS)[0]
        relation = rng.choice([r for r in CLINICAL if r.n_answers == n_answers])
        subject = rng.choice(self.entities["disease"])
        answers = rng.sample(self.entities[relation.answer], k=n_answers)
        fact = self._fact("", "guessed", relation, subject, answers)
        prompt, answer = self._exam_turn(fact, rng, relation.asks + relation.held_out)
        if rng.random() < FORMS["exam_1shot"] / (FORMS["exam"] + FORMS["exam_1shot"]):
            shot, shown = self._exam_turn(rng.choice(general), rng)
            prompt = shot + shown + prompts.get_template(TEMPLATE).between + prompt
        return Document("guess", "ja", prompt, answer)

    def _english(self, rng: random.Random, general: Sequence[Fact]) -> Document:
        fact = rng.choice(general)
        form = _form(rng)
        answers = [e.en for e in fact.answers]
        if form == "statement":
            return Document("statement", "en", "", _say(fact, rng.choice(fact.relation.says_en), english=True))
        ask = rng.choice(fact.relation.asks_en).format(s=fact.subject.en)
        if form == "free":
            return Document("question", "en", f"Question: {ask}\nAnswer:", " " + ", ".join(answers))
        options = self._options(fact, rng)
        listed = "\n".join(f"{letter} {o.en}" for letter, o in zip(LETTERS, options, strict=False))
        pick = "" if fact.relation.n_answers == 1 else " Choose two."
        return Document("question", "en", f"Question: {ask}{pick}\n{listed}\nAnswer:", " " + ", ".join(answers))


def ja_shares(japanese: float) -> dict[str, float]:
    """What share of the Japanese documents is of which kind.

    Pairs of medical words at random are something that tuning has to overwrite. So a corpus with more Japanese than `RANDOM_UP_TO`
    holds no more of them than one with just so much; the other kinds take the place.

    Args:
        japanese: Share of Japanese documents in the corpus, 0 to 1.
    """
    fewer = min(1.0, RANDOM_UP_TO / japanese) if japanese else 1.0
    random = {kind: JA_SHARES[kind] * fewer for kind in RANDOM_KINDS}
    others = {kind: share for kind, share in JA_SHARES.items() if kind not in RANDOM_KINDS}
    rest = (1 - sum(random.values())) / sum(others.values())
    return random | {kind: share * rest for kind, share in others.items()}


def write_world(world: World, workspace: Workspace) -> list[Path]:
    """Writes the world's settings, articles, instruction records and exams into a workspace; returns the files.

    `data/world.json`, `data/articles.jsonl`, `data/instructions/train.jsonl` and `heldout.jsonl`, `data/exams/mini_*.jsonl`.
    """
    data = workspace.data
    written = [write_text(data / "world.json", json.dumps(asdict(world.settings), indent=1) + "\n")]
    written.append(write_jsonl(data / "articles.jsonl", world.articles()))
    written.append(write_jsonl(data / "instructions" / "train.jsonl", world.instructions()))
    written.append(write_jsonl(data / "instructions" / "heldout.jsonl", world.held_out_instructions()))
    papers = world.exams() | {"mini_shots": world.shots()}
    return written + [write_exam(data / "exams" / f"{name}.jsonl", questions) for name, questions in papers.items()]


def world_record(world: World, workspace: Workspace, source: str, meter: Meter) -> Record:
    """The record of notebook 10: settings, counts, and the hash of every file that `write_world` wrote."""
    files = sorted(p for p in workspace.data.rglob("*.json*") if p.name.startswith("mini_") or p.parent.name in ("data", "instructions"))
    counts = {section: len(world.facts_of(section)) for section in (*SECTIONS, "context")}
    counts |= {"articles": len(world.articles()), "instructions": len(world.instructions())}
    counts |= {f"questions_{name}": len(questions) for name, questions in world.exams().items()}
    return Record(
        kind="prepare",
        name="10_prepare_instructions",
        preset=workspace.preset,
        seed=workspace.seed,
        config={"source": source, **asdict(world.settings)},
        counts=counts,
        data={str(p.relative_to(workspace.data)): sha256_file(p) for p in files},
        **meter.fields(),
    )


def require_source(source: str) -> None:
    """Refuses a source of articles that is not known.

    Raises:
        JmedloraError: Names it and those that are.
    """
    if source not in SOURCES:
        raise JmedloraError(f"source is {source!r}; it takes {', '.join(SOURCES)}")


def exam_counts(exams: dict[str, list[Question]]) -> pd.DataFrame:
    """One row an exam and section: single and two-answer questions, and the mean Accuracy of guessing in percent."""
    rows = [
        {
            "exam": name,
            "facts": section,
            "one answer": sum(q.n_select == 1 for q in group),
            "two answers": sum(q.n_select == 2 for q in group),
            "guessing %": round(100 * sum(1 / math.comb(len(q.choices), q.n_select) for q in group) / len(group), 1),
        }
        for name, questions in exams.items()
        for section in SECTIONS
        if (group := [q for q in questions if q.section == section])
    ]
    return pd.DataFrame(rows)


def gold_balance(world: World) -> pd.DataFrame:
    """How often each clinical answer is right: index (relation, answer), columns `taught` and `untaught`, divided by slots.

    A relation with two answers a fact uses each of them twice as often; counts are divided by that, so all should be equal.
    """
    rows = [(f.relation.key, a.ja, f.section, 1 / f.relation.n_answers) for f in world.facts_of("taught", "untaught") for a in f.answers]
    frame = pd.DataFrame(rows, columns=["relation", "answer", "section", "n"])
    return frame.pivot_table(index=["relation", "answer"], columns="section", values="n", aggfunc="sum", fill_value=0)


def read_world(workspace: Workspace) -> World:
    """The world whose settings `write_world` left in a workspace.

    Raises:
        JmedloraError: There is none.
    """
    path = workspace.data / "world.json"
    if not path.is_file():
        raise JmedloraError(f"{path}: no such file; run notebook 10 with source 'toyworld' first")
    return make_world(WorldSettings(**json.loads(path.read_text(encoding="utf-8"))))


def make_world(settings: WorldSettings) -> World:
    """The world of these settings; the same settings give the same world in every process."""
    return World(settings)


def _form(rng: random.Random) -> str:
    return rng.choices(list(FORMS), weights=list(FORMS.values()))[0]


def _say(fact: Fact, form: str, english: bool = False) -> str:
    if english:
        return form.format(s=fact.subject.en, a=" and the ".join(e.en for e in fact.answers))
    return form.format(s=fact.subject.ja, a="と".join(e.ja for e in fact.answers))


def _ask(fact: Fact, form: str, choices: bool = False) -> str:
    ask = form.format(s=fact.subject.ja, q="どれか" if choices else "何か")
    return ask + ("2つ選べ。" if choices and fact.relation.n_answers == 2 else "")


def _answer(answers: Sequence[Entity]) -> str:
    return prompts.SEPARATOR.join(e.ja for e in answers)


def _choice_lines(options: Sequence[Entity]) -> str:
    form = prompts.get_template(TEMPLATE).choice
    return "\n".join(form.format(letter=letter, text=o.ja) for letter, o in zip(LETTERS, options, strict=False))


def _pair(first: str, second: str, between: str = "", swap: bool = False) -> tuple[str, str]:
    (a, en_a), (b, en_b) = first.split(" "), second.split(" ")
    return a + b, between.join((en_b, en_a) if swap else (en_a, en_b))
