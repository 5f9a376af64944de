"""Seeded shuffling of choices, to measure position bias: does a model prefer a place in the list to an answer?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.questions import LETTERS, Question
from jmedlora_utils.evaluation import metrics


def shuffle_choices(question: Question, seed: int) -> Question:
    """A copy of the question with its choices in another order; gold, prohibited letters and shares of students follow.

    The order depends on seed, exam and id alone, so it is the same whatever else is asked. A question whose choices are
    letters (they are printed in the stem) stays as it is: there the letter is the answer.
    """
    if not seed or [nfkc(c).strip().lower() for c in question.choices] == list(question.letters):
        return question
    order = list(range(len(question.choices)))
    random.Random(f"{seed}/{question.exam}/{question.id}").shuffle(order)
    moved = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
    return replace(
        question,
        choices=tuple(question.choices[old] for old in order),
        gold=frozenset(moved[letter] for letter in question.gold),
        prohibited=frozenset(moved[letter] for letter in question.prohibited),
        breakdown=tuple(question.breakdown[old] for old in order) if question.breakdown else (),
    )


def position_frame(questions: Sequence[Question], responses: Sequence[str], scorer: str = "strict") -> pd.DataFrame:
    """How often the right answer was found, and how often a place was chosen, by place; questions with one answer to choose.

    Returns:
        One row per place: `place`, `n` (questions whose answer stands there), `right` (how many of them were answered right),
        `gold` and `chosen` (shares, 0 to 1, of all these questions). Without position bias, `chosen` is about `gold`.
    """
    single = [(q, metrics.score(q, r, scorer)) for q, r in zip(questions, responses, strict=True) if q.n_select == len(q.gold) == 1]
    rows = []
    for letter in LETTERS[: max((len(q.choices) for q, _ in single), default=0)]:
        here = [s.accuracy for q, s in single if letter in q.gold]
        chosen = sum(letter in s.picked for _, s in single)
        rows.append((letter, len(here), int(sum(here)), len(here) / len(single), chosen / len(single)))
    return pd.DataFrame(rows, columns=["place", "n", "right", "gold", "chosen"])
