"""Paired answers: which questions a second model gets right that a first one did not, and which it loses."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd

from jmedlora_utils.analysis import gains
from jmedlora_utils.analysis.gains import Condition
from jmedlora_utils.analysis.studies import GROUPS, Study, phrasings_apart
from jmedlora_utils.core import statistics

FLIPS = {(False, True): "fixed", (True, False): "broken", (True, True): "right twice", (False, False): "wrong twice"}
"""Right before and right after, and the name of it."""


def question_flips(study: Study, run: str) -> pd.DataFrame:
    """Every question at the last step, 0-shot, before and after tuning: columns of the question, `before`, `after`, `flip`.

    A fact appears once in each group: the two phrasings of a fact are two groups.
    """
    frame = phrasings_apart(study.outcomes)
    there = set(frame.loc[frame["run"] == run, "facts"])
    groups = [g for g in GROUPS if g in there] or sorted(there)
    last, found = gains.last_step(frame, run), []
    about = frame.drop_duplicates(["seed", "exam", "id"]).set_index(["seed", "exam", "id"])[["facts", "category", "n_select", "chance"]]
    for group in groups:
        condition = Condition(facts=group)
        before, after = gains.on_both(gains.baseline(frame, run, condition), gains.outcomes(frame, run, last, condition))
        found.append(pd.DataFrame({"before": before, "after": after}))
    table = pd.concat(found).join(about).reset_index()
    return table.assign(flip=[FLIPS[bool(b), bool(a)] for b, a in zip(table["before"], table["after"], strict=True)])


def questions_of(counts: pd.DataFrame) -> pd.DataFrame:
    """Counts of flips (columns `group` and the values of `FLIPS`) as one row per question: `group, flip, before, after, seed`."""
    rows = [
        (group, flip, int(before), int(after))
        for group, *numbers in counts[["group", *FLIPS.values()]].itertuples(index=False, name=None)
        for ((before, after), flip), n in zip(FLIPS.items(), numbers, strict=True)
        for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["group", "flip", "before", "after"]).assign(seed=1)


def flip_counts(flipped: pd.DataFrame, by: str) -> pd.DataFrame:
    """Fixed and broken questions by a column, with the paired gain, its 95 % interval and McNemar's p.

    Returns:
        Columns `by`, the values of `FLIPS`, `n, value, low, high` (differences of shares, -1 to 1), `p`.
    """
    rows = []
    for key, group in flipped.groupby(by, observed=True, sort=False):
        values, count = group.set_index("seed"), group["flip"].value_counts()
        gain = gains.interval(values["after"] - values["before"])
        test = statistics.mcnemar_exact(group["before"], group["after"])
        row = {by: str(key).replace("_", " "), **{name: int(count.get(name, 0)) for name in FLIPS.values()}}
        rows.append(row | {"n": len(group), **gain._asdict(), "p": test.p})
    return pd.DataFrame(rows)


def thirds(characters: pd.Series) -> pd.Series:
    """Lengths in three groups of about equal size, named by their ends; an ordered category."""
    edges = characters.quantile([0, 1 / 3, 2 / 3, 1]).round().astype(int).unique()
    labels = [f"{low + (rank > 0)} to {high} characters" for rank, (low, high) in enumerate(itertools.pairwise(edges))]
    return pd.cut(characters, edges, labels=labels, include_lowest=True)


def kept_example(study: Study, run: str, flipped: pd.DataFrame, flip: str) -> dict[str, Any]:
    """The first question that flipped this way and whose answers are kept: `exam, text, choices, gold, before, after`.

    Empty if there is none; `before` and `after` are what the model wrote at step 0 and at the last step.
    """
    last = gains.last_step(study.outcomes, run)
    answers = study.examples[study.examples["run"] == run].set_index(["seed", "exam", "id", "steps"])["response"]
    texts = study.questions.dropna(subset=["text"]).set_index(["seed", "exam", "id"])
    for key in flipped.loc[flipped["flip"] == flip, ["seed", "exam", "id"]].itertuples(index=False, name=None):
        if key in texts.index and (*key, 0) in answers.index and (*key, last) in answers.index:
            question = texts.loc[key, ["text", "choices", "gold"]].to_dict()
            return {"exam": key[1], **question, "before": answers[(*key, 0)], "after": answers[(*key, last)]}
    return {}
