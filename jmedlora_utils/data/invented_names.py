"""Names and sentences of the invented world, from `resources/invented_names.yaml`."""

import itertools
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.records import read_yaml


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
    """

    key: str  #: Name of the relation; `Question.category` of its questions
    subject: str  #: Kind of the subject
    answer: str  #: Kind of the answer
    n_answers: int  #: Answers a fact has, 1 or 2
    says: tuple[str, ...]  #: Statements in Japanese
    asks: tuple[str, ...]  #: Questions in Japanese that tuning or pretraining sees
    held_out: tuple[str, ...] = ()  #: Questions in Japanese that tuning never sees
    says_en: tuple[str, ...] = ()  #: Statements in English, general domain only
    asks_en: tuple[str, ...] = ()  #: Questions in English


def _relation(values: dict[str, Any]) -> Relation:
    return Relation(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


_FILE = read_yaml(paths.PACKAGE_DATA / "invented_names.yaml")
PARTS: dict[str, list[str]] = _FILE["parts"]
CLINICAL_IN_ENGLISH: dict[str, list[str]] = _FILE["clinical_in_english"]  #: Relation to its `asks` in English, in the same order
# Facts of context hold medical words and no clinical content: where a word was first written about, or a thing is made.
CLINICAL, GENERAL, CONTEXT = (tuple(map(_relation, _FILE[domain])) for domain in ("clinical", "general", "context"))


def pools() -> dict[str, list[tuple[str, str]]]:
    """Every possible (Japanese, English) name of each kind; English ones are empty in the medical domain."""

    def bilingual(first: str, second: str, between: str = "", swap: bool = False) -> list[tuple[str, str]]:
        pairs = [(a.split(" "), b.split(" ")) for a, b in itertools.product(PARTS[first], PARTS[second])]
        return [(a + b, between.join((en_b, en_a) if swap else (en_a, en_b))) for (a, en_a), (b, en_b) in pairs]

    def invented(*parts: str) -> list[tuple[str, str]]:
        return [("".join(name), "") for name in itertools.product(*(PARTS[part] for part in parts)) if name[0] != name[1]]

    return {
        "town": [(f"{ja}町", en) for ja, en in bilingual("first", "second")],
        "river": [(f"{ja}川", f"{en} River") for ja, en in bilingual("river", "water")],
        "craft": bilingual("colour", "craft", " "),
        "person": bilingual("surname", "given", " ", swap=True),
        "trade": [tuple(trade.split(" ")) for trade in PARTS["trade"]],
        "disease": invented("ill", "ill_second", "ill_suffix"),
        "drug": invented("mora", "mora", "drug_suffix"),
        "organism": invented("mora", "mora", "organism_suffix"),
        "test": invented("mora", "mora", "test_suffix"),
        "symptom": invented("quality", "site", "sign"),
    }


def look_alikes(name: str, taken: Collection[str], rng: random.Random) -> list[str]:
    """Two names that differ from a drug's, an organism's or a test's in its first or its second syllable, and are nothing's name."""
    first = [mora + name[1:] for mora in PARTS["mora"] if mora not in name[:2]]
    second = [name[0] + mora + name[2:] for mora in PARTS["mora"] if mora not in name[:2]]
    return [rng.choice([new for new in made if new not in taken]) for made in (first, second)]
