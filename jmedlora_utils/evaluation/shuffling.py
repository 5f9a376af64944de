"""Seeded shuffling of choices, to measure position bias: does a model prefer a place in the list to an answer?"""

import random
from dataclasses import replace

from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.questions import LETTERS, Question


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


def other_order(question: Question, seed: int) -> Question:
    """The question with its choices in another order than the printed one: that of `seed`, or of `seed + 100` and so on if that is it."""
    orders = (shuffle_choices(question, seed + 100 * step) for step in range(100))
    return next((order for order in orders if order.choices != question.choices), question)
