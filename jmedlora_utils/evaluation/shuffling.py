"""Seeded shuffling of choices, to measure position bias: does a model prefer a place in the list to an answer?"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jmedlora_utils.core import formatting, statistics
from jmedlora_utils.data.questions import LETTERS, Question
from jmedlora_utils.evaluation import metrics

if TYPE_CHECKING:
    import pandas as pd


def shuffle_choices(question: Question, seed: int) -> Question:
    """A copy of the question with its choices in another order; gold, prohibited letters and shares of students follow.

    The order hangs on seed, exam and id alone, so it is the same whatever else is asked. A question whose choices are
    letters (they are printed in the stem) stays as it is: there the letter is the answer.

    Args:
        question: Left as it is.
        seed: Seed of the order; 0 returns the question itself.
    """
    if not seed or _letters_only(question):
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


def position_table(asked: Sequence[tuple[dict[str, object], Sequence[Question], Sequence[str]]], scorer: str = "strict") -> pd.DataFrame:
    """How often the right answer was found, and how often a place was chosen, by place; questions with one answer to choose.

    A model without position bias is as often right wherever the answer stands, and chooses each place as often as gold
    stands there.

    Args:
        asked: For each evaluation what names it (exam, shots, step ...), the questions as asked, and the responses.
        scorer: Which scorer reads the choice.

    Returns:
        One row an evaluation and place: what names it, `place`, `n` (questions whose answer stands there), `accuracy`
        on them in percent with its 95 % interval, `gold here` and `chosen here` (shares of all these questions, in percent).
    """
    import pandas as pd

    rows = []
    for about, questions, responses in asked:
        single = [(q, metrics.score(q, r, scorer)) for q, r in zip(questions, responses, strict=True) if q.n_select == len(q.gold) == 1]
        for letter in LETTERS[: max((len(q.choices) for q, _ in single), default=0)]:
            here = [s.accuracy for q, s in single if letter in q.gold]
            chosen = sum(letter in s.picked for _, s in single)
            found = formatting.percent(*statistics.wilson(sum(here), len(here))) if here else ""
            shares = {"gold here": formatting.percent(len(here) / len(single)), "chosen here": formatting.percent(chosen / len(single))}
            rows.append({**about, "place": letter, "n": len(here), "accuracy": found, **shares})
    return pd.DataFrame(rows)


def _letters_only(question: Question) -> bool:
    return [unicodedata.normalize("NFKC", c).strip().lower() for c in question.choices] == list(question.letters)
