"""Exact match, Gestalt score and Accuracy: three gestalt distances, three scorers, one table.

The journal defines, for choices C1..C5, the correct one C* and a response R:

* ExactMatch = 1 if R = C*, else 0;
* GestaltDistance(R, C) = 2|K| / (|R| + |C|), higher is closer; the Gestalt score is GestaltDistance(R, C*);
* Accuracy = 1 if the argmax over C of GestaltDistance(R, C) is C*, else 0.

It says nothing on questions with several right answers, ties, letters or free numbers; each scorer's docstring says what
it does with them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import combinations, permutations
from typing import TYPE_CHECKING

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.questions import LETTERS, Question, answer_mask, fill_mask

if TYPE_CHECKING:
    import pandas as pd

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
    """What one scorer says of one response.

    Attributes:
        exact_match: 0 or 1.
        gestalt: Similarity of the response to the right answer, 0 to 1.
        accuracy: 0 or 1.
        readable: Whether the scorer could tell what was chosen.
        picked: Letters it took as chosen; empty for free numbers and unreadable responses.
    """

    exact_match: float
    gestalt: float
    accuracy: float
    readable: bool
    picked: frozenset[str] = frozenset()


# --- gestalt distance ---------------------------------------------------------------------------------------------


def gestalt_distance(response: str, choice: str, variant: str = "longest") -> float:
    """Similarity of two texts, 0 to 1; the paper calls it a distance, yet higher is closer.

    Args:
        response: R.
        choice: C.
        variant: `longest`: 2|K| / (|R| + |C|), K the longest common substring (the journal's wording). `ratio`: K all
            matched characters, `SequenceMatcher(R, C)` without its heuristic for popular characters. `mean_ratio`: the
            ratio averaged over both orders, heuristic on (the first author's 2024 code).

    Raises:
        JmedloraError: No such variant.
    """
    if variant not in VARIANTS:
        raise JmedloraError(f"no gestalt variant {variant!r}; known: {', '.join(VARIANTS)}")
    return _distance(response, choice, variant)


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


# --- scorers ------------------------------------------------------------------------------------------------------


def score(question: Question, response: str, scorer: str = "strict", variant: str | None = None) -> Score:
    """Scores one response.

    Args:
        question: The question asked.
        response: What the model wrote, unaltered.
        scorer: `journal` (`journal_score`), `harness` (`harness_score`) or `strict` (`strict_score`).
        variant: Gestalt variant; None takes the scorer's own (`DEFAULT_VARIANT`). `harness` is one fixed rule.

    Raises:
        JmedloraError: The scorer or the variant is unknown, or a variant is given to `harness`.
    """
    if scorer not in SCORERS:
        raise JmedloraError(f"no scorer {scorer!r}; known: {', '.join(SCORERS)}")
    chosen = variant or DEFAULT_VARIANT[scorer]
    if chosen not in VARIANTS:
        raise JmedloraError(f"no gestalt variant {chosen!r}; known: {', '.join(VARIANTS)}")
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
    accurate = float(bool(picked) and any(_same_texts(question.choices, picked, s) for s in right))
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
    """
    if question.rule == "always":
        return _credited(response.strip())
    plain = _plain(response)
    if question.rule == "number":
        value = _read_number(question, response)
        same = float(value is not None and value == Decimal(question.number or "NaN"))
        return Score(same, 1.0 if same else _distance(plain, question.number or "", variant), same, value is not None)
    choices = tuple(_plain(c) for c in question.choices)
    right = _right_sets(question)
    picked = read_choices(question, response)
    if picked:
        same = float(any(_same_texts(choices, picked, s) for s in right))
        gestalt = 1.0 if same else max(max(_distance(plain, w, variant) for w in _writings(choices, s, ("、",))) for s in right)
        return Score(same, gestalt, same, True, picked)
    by_set = _nearest(question, choices, plain, variant)
    near = _unique_best(by_set, choices)
    if not near or by_set[near] < NEAR:
        near = frozenset()
    same = float(bool(near) and any(_same_texts(choices, near, s) for s in right))
    return Score(0.0, max(by_set[s] for s in right), same, bool(near), near)


def _credited(response: str) -> Score:
    return Score(1.0, 1.0, 1.0, bool(response))


def _right_sets(question: Question) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(g) for g in sorted(question.gold)) if question.rule == "any" else (question.gold,)


def _same_texts(choices: Sequence[str], picked: Iterable[str], gold: Iterable[str]) -> bool:
    """Whether both name the same choices, where choices of equal text are one and the same."""
    texts = [sorted(choices[LETTERS.index(letter)] for letter in letters) for letters in (picked, gold)]
    return texts[0] == texts[1]


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
    if equal:
        right = _right_sets(question)
        return {s: max(_distance(response, w, variant) for w in writings[s]) if s in equal or s in right else 0.0 for s in sets}
    return {letters: max(_distance(response, w, variant) for w in writings[letters]) for letters in sets}


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
    tied = any(not _same_texts(choices, winners[0], other) for other in winners[1:])
    return frozenset() if best == 0 or tied else winners[0]


def _letters_of(choices: Sequence[str], texts: Iterable[str]) -> frozenset[str]:
    free = dict(zip(LETTERS, choices, strict=False))
    found = set()
    for text in texts:
        letter = next(k for k, v in free.items() if v == text)
        found.add(letter)
        del free[letter]
    return frozenset(found)


# --- reading a response -------------------------------------------------------------------------------------------

_OPENING = re.compile(r"^(?:(?:the)?(?:correct)?answer|答え|こたえ|解答|回答|正解|正答|応答)(?:(?:は|is|are)[:、,]?|:)", re.IGNORECASE)
_CLOSING = re.compile(r"(?:です|である|だ|が正しい|が正解)$")
_BETWEEN = re.compile(r"(?:[、,，､・/;&+と]|および|及び|and)+")
_LABEL = re.compile(r"[(\[「【]?([a-j])[)\]」】.:、,]?")
_LONE_LABEL = re.compile(r"[(\[「【]?[a-j](?:[)\]」】.:、,]|$)")
_RUN = re.compile(r"[a-j]{2,}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@lru_cache(maxsize=1 << 16)
def _plain(text: str) -> str:
    """NFKC, lower case, no blanks, no closing stops; line breaks become `、`."""
    text = unicodedata.normalize("NFKC", text).casefold().strip()
    text = re.sub(r"\s*\n\s*", "、", text)
    return "".join(text.split()).rstrip("。.、,")


def read_choices(question: Question, response: str) -> frozenset[str]:
    """Letters of the choices that a response names in letters, texts or both, and nothing else; empty if unreadable.

    A response that can be read in several ways is read as the one with as many choices as the stem asks for; if
    several remain, or a letter contradicts the text beside it, it is unreadable.
    """
    choices = tuple(_plain(c) for c in question.choices)
    plain = _plain(response)
    for candidate in dict.fromkeys((plain, _CLOSING.sub("", _OPENING.sub("", plain)).rstrip("。.、,"))):
        readings = {s for s in _readings(candidate, choices) if s}
        asked = {s for s in readings if len(s) == question.n_select}
        for found in (asked, readings):
            ordered = sorted(found, key=sorted)
            if ordered and all(_same_texts(choices, ordered[0], other) for other in ordered[1:]):
                return ordered[0]
        if not readings and _RUN.fullmatch(candidate) and list(candidate) == sorted(set(candidate)) and len(candidate) == question.n_select:
            return frozenset(candidate) if set(candidate) <= set(question.letters) else frozenset()
    return frozenset()


def _readings(text: str, choices: tuple[str, ...]) -> set[frozenset[str]]:
    """Every set of letters that the whole text can be read as."""
    done: dict[int, set[frozenset[str]]] = {len(text): {frozenset()}}
    for start in range(len(text) - 1, -1, -1):
        found: set[frozenset[str]] = set()
        for letter, end in _units(text, start, choices):
            gap = _BETWEEN.match(text, end)
            for following in {end, gap.end() if gap else end}:
                found |= {rest | {letter} for rest in done.get(following, ())}
        if found:
            done[start] = found
    return done.get(0, set())


def _units(text: str, start: int, choices: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """`(letter, end)` of every choice that the text names at `start`: its text, its letter, or the letter and its text."""
    for letter, choice in zip(LETTERS, choices, strict=False):
        if text.startswith(choice, start):
            yield from ((letter, end) for end in {start + len(choice), _skip_stop(text, start + len(choice))})
    label = _LABEL.match(text, start)
    if not label or label[1] not in LETTERS[: len(choices)]:
        return
    choice, ends = choices[LETTERS.index(label[1])], {label.end(1), label.end()}
    for end in ends:
        for opened in {end, end + 1 if text[end : end + 1] == "(" else end}:
            if text.startswith(choice, opened):
                after = opened + len(choice) + (opened > end and text.startswith(")", opened + len(choice)))
                yield from ((label[1], stop) for stop in {after, _skip_stop(text, after)})
        if end == len(text) or text[end - 1] in "、," or _BETWEEN.match(text, end) or _LONE_LABEL.match(text, end):
            yield label[1], end


def _skip_stop(text: str, at: int) -> int:
    while at < len(text) and text[at] in "。.":
        at += 1
    return at


def _read_number(question: Question, response: str) -> Decimal | None:
    """The one number a response states, None where it states none or several."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFKC", response))
    mask = answer_mask(question.text)
    if mask and text.strip().isdigit() and not {"."}.isdisjoint(mask):
        filled = fill_mask(mask, text.strip())
        if filled is not None:
            return Decimal(filled)
    found = {Decimal(n) for n in _NUMBER.findall(text)}
    return found.pop() if len(found) == 1 else None


# --- tables -------------------------------------------------------------------------------------------------------


def score_frame(
    questions: Sequence[Question], responses: Sequence[str] | Mapping[str, str], scorers: Sequence[str] = SCORERS
) -> pd.DataFrame:
    """One row per question and scorer.

    Args:
        questions: What was asked; every question stays in the denominator.
        responses: In the order of the questions, or by question id.
        scorers: Scorers to apply.

    Returns:
        Columns `id, exam, year, section, category, scorer, exact_match, gestalt, accuracy, readable, picked`; `picked`
        holds the letters joined by commas.

    Raises:
        JmedloraError: A question has no response, or the numbers differ.
    """
    import pandas as pd

    rows = []
    for question, response in zip(questions, _align(questions, responses), strict=True):
        for scorer in scorers:
            s = score(question, response, scorer)
            about = (question.id, question.exam, question.year, question.section, question.category, scorer)
            rows.append((*about, s.exact_match, s.gestalt, s.accuracy, s.readable, ",".join(sorted(s.picked))))
    columns = ["id", "exam", "year", "section", "category", "scorer", "exact_match", "gestalt", "accuracy", "readable", "picked"]
    return pd.DataFrame(rows, columns=columns)


def scorer_differences(frame: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """The questions on which the scorers of a `score_frame` disagree: one row each, one column a scorer."""
    wide = frame.pivot(index="id", columns="scorer", values=metric)
    wide = wide.reindex(frame["id"].drop_duplicates()).rename_axis(columns=None)
    return wide[wide.nunique(axis=1) > 1]


def oracle_response(question: Question, separator: str = "、") -> str:
    """What a perfect model writes: the texts of the right choices in printed order, or the number."""
    if question.rule == "number":
        return question.number or ""
    return separator.join(question.choice(letter) for letter in question.right_letters())


def is_right(question: Question, picked: Iterable[str]) -> bool:
    """Whether the picked letters are a right answer; choices of equal text are one and the same.

    Raises:
        JmedloraError: The question has no choices to pick from.
    """
    if question.rule == "number":
        raise JmedloraError(f"question {question.id} asks for a free number; there is no letter to pick")
    picked = frozenset(picked)
    return question.rule == "always" or any(_same_texts(question.choices, picked, s) for s in _right_sets(question))


def random_accuracy(question: Question) -> float:
    """Chance of a uniformly random set of as many choices as the stem asks for; no chance for a free number."""
    if question.rule == "always":
        return 1.0
    if question.rule == "number":
        return 0.0
    subsets = [frozenset(c) for c in combinations(question.letters, question.n_select)]
    right = _right_sets(question)
    return sum(any(_same_texts(question.choices, s, g) for g in right) for s in subsets) / len(subsets)


def baselines(questions: Sequence[Question], scorers: Sequence[str] = SCORERS) -> pd.DataFrame:
    """What no skill and full knowledge earn: one row per baseline and scorer, shares 0 to 1.

    `first choice` and `longest choice` write as many choices as the stem asks for; `random choice` is computed, not
    drawn, so it is the same for every scorer and has no Gestalt score.

    Returns:
        Columns `baseline, scorer, n, exact_match, gestalt, accuracy, readable`.

    Raises:
        JmedloraError: There is no question.
    """
    import pandas as pd

    if not questions:
        raise JmedloraError("no question to compute baselines on; load an exam first")

    def longest(q: Question) -> list[str]:
        return sorted(sorted(q.letters, key=lambda letter: -len(q.choice(letter)))[: q.n_select])

    written = {
        "empty response": ["" for _ in questions],
        "first choice": ["、".join(q.choices[: q.n_select]) for q in questions],
        "longest choice": ["、".join(q.choice(letter) for letter in longest(q)) for q in questions],
        "oracle": [oracle_response(q) for q in questions],
    }
    chance = math.fsum(random_accuracy(q) for q in questions) / len(questions)
    rows = []
    for name in BASELINES:
        if name == "random choice":
            rows += [(name, scorer, len(questions), chance, math.nan, chance, 1.0) for scorer in scorers]
            continue
        frame = score_frame(questions, written[name], scorers)
        means = frame.groupby("scorer", sort=False)[["exact_match", "gestalt", "accuracy", "readable"]].mean()
        rows += [(name, scorer, len(questions), *means.loc[scorer]) for scorer in scorers]
    return pd.DataFrame(rows, columns=["baseline", "scorer", "n", "exact_match", "gestalt", "accuracy", "readable"])


def _align(questions: Sequence[Question], responses: Sequence[str] | Mapping[str, str]) -> list[str]:
    if isinstance(responses, Mapping):
        if missing := [q.id for q in questions if q.id not in responses]:
            raise JmedloraError(
                f"{len(missing)} of {len(questions)} questions have no response, first {missing[0]}; an empty one counts as wrong"
            )
        return [responses[q.id] for q in questions]
    if len(responses) != len(questions):
        raise JmedloraError(f"{len(responses)} responses for {len(questions)} questions; they must be in the same order")
    return list(responses)
