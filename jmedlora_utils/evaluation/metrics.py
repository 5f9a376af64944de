"""Exact match, Gestalt score and Accuracy: three gestalt distances, three scorers, one table.

The journal defines, for choices C1..C5, the correct one C* and a response R:

* ExactMatch = 1 if R = C*, else 0;
* GestaltDistance(R, C) = 2|K| / (|R| + |C|), higher is closer; the Gestalt score is GestaltDistance(R, C*);
* Accuracy = 1 if the argmax over C of GestaltDistance(R, C) is C*, else 0.

It says nothing on questions with several right answers, ties, letters or free numbers; each scorer's docstring says what
it does with them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import combinations, permutations

import pandas as pd

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import LETTERS, Question
from jmedlora_utils.evaluation import reading

VARIANTS = ("longest", "ratio", "mean_ratio")
SCORERS = ("journal", "harness", "strict")
DEFAULT_VARIANT = {"journal": "longest", "harness": "mean_ratio", "strict": "ratio"}
BASELINES = ("empty response", "first choice", "longest choice", "random choice", "oracle")

SEPARATORS = (" and ", ", ", "、", ",", "，", "､", "・", "／", "/", "\n", "と")
"""What may stand between several answers; an answer joined by any of them is the same answer."""

NEAR = 0.5
"""`strict` takes the nearest answer for a response it cannot read only from this similarity up: half of all characters."""


@dataclass(frozen=True)
class Score:
    """What one scorer says of one response."""

    exact_match: float  #: 0 or 1
    gestalt: float  #: Similarity of the response to the right answer, 0 to 1
    accuracy: float  #: 0 or 1
    readable: bool  #: Whether the scorer could tell what was chosen
    picked: frozenset[str] = frozenset()  #: Letters it took as chosen; empty for free numbers and unreadable responses


def gestalt_distance(response: str, choice: str, variant: str = "longest") -> float:
    """Similarity of two texts, 0 to 1; the paper calls it a distance, yet higher is closer.

    Args:
        response: R.
        choice: C.
        variant: `longest`: 2|K| / (|R| + |C|), K the longest common substring (the journal's wording). `ratio`: K all
            matched characters, `SequenceMatcher(R, C)` without its heuristic for popular characters. `mean_ratio`: the
            ratio averaged over both orders, heuristic on (the first author's 2024 code).
    """
    return _distance(response, choice, _known_variant(variant))


def _known_variant(variant: str) -> str:
    if variant not in VARIANTS:
        raise JmedloraError(f"no gestalt variant {variant!r}; known: {', '.join(VARIANTS)}")
    return variant


@lru_cache(maxsize=1 << 18)
def _distance(response: str, choice: str, variant: str) -> float:
    if variant == "mean_ratio":
        return (SequenceMatcher(None, choice, response).ratio() + SequenceMatcher(None, response, choice).ratio()) / 2
    if response == choice:
        return 1.0
    if not response or not choice:
        return 0.0
    matcher = SequenceMatcher(None, response, choice, autojunk=False)
    if variant == "ratio":
        return matcher.ratio()
    return 2 * matcher.find_longest_match().size / (len(response) + len(choice))


def score(question: Question, response: str, scorer: str = "strict", variant: str | None = None) -> Score:
    """Scores one response."""
    if scorer not in SCORERS:
        raise JmedloraError(f"no scorer {scorer!r}; known: {', '.join(SCORERS)}")
    chosen = _known_variant(variant or DEFAULT_VARIANT[scorer])
    if scorer == "harness":
        if chosen != "mean_ratio":
            raise JmedloraError(
                f"scorer 'harness' is the first author's rule with mean_ratio; leave out variant {chosen!r} or score with 'journal'"
            )
        return harness_score(question, response)
    return (journal_score if scorer == "journal" else strict_score)(question, response, chosen)


def journal_score(question: Question, response: str, variant: str = "longest") -> Score:
    """The journal's formulas on the raw strings; only the blanks around the response are dropped.

    Our reading where it is silent. Several answers: S is every set of as many choices as the stem asks for, each
    written in every order and with every separator; the distance to a set is the largest over its writings. A tie or
    a distance of zero picks nothing, so an empty response is never right. `any`: C* is each of gold. A free number is
    compared as a string. An item credited to everyone is right.
    """
    response = response.strip()
    if question.rule == "always":
        return _credited(response)
    if question.rule == "number":
        same = float(response == question.number)
        return Score(same, _distance(response, question.number or "", variant), same, bool(response))
    right = _right_sets(question)
    by_set = _nearest(question, question.choices, response, variant)
    gestalt = max(by_set[s] for s in right)
    exact = float(any(response in _writings(question.choices, s, SEPARATORS) for s in right))
    picked = _unique_best(by_set, question.choices)
    accurate = float(is_right(question, picked))
    return Score(exact, 1.0 if exact else gestalt, accurate, bool(picked), picked)


def harness_score(question: Question, response: str) -> Score:
    """The rule of the first author's 2024 harness (japanese-lm-med-harness), its oddities included.

    Only the first line counts. Gold choices are joined by commas and split again, so a comma inside a choice makes two
    answers; as many choices are picked as that gives. Full stops go from response and gold, not from the choices. Each
    pick is the first choice with the largest two-way mean ratio; a picked choice leaves the list by its text and its
    score by its place, so equal choices make the two drift. What raises an error there is wrong here: more picks than
    choices, a free number, a gold it cannot look up (`a or d`). `gestalt` is the mean over the gold choices.
    """
    lines = response.strip().split("\n")
    cleaned = lines[0].strip().replace(".", "").strip()
    if question.rule in ("number", "any"):
        return Score(0.0, 0.0, 0.0, False)
    gold_texts = [question.choice(letter) for letter in sorted(question.gold)]
    joined = ",".join(gold_texts)
    answers = joined.split(",")
    exact = float(joined.replace(".", "").strip() == cleaned)
    distances = [_distance(cleaned, choice, "mean_ratio") for choice in question.choices]
    gestalt = sum(distances[LETTERS.index(letter)] for letter in question.gold) / len(question.gold)
    if len(answers) > len(question.choices):
        return Score(exact, gestalt, 0.0, False)
    texts, left, picked_texts = list(question.choices), list(distances), []
    for _ in answers:
        at = left.index(max(left))
        picked_texts.append(texts[at])
        texts.remove(picked_texts[-1])
        left.pop(at)
    accurate = float(sorted(answers) == sorted(picked_texts))
    return Score(exact, gestalt, accurate, bool(cleaned), _letters_of(question.choices, picked_texts))


def strict_score(question: Question, response: str, variant: str = "ratio") -> Score:
    """Ours: what was chosen is read first, compared as a set, and a response that cannot be read is never right.

    Exact match: the response names the gold set in letters, choice texts or both, in any order and with any separator,
    and nothing else. Width, case, blanks and closing full stops do not matter. Accuracy: that, or the nearest answer of
    as many choices as the stem asks for, if its similarity reaches `NEAR` and no other answer is as near. Free numbers are
    compared as decimals, through the mask of the stem where only its digits are given.

    Despite its name it is not strict about meaning. The nearest answer is found by characters, so a response that denies a
    choice (`<choice>ではない`) is credited as if it named it; page 41 counts how often. Only the reading of plain letters
    and texts is exact.
    """
    if question.rule == "always":
        return _credited(response.strip())
    plain = reading.plain(response)
    if question.rule == "number":
        value = reading.read_number(question, response)
        same = float(value is not None and value == Decimal(question.number or "NaN"))
        return Score(same, 1.0 if same else _distance(plain, question.number or "", variant), same, value is not None)
    choices = tuple(reading.plain(c) for c in question.choices)
    right = _right_sets(question)
    picked = reading.read_choices(question, response)
    if picked:
        same = float(any(reading.same_texts(choices, picked, s) for s in right))
        gestalt = 1.0 if same else max(max(_distance(plain, w, variant) for w in _writings(choices, s, ("、",))) for s in right)
        return Score(same, gestalt, same, True, picked)
    by_set = _nearest(question, choices, plain, variant)
    near = _unique_best(by_set, choices)
    near = near if near and by_set[near] >= NEAR else frozenset()
    same = float(any(reading.same_texts(choices, near, s) for s in right))
    return Score(0.0, max(by_set[s] for s in right), same, bool(near), near)


def _credited(response: str) -> Score:
    return Score(1.0, 1.0, 1.0, bool(response))


def _right_sets(question: Question) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(g) for g in sorted(question.gold)) if question.rule == "any" else (question.gold,)


def _writings(choices: Sequence[str], letters: frozenset[str], separators: Sequence[str]) -> set[str]:
    texts = [choices[LETTERS.index(letter)].strip() for letter in sorted(letters)]
    if len(texts) == 1:
        return set(texts)
    return {separator.join(order) for order in permutations(texts) for separator in separators}


def _nearest(question: Question, choices: Sequence[str], response: str, variant: str) -> dict[frozenset[str], float]:
    """Distance of the response to every set of choices that could answer, the largest over its writings.

    Sets have the size the stem asks for; where gold has another (one item of JJSIMQA), gold's own size as well.
    Only separators that the response contains are tried: another one matches nothing. A response equal to a writing is
    at distance 1, which no other text reaches, so the rest is left at 0.
    """
    separators = _separators_in(response)
    sizes = {question.n_select} | ({len(question.gold)} if question.rule == "all" else set())
    sets = [frozenset(c) for size in sorted(sizes) for c in combinations(question.letters, size)]
    writings = {letters: _writings(choices, letters, separators) for letters in sets}
    equal = {letters for letters in sets if response in writings[letters]}
    compared = equal.union(_right_sets(question)) if equal else sets
    return {s: max(_distance(response, w, variant) for w in writings[s]) if s in compared else 0.0 for s in sets}


def _separators_in(response: str) -> tuple[str, ...]:
    """The separators the response contains outside longer ones; the usual one where there is none."""
    found, rest = [], response
    for separator in SEPARATORS:
        if separator in rest:
            found.append(separator)
            rest = rest.replace(separator, "\0")
    return tuple(found) or ("、",)


def _unique_best(by_set: Mapping[frozenset[str], float], choices: Sequence[str]) -> frozenset[str]:
    """The nearest set, empty where nothing matches or sets of different texts tie."""
    best = max(by_set.values())
    winners = sorted((s for s, d in by_set.items() if d == best), key=sorted)
    tied = any(not reading.same_texts(choices, winners[0], other) for other in winners[1:])
    return frozenset() if best == 0 or tied else winners[0]


def _letters_of(choices: Sequence[str], texts: Iterable[str]) -> frozenset[str]:
    letters, left = set(), list(choices)
    for text in texts:
        at = left.index(text)
        letters.add(LETTERS[at])
        left[at] = ""  # an equal text later on is the next choice
    return frozenset(letters)


def score_frame(questions: Sequence[Question], responses: Sequence[str], scorers: Sequence[str] = SCORERS) -> pd.DataFrame:
    """One row per question and scorer.

    Returns:
        Columns `id, exam, year, section, category, scorer, exact_match, gestalt, accuracy, readable, picked`; `picked`
        holds the letters joined by commas.
    """
    if len(responses) != len(questions):
        raise JmedloraError(f"{len(responses)} responses for {len(questions)} questions; give one for each, in the same order")
    rows = []
    for question, response in zip(questions, responses, strict=True):
        for scorer in scorers:
            s = score(question, response, scorer)
            about = (question.id, question.exam, question.year, question.section, question.category, scorer)
            rows.append((*about, s.exact_match, s.gestalt, s.accuracy, s.readable, ",".join(sorted(s.picked))))
    columns = ["id", "exam", "year", "section", "category", "scorer", "exact_match", "gestalt", "accuracy", "readable", "picked"]
    return pd.DataFrame(rows, columns=columns)


def is_right(question: Question, picked: Iterable[str]) -> bool:
    """Whether the picked letters are a right answer; choices of equal text are one and the same."""
    if question.rule == "number":
        raise JmedloraError(f"question {question.id} asks for a free number; there is no letter to pick")
    picked = frozenset(picked)
    return question.rule == "always" or any(reading.same_texts(question.choices, picked, s) for s in _right_sets(question))


def random_accuracy(question: Question) -> float:
    """Chance of a uniformly random set of as many choices as the stem asks for; no chance for a free number."""
    if question.rule == "number":
        return 0.0
    subsets = list(combinations(question.letters, question.n_select))
    return sum(is_right(question, s) for s in subsets) / len(subsets)


def baselines(questions: Sequence[Question], scorers: Sequence[str] = SCORERS) -> pd.DataFrame:
    """What no skill and full knowledge earn: one row per baseline and scorer, shares 0 to 1.

    `first choice` and `longest choice` write as many choices as the stem asks for; `random choice` is computed, not
    drawn, so it is the same for every scorer and has no Gestalt score.

    Returns:
        Columns `baseline, scorer, n, exact_match, gestalt, accuracy, readable`.
    """
    if not questions:
        raise JmedloraError("no question to compute baselines on; load an exam first")

    def longest(q: Question) -> list[str]:
        return sorted(sorted(q.letters, key=lambda letter: -len(q.choice(letter)))[: q.n_select])

    written = {
        "empty response": ["" for _ in questions],
        "first choice": ["、".join(q.choices[: q.n_select]) for q in questions],
        "longest choice": ["、".join(q.choice(letter) for letter in longest(q)) for q in questions],
        "oracle": [prompts.answer_text(q) for q in questions],
    }
    chance = math.fsum(random_accuracy(q) for q in questions) / len(questions)
    names = ["exact_match", "gestalt", "accuracy", "readable"]
    blind = {"scorer": list(scorers)} | dict(zip(names, (chance, math.nan, chance, 1.0), strict=True))
    found = {name: score_frame(questions, said, scorers).groupby("scorer", sort=False)[names].mean() for name, said in written.items()}
    found["random choice"] = pd.DataFrame(blind).set_index("scorer")
    table = pd.concat([found[name].assign(baseline=name) for name in BASELINES]).reset_index().assign(n=len(questions))
    return table[["baseline", "scorer", "n", *names]]
