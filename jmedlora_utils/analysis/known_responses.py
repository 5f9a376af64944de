"""Responses of known content to exam questions, and what each way to score gives them: floors, biases, damage, rewordings."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.prompts import SEPARATOR, answer_text
from jmedlora_utils.data.questions import LETTERS, Question
from jmedlora_utils.evaluation.metrics import VARIANTS, gestalt_distance, random_accuracy, score


class Rule(NamedTuple):
    """One way to score: a scorer of `evaluation.metrics`, and its variant of the Gestalt distance."""

    name: str
    scorer: str
    variant: str | None = None


RULES = {
    "longest": Rule("journal, longest", "journal", "longest"),
    "ratio": Rule("journal, ratio", "journal", "ratio"),
    "mean_ratio": Rule("journal, mean ratio", "journal", "mean_ratio"),
    "harness": Rule("harness", "harness"),
    "strict": Rule("strict", "strict"),
}
FEW_RULES = ("longest", "ratio", "harness", "strict")
SCORES = ["exact_match", "gestalt", "accuracy", "readable"]
LOST = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
LIKENESS = {"unlike": (0.0, 1 / 3), "some": (1 / 3, 2 / 3), "alike": (2 / 3, 1.01)}
REFUSAL = "わかりません。"
REASON = "理由は、問題文に示された所見に最もよく合うからである。"
LONG_REASON = (
    "理由は、問題文に示された所見に最もよく合うからである。年齢と経過、診察で得られた所見、検査の結果を順に考えると、"
    "ほかの選択肢では説明がつかない点が残る。したがって、まず確認すべき条件を満たすものを選んだ。"
)


def score_responses(questions: Sequence[Question], responses: Sequence[str], rules: Iterable[str] = tuple(RULES)) -> pd.DataFrame:
    """One row per question and rule: columns `id, exam, asked` (`one` or `several` choices), `rule` and `SCORES`."""
    rows = []
    for rule in rules:
        for question, response in zip(questions, responses, strict=True):
            s = score(question, response, RULES[rule].scorer, RULES[rule].variant)
            rows.append((question.id, question.exam, _asked(question), rule, s.exact_match, s.gestalt, s.accuracy, s.readable))
    return pd.DataFrame(rows, columns=["id", "exam", "asked", "rule", *SCORES])


def _asked(question: Question) -> str:
    return "one" if question.n_select == 1 else "several"


def _means(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    grouped = frame.groupby(list(by), sort=False, observed=True)
    return grouped[SCORES].mean().assign(n=grouped.size()).reset_index()


def worked_example(question: Question, responses: Sequence[str], variant: str = "longest") -> pd.DataFrame:
    """Each response with its distance to every choice and what it earns.

    Returns:
        Columns `response`, one per letter (two decimals), `exact_match`, `accuracy`, and `strict` for strict Accuracy.
    """
    rows = []
    for response in responses:
        journal, strict = score(question, response, "journal", variant), score(question, response, "strict")
        distances = {x: f"{gestalt_distance(response, question.choice(x), variant):.2f}" for x in question.letters}
        earned = {"exact_match": int(journal.exact_match), "accuracy": int(journal.accuracy), "strict": int(strict.accuracy)}
        rows.append({"response": response, **distances, **earned})
    return pd.DataFrame(rows)


# --- without knowledge --------------------------------------------------------------------------------------------


def levels(questions: Sequence[Question], seed: int = 0) -> pd.DataFrame:
    """What each blind response earns under each rule, and what blind picking is expected to earn (`random pick`).

    Returns:
        Columns `exam, asked, response, rule`, `SCORES` and `n`; shares 0 to 1.
    """
    frames = []
    for exam, count in dict.fromkeys((q.exam, _asked(q)) for q in questions):
        group = [q for q in questions if (q.exam, _asked(q)) == (exam, count)]
        for name, responses in blind_responses(group, seed).items():
            frames.append(_means(score_responses(group, responses), ["exam", "asked", "rule"]).assign(response=name))
        chance = float(np.mean([random_accuracy(q) for q in group]))
        row = {"exam": exam, "asked": count, "rule": "any", "exact_match": chance, "accuracy": chance, "readable": 1.0, "n": len(group)}
        frames.append(pd.DataFrame([row | {"gestalt": np.nan, "response": "random pick"}]))
    return pd.concat(frames, ignore_index=True)[["exam", "asked", "response", "rule", *SCORES, "n"]]


def blind_responses(questions: Sequence[Question], seed: int = 0) -> dict[str, list[str]]:
    """Responses that need no knowledge, and two that need all of it: name to one response per question.

    Naming all choices is tried only where one is asked for.
    """
    every = [SEPARATOR.join(q.choices) for q in questions]
    return {
        "empty": ["" for _ in questions],
        "refusal": [REFUSAL for _ in questions],
        "question repeated": [last_sentence(q.text) for q in questions],
        "unrelated answer": unrelated_answers(questions, random.Random(seed)),
        **({"all choices": every} if all(q.n_select == 1 for q in questions) else {}),
        "first choice": [SEPARATOR.join(q.choices[: q.n_select]) for q in questions],
        "longest choice": [_top(q, [len(c) for c in q.choices]) for q in questions],
        "most typical choice": [_top(q, likeness(q.choices)) for q in questions],
        "nearest wrong answer": [wrong_answer(q) for q in questions],
        "right answer": [answer_text(q) for q in questions],
    }


def last_sentence(text: str) -> str:
    """The last sentence of a stem, usually what is asked."""
    parts = [p for p in re.split(r"(?<=[。？?])|\n", text.strip()) if p.strip()]
    return parts[-1].strip() if parts else ""


def unrelated_answers(questions: Sequence[Question], rng: random.Random) -> list[str]:
    """For each question the right answer of another one: fluent, medical, and without knowledge of this question.

    Raises:
        JmedloraError: All questions have the same answer.
    """
    own = [answer_text(q) for q in questions]
    if len(set(own)) < 2:
        raise JmedloraError("unrelated answers need at least two questions with different answers")
    pool = [(q, answer) for q, answer in zip(questions, own, strict=True)]
    drawn = []
    for question, answer in zip(questions, own, strict=True):
        other, text = rng.choice(pool)
        while text == answer or other.id == question.id:
            other, text = rng.choice(pool)
        drawn.append(text)
    return drawn


def likeness(choices: Sequence[str]) -> list[float]:
    """How much each choice resembles the others: its mean `ratio` to them, 0 to 1."""
    table = np.zeros((len(choices), len(choices)))
    for i, j in combinations(range(len(choices)), 2):
        table[i, j] = table[j, i] = gestalt_distance(choices[i], choices[j], "ratio")
    return [float(v) for v in table.sum(axis=1) / (len(choices) - 1)]


def nearest_wrong(question: Question) -> tuple[str, float]:
    """The wrong choice most like a right one, and how like it is (`ratio`).

    Raises:
        JmedloraError: Every choice is right.
    """
    wrong = [letter for letter in question.letters if letter not in question.gold]
    if not wrong:
        raise JmedloraError(f"question {question.id}: every choice is right; leave it out")
    pairs = [(gestalt_distance(question.choice(g), question.choice(w), "ratio"), w) for g in sorted(question.gold) for w in wrong]
    best = max(pairs)
    return best[1], best[0]


def wrong_answer(question: Question) -> str:
    """The right answer with one right choice replaced by the wrong choice most like a right one."""
    letter, _ = nearest_wrong(question)
    kept = sorted(question.right_letters(), key=lambda g: gestalt_distance(question.choice(g), question.choice(letter), "ratio"))[:-1]
    return SEPARATOR.join(question.choice(x) for x in sorted([*kept, letter]))


def _top(question: Question, values: Sequence[float]) -> str:
    """As many choices as the stem asks for, those with the largest values, in printed order."""
    order = sorted(range(len(values)), key=lambda i: -values[i])[: question.n_select]
    return SEPARATOR.join(question.choices[i] for i in sorted(order))


def picks(questions: Sequence[Question], draws: int = 4, seed: int = 0) -> pd.DataFrame:
    """Which choice wins when the response carries no knowledge: by rank of length and of likeness to the other choices.

    Five-choice questions with one answer only. Without bias every rank wins a fifth of the time. A tie or a distance of
    zero picks nothing, and a response that never wins has no rows. `gold` rows say where the right answer stands: the
    habit of those who write the questions.

    Returns:
        Columns `exam, feature, rank, response, variant, share, n`; rank 5 is the longest or the most typical choice.
    """
    rng, rows = random.Random(seed), []
    for exam in dict.fromkeys(q.exam for q in questions):
        group = [q for q in questions if q.exam == exam and q.n_select == 1 and len(q.choices) == 5]
        features = {"length": [[len(c) for c in q.choices] for q in group], "likeness": [likeness(q.choices) for q in group]}
        won = {("gold", ""): [(i, LETTERS.index(min(q.gold))) for i, q in enumerate(group)]}
        responses = {"unrelated answer": [unrelated_answers(group, rng) for _ in range(draws)]}
        responses["question repeated"] = [[last_sentence(q.text) for q in group]]
        for name, series in responses.items():
            for variant in VARIANTS:
                found = [(i, _winner(group[i].choices, r, variant)) for drawn in series for i, r in enumerate(drawn)]
                won[name, variant] = [(i, at) for i, at in found if at is not None]
        for (name, variant), winners in won.items():
            for feature, values in features.items() if winners else ():
                shares = np.sum([rank_shares(values[i], at) for i, at in winners], axis=0) / len(winners)
                rows += [(exam, feature, rank, name, variant, share, len(winners)) for rank, share in enumerate(shares, start=1)]
    return pd.DataFrame(rows, columns=["exam", "feature", "rank", "response", "variant", "share", "n"])


def rank_shares(values: Sequence[float], at: int) -> np.ndarray:
    """Rank of one value among all, smallest first, as shares of the ranks: equal values share theirs. Shape (values,)."""
    below, equal = sum(v < values[at] for v in values), sum(v == values[at] for v in values)
    shares = np.zeros(len(values))
    shares[below : below + equal] = 1 / equal
    return shares


def _winner(choices: Sequence[str], response: str, variant: str) -> int | None:
    distances = [gestalt_distance(response, c, variant) for c in choices]
    best = max(distances)
    return distances.index(best) if best > 0 and distances.count(best) == 1 else None


# --- right answers, changed ---------------------------------------------------------------------------------------


def damage(questions: Sequence[Question], seed: int = 0) -> pd.DataFrame:
    """Right answers that lose characters, by how like the nearest wrong choice is; questions with one answer only.

    Returns:
        Columns `likeness` (`all` or a key of `LIKENESS`), `lost` (share of characters), `rule`, `SCORES` and `n`.
    """
    rng = random.Random(seed)
    group = [q for q in questions if q.n_select == 1]
    bands = {q.id: next(b for b, (low, high) in LIKENESS.items() if low <= nearest_wrong(q)[1] < high) for q in group}
    frames = []
    for lost in LOST:
        scored = score_responses(group, [drop_characters(answer_text(q), lost, rng) for q in group], FEW_RULES)
        for band, rows in (("all", scored), *scored.groupby(scored["id"].map(bands), sort=False)):
            frames.append(_means(rows, ["rule"]).assign(likeness=band, lost=lost))
    return pd.concat(frames, ignore_index=True)[["likeness", "lost", "rule", *SCORES, "n"]]


def drop_characters(text: str, share: float, rng: random.Random) -> str:
    """The text without a random share of its characters; at least one stays."""
    keep = max(1, round(len(text) * (1 - share)))
    return "".join(text[i] for i in sorted(rng.sample(range(len(text)), keep)))


def changes(questions: Sequence[Question]) -> pd.DataFrame:
    """What a right answer still earns after each of the rewordings that apply to it.

    Returns:
        Columns `change, effect` (`harmless` or `harmful`), `rule`, `SCORES` and `n`.
    """
    made, frames = [reworded(q) for q in questions], []
    for effect, name in made[0]:
        fits = [(q, of[effect, name]) for q, of in zip(questions, made, strict=True) if of[effect, name] is not None]
        if fits:
            scored = score_responses(*zip(*fits, strict=True), FEW_RULES)
            frames.append(_means(scored, ["rule"]).assign(change=name, effect=effect))
    return pd.concat(frames, ignore_index=True)[["change", "effect", "rule", *SCORES, "n"]]


def reworded(question: Question) -> dict[tuple[str, str], str | None]:
    """The right answer in other words: (effect, name of the change) to the response; None where a change does not apply.

    After a `harmless` change the response still says the same; after a `harmful` one it is no longer right.
    """
    letters = question.right_letters()
    texts = [question.choice(letter) for letter in letters]
    answer, wrong = SEPARATOR.join(texts), question.choice(nearest_wrong(question)[0])

    wide, narrow, several = full_width(answer), nfkc(answer), len(texts) > 1
    harmless = {
        "unchanged": answer,
        "full-width letters, digits": wide if wide != answer else None,
        "half-width (NFKC)": narrow if narrow != answer else None,
        "full stop": f"{answer}。",
        "polite ending": f"{answer}です。",
        "polite sentence": f"正解は{answer}です。",
        "quotation marks": f"「{answer}」",
        "letter and text": SEPARATOR.join(f"{a}. {t}" for a, t in zip(letters, texts, strict=True)),
        "letter alone": SEPARATOR.join(letters),
        "reason, same line": f"{answer}。{REASON}",
        "reason, next line": f"{answer}\n{REASON}",
        "long reason, same line": f"{answer}。{LONG_REASON}",
        "wrong choice rejected": f"{answer}。{wrong}は誤りである。",
        "order reversed": SEPARATOR.join(texts[::-1]) if several else None,
        "comma and blank": ", ".join(texts) if several else None,
        "joined by と": "と".join(texts) if several else None,
        "one a line": "\n".join(texts) if several else None,
    }
    harmful = {
        "denied": f"{answer}ではない。",
        "right or wrong": None if several else f"{answer}または{wrong}",
        "wrong or right": None if several else f"{wrong}または{answer}",
        "one answer missing": SEPARATOR.join(texts[:-1]) if several else None,
        "one answer too many": SEPARATOR.join([*texts, wrong]) if several else None,
    }
    every = {"harmless": harmless, "harmful": harmful}
    return {(effect, name): response for effect, kinds in every.items() for name, response in kinds.items()}


def full_width(text: str) -> str:
    """Every ASCII letter, digit and sign in its full-width form."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
