"""What the metrics do to real questions: levels without knowledge, biases, robustness, disagreement, power, points.

Everything is a table of numbers and question ids, so the results can be committed although the questions cannot.
`python -m jmedlora_utils.analysis.metrics_study freeze` computes them from the published exams and writes the committed evidence.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError, exit_status
from jmedlora_utils.core.formatting import escape
from jmedlora_utils.core.manifest import check_manifest, write_manifest
from jmedlora_utils.core.records import package_versions, write_text
from jmedlora_utils.data import prompts
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published
from jmedlora_utils.data.jjsimqa import load_jjsimqa
from jmedlora_utils.data.questions import LETTERS, Question, select_text_five
from jmedlora_utils.evaluation.metrics import VARIANTS, gestalt_distance, random_accuracy, score

RULES: dict[str, tuple[str, str | None]] = {
    "longest": ("journal", "longest"),
    "ratio": ("journal", "ratio"),
    "mean_ratio": ("journal", "mean_ratio"),
    "harness": ("harness", None),
    "strict": ("strict", None),
}
"""The five ways to score of this study: the journal's formulas with each gestalt variant, and two other scorers."""

RULE_NAMES = {
    "longest": "journal, longest",
    "ratio": "journal, ratio",
    "mean_ratio": "journal, mean ratio",
    "harness": "harness",
    "strict": "strict",
}
EXAM_NAMES = {"igakuqa": "IgakuQA", "jjsimqa": "JJSIMQA"}
FEW_RULES = ("longest", "ratio", "harness", "strict")
TABLES = ("levels", "picks", "damage", "changes", "agreement", "disagreements", "rule_pairs", "system_pairs", "exam", "passing")
SOURCES = ("auto", "committed", "data")
YEARS = (2018, 2019, 2020, 2021)
FOLDER = paths.RESULTS / "metrics"
LOST = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
LIKENESS = {"unlike": (0.0, 1 / 3), "some": (1 / 3, 2 / 3), "alike": (2 / 3, 1.01)}
DRAWS = 4
CHANGES_EVERY = 4
"""`changes` asks every fourth question, which keeps the whole study to about a minute."""

REFUSAL = "わかりません。"
REASON = "理由は、問題文に示された所見に最もよく合うからである。"
LONG_REASON = (
    "理由は、問題文に示された所見に最もよく合うからである。年齢と経過、診察で得られた所見、検査の結果を順に考えると、"
    "ほかの選択肢では説明がつかない点が残る。したがって、まず確認すべき条件を満たすものを選んだ。"
)


@dataclass(frozen=True)
class MetricsStudy:
    """All results of the study.

    Attributes:
        origin: `committed` or `data`.
        tables: One frame for each of `TABLES`.
        about: Years, numbers of questions, day, versions.
    """

    origin: str
    tables: Mapping[str, pd.DataFrame]
    about: Mapping[str, Any]

    def source_line(self, exams: Sequence[str] = ("igakuqa", "jjsimqa")) -> str:
        """Where the numbers come from, for the foot of a table that uses these exams."""
        asked = " and ".join(f"{self.about['questions'][exam]:,} questions of {EXAM_NAMES[exam]}" for exam in exams)
        kind = "committed evidence" if self.origin == "committed" else "computed by this run"
        return f"{asked}; {kind}, {self.about['created'][:10]}"

    def at(self, table: str, **where: Any) -> pd.Series:
        """The one row of a table with these values.

        Raises:
            JmedloraError: No row, or several, fit.
        """
        frame = self.tables[table]
        for column, value in where.items():
            frame = frame[frame[column] == value]
        if len(frame) != 1:
            raise JmedloraError(f"table {table}: {len(frame)} rows with {where}, expected one")
        return frame.iloc[0]


# --- responses ----------------------------------------------------------------------------------------------------


def asked(question: Question) -> str:
    """`one` or `several`: how many choices the stem asks for."""
    return "one" if question.n_select == 1 else "several"


def last_sentence(text: str) -> str:
    """The last sentence of a stem, usually what is asked."""
    parts = [p for p in re.split(r"(?<=[。？?])|\n", text.strip()) if p.strip()]
    return parts[-1].strip() if parts else ""


def unrelated_answers(questions: Sequence[Question], rng: random.Random) -> list[str]:
    """For each question the right answer of another one: fluent, medical, and without knowledge of this question.

    Raises:
        JmedloraError: Fewer than two different answers are at hand.
    """
    own = [prompts.answer_text(q) for q in questions]
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
        raise JmedloraError(f"question {question.id}: every choice is right")
    pairs = [(gestalt_distance(question.choice(g), question.choice(w), "ratio"), w) for g in sorted(question.gold) for w in wrong]
    best = max(pairs, key=lambda pair: (pair[0], pair[1]))
    return best[1], best[0]


def wrong_answer(question: Question) -> str:
    """The right answer with one right choice replaced by the wrong choice most like a right one."""
    letter, _ = nearest_wrong(question)
    kept = sorted(question.right_letters(), key=lambda g: gestalt_distance(question.choice(g), question.choice(letter), "ratio"))[:-1]
    return "、".join(question.choice(x) for x in sorted([*kept, letter]))


def _top(question: Question, values: Sequence[float]) -> str:
    """As many choices as the stem asks for, those with the largest values, in printed order."""
    order = sorted(range(len(values)), key=lambda i: -values[i])[: question.n_select]
    return "、".join(question.choices[i] for i in sorted(order))


def blind_responses(questions: Sequence[Question], seed: int = 0) -> dict[str, list[str]]:
    """Responses that need no knowledge, and two that need all of it: name to one response a question.

    Naming all choices is tried only where one is asked for.
    """
    rng = random.Random(seed)
    every = ["、".join(q.choices) for q in questions]
    return {
        "empty": ["" for _ in questions],
        "refusal": [REFUSAL for _ in questions],
        "question repeated": [last_sentence(q.text) for q in questions],
        "unrelated answer": unrelated_answers(questions, rng),
        **({"all choices": every} if all(q.n_select == 1 for q in questions) else {}),
        "first choice": ["、".join(q.choices[: q.n_select]) for q in questions],
        "longest choice": [_top(q, [len(c) for c in q.choices]) for q in questions],
        "most typical choice": [_top(q, likeness(q.choices)) for q in questions],
        "nearest wrong answer": [wrong_answer(q) for q in questions],
        "right answer": [prompts.answer_text(q) for q in questions],
    }


# --- the studies --------------------------------------------------------------------------------------------------


def outcomes(questions: Sequence[Question], responses: Sequence[str], rules: Iterable[str] = tuple(RULES)) -> pd.DataFrame:
    """One row a question and rule: columns `id, exam, asked, rule, exact_match, gestalt, accuracy, readable`."""
    rows = []
    for rule in rules:
        scorer, variant = RULES[rule]
        for question, response in zip(questions, responses, strict=True):
            s = score(question, response, scorer, variant)
            rows.append((question.id, question.exam, asked(question), rule, s.exact_match, s.gestalt, s.accuracy, s.readable))
    return pd.DataFrame(rows, columns=["id", "exam", "asked", "rule", "exact_match", "gestalt", "accuracy", "readable"])


def _means(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    grouped = frame.groupby(list(by), sort=False, observed=True)
    return grouped[["exact_match", "gestalt", "accuracy", "readable"]].mean().assign(n=grouped.size()).reset_index()


def levels(questions: Sequence[Question], seed: int = 0) -> pd.DataFrame:
    """What each blind response earns under each rule, and what blind picking is expected to earn (`random pick`).

    Returns:
        Columns `exam, asked, response, rule, exact_match, gestalt, accuracy, readable, n`; shares 0 to 1.
    """
    frames = []
    for exam, count in dict.fromkeys((q.exam, asked(q)) for q in questions):
        group = [q for q in questions if (q.exam, asked(q)) == (exam, count)]
        for name, responses in blind_responses(group, seed).items():
            frames.append(_means(outcomes(group, responses), ["exam", "asked", "rule"]).assign(response=name))
        chance = float(np.mean([random_accuracy(q) for q in group]))
        row = {"exam": exam, "asked": count, "rule": "any", "exact_match": chance, "accuracy": chance, "readable": 1.0, "n": len(group)}
        frames.append(pd.DataFrame([row | {"gestalt": np.nan, "response": "random pick"}]))
    columns = ["exam", "asked", "response", "rule", "exact_match", "gestalt", "accuracy", "readable", "n"]
    return pd.concat(frames, ignore_index=True)[columns]


def _rank_shares(values: Sequence[float], at: int) -> np.ndarray:
    """Rank of one value among all, smallest first, as shares of the ranks: equal values share theirs. Shape (values,)."""
    below, equal = sum(v < values[at] for v in values), sum(v == values[at] for v in values)
    shares = np.zeros(len(values))
    shares[below : below + equal] = 1 / equal
    return shares


def picks(questions: Sequence[Question], draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Which choice wins when the response carries no knowledge: by rank of length and of likeness to the other choices.

    Five-choice questions with one answer only. Without bias every rank wins a fifth of the time. A tie or a distance of
    zero picks nothing, and a response that never wins has no rows. `gold` rows say where the right answer stands: the
    habit of those who write the questions.

    Returns:
        Columns `exam, feature, rank, response, variant, share, n`; rank 5 is the longest or the most typical choice.
    """
    rng = random.Random(seed)
    rows = []
    for exam in dict.fromkeys(q.exam for q in questions):
        group = [q for q in questions if q.exam == exam and q.n_select == 1 and len(q.choices) == 5]
        features = {"length": [[len(c) for c in q.choices] for q in group], "likeness": [likeness(q.choices) for q in group]}
        won = [("gold", "", [(i, LETTERS.index(min(q.gold))) for i, q in enumerate(group)])]
        responses = {"unrelated answer": [unrelated_answers(group, rng) for _ in range(draws)]}
        responses["question repeated"] = [[last_sentence(q.text) for q in group]]
        for name, series in responses.items():
            for variant in VARIANTS:
                found = [(i, _winner(group[i].choices, r, variant)) for drawn in series for i, r in enumerate(drawn)]
                won.append((name, variant, [(i, at) for i, at in found if at is not None]))
        won = [entry for entry in won if entry[2]]
        for name, variant, winners in won:
            for feature, values in features.items():
                shares = np.sum([_rank_shares(values[i], at) for i, at in winners], axis=0) / len(winners)
                rows += [(exam, feature, rank, name, variant, share, len(winners)) for rank, share in enumerate(shares, start=1)]
    return pd.DataFrame(rows, columns=["exam", "feature", "rank", "response", "variant", "share", "n"])


def _winner(choices: Sequence[str], response: str, variant: str) -> int | None:
    distances = [gestalt_distance(response, c, variant) for c in choices]
    best = max(distances)
    return distances.index(best) if best > 0 and distances.count(best) == 1 else None


def drop_characters(text: str, share: float, rng: random.Random) -> str:
    """The text without a random share of its characters; at least one stays."""
    keep = max(1, round(len(text) * (1 - share)))
    return "".join(text[i] for i in sorted(rng.sample(range(len(text)), keep)))


def damage(questions: Sequence[Question], seed: int = 0) -> pd.DataFrame:
    """Right answers that lose characters, by how like the nearest wrong choice is; questions with one answer only.

    Returns:
        Columns `likeness, lost, rule, exact_match, gestalt, accuracy, readable, n`.
    """
    rng = random.Random(seed)
    group = [q for q in questions if q.n_select == 1]
    bands = {q.id: next(b for b, (low, high) in LIKENESS.items() if low <= nearest_wrong(q)[1] < high) for q in group}
    frames = []
    for lost in LOST:
        scored = outcomes(group, [drop_characters(prompts.answer_text(q), lost, rng) for q in group], FEW_RULES)
        for band, rows in (("all", scored), *scored.groupby(scored["id"].map(bands), sort=False)):
            frames.append(_means(rows, ["rule"]).assign(likeness=band, lost=lost))
    return pd.concat(frames, ignore_index=True)[["likeness", "lost", "rule", "exact_match", "gestalt", "accuracy", "readable", "n"]]


# --- changes of a right response ----------------------------------------------------------------------------------


def full_width(text: str) -> str:
    """Every ASCII letter, digit and sign in its full-width form."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


Change = Callable[[Question, list[str], list[str]], str | None]


def _whole(make: Callable[[str], str]) -> Change:
    """A change of the answer as one text."""
    return lambda question, letters, texts: make("、".join(texts))


def _joined(separator: str) -> Change:
    return lambda question, letters, texts: separator.join(texts) if len(texts) > 1 else None


def _with_wrong(pattern: str) -> Change:
    return lambda question, letters, texts: pattern.format("、".join(texts), question.choice(nearest_wrong(question)[0]))


def _only_one(make: Change) -> Change:
    return lambda question, letters, texts: make(question, letters, texts) if len(texts) == 1 else None


HARMLESS: dict[str, Change] = {
    "unchanged": _whole(lambda t: t),
    "full-width letters, digits": lambda question, letters, texts: _changed("、".join(texts), full_width),
    "half-width (NFKC)": lambda question, letters, texts: _changed("、".join(texts), lambda t: unicodedata.normalize("NFKC", t)),
    "full stop": _whole(lambda t: f"{t}。"),
    "polite ending": _whole(lambda t: f"{t}です。"),
    "polite sentence": _whole(lambda t: f"正解は{t}です。"),
    "quotation marks": _whole(lambda t: f"「{t}」"),
    "letter and text": lambda question, letters, texts: "、".join(f"{a}. {t}" for a, t in zip(letters, texts, strict=True)),
    "letter alone": lambda question, letters, texts: "、".join(letters),
    "reason, same line": _whole(lambda t: f"{t}。{REASON}"),
    "reason, next line": _whole(lambda t: f"{t}\n{REASON}"),
    "long reason, same line": _whole(lambda t: f"{t}。{LONG_REASON}"),
    "wrong choice rejected": _with_wrong("{0}。{1}は誤りである。"),
    "order reversed": lambda question, letters, texts: "、".join(texts[::-1]) if len(texts) > 1 else None,
    "comma and blank": _joined(", "),
    "joined by と": _joined("と"),
    "one a line": _joined("\n"),
}
"""Changes after which the response still says the same; None where a change does not apply."""

HARMFUL: dict[str, Change] = {
    "denied": _whole(lambda t: f"{t}ではない。"),
    "right or wrong": _only_one(_with_wrong("{0}または{1}")),
    "wrong or right": _only_one(_with_wrong("{1}または{0}")),
    "one answer missing": lambda question, letters, texts: "、".join(texts[:-1]) if len(texts) > 1 else None,
    "one answer too many": lambda question, letters, texts: (
        "、".join([*texts, question.choice(nearest_wrong(question)[0])]) if len(texts) > 1 else None
    ),
}
"""Changes after which the response no longer is the right answer."""


def _changed(text: str, change: Callable[[str], str]) -> str | None:
    new = change(text)
    return new if new != text else None


def changes(questions: Sequence[Question]) -> pd.DataFrame:
    """What a right answer still earns after each change.

    Returns:
        Columns `change, effect (harmless or harmful), rule, exact_match, gestalt, accuracy, readable, n`.
    """
    frames = []
    for effect, kinds in (("harmless", HARMLESS), ("harmful", HARMFUL)):
        for name, change in kinds.items():
            made = [(q, change(q, list(q.right_letters()), [q.choice(x) for x in q.right_letters()])) for q in questions]
            fits = [(q, response) for q, response in made if response is not None]
            if fits:
                scored = outcomes([q for q, _ in fits], [response for _, response in fits], FEW_RULES)
                frames.append(_means(scored, ["rule"]).assign(change=name, effect=effect))
    return pd.concat(frames, ignore_index=True)[["change", "effect", "rule", "exact_match", "gestalt", "accuracy", "readable", "n"]]


# --- published answers --------------------------------------------------------------------------------------------


def as_text(question: Question, prediction: str) -> str:
    """A published answer, which is letters, as a response in words: the texts of its choices; empty if it names none."""
    letters = [p.strip() for p in prediction.split(",") if p.strip() in tuple(question.letters)]
    return "、".join(question.choice(x) for x in letters)


def published_outcomes(questions: Sequence[Question], published: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Published answers as choice texts under every rule, beside their mark by letters: `outcomes` and `system, marked`."""
    frames = []
    for system, answers in published.items():
        marked = exam_card.mark_published(questions, {q.id: answers.get(q.id, "") for q in questions})
        scored = outcomes(questions, [as_text(q, answers.get(q.id, "")) for q in questions])
        right = scored["id"].map({name: float(m.right) for name, m in marked.items()})
        frames.append(scored.assign(system=system, marked=right))
    return pd.concat(frames, ignore_index=True)


def agreement(scored: pd.DataFrame) -> pd.DataFrame:
    """How far each rule agrees with the mark by letters: columns `system, rule, n, marked, accuracy, exact_match, gestalt,
    gestalt_right, gestalt_wrong, credited, refused`; the last two count questions that only the rule, or only the mark, gives."""
    rows = []
    for (system, rule), g in scored.groupby(["system", "rule"], sort=False):
        right, wrong = g[g["marked"] == 1], g[g["marked"] == 0]
        rows.append(
            {
                "system": system,
                "rule": rule,
                "n": len(g),
                **{column: g[column].mean() for column in ("marked", "accuracy", "exact_match", "gestalt")},
                "gestalt_right": right["gestalt"].mean(),
                "gestalt_wrong": wrong["gestalt"].mean(),
                "credited": int(wrong["accuracy"].sum()),
                "refused": int((1 - right["accuracy"]).sum()),
            }
        )
    return pd.DataFrame(rows)


def disagreements(scored: pd.DataFrame) -> pd.DataFrame:
    """The published answers on which the rules, or a rule and the mark by letters, differ: `id, system, marked` and a column a rule."""
    wide = scored.pivot(index=["id", "system", "marked"], columns="rule", values="accuracy").reset_index()
    wide = wide[["id", "system", "marked", *RULES]].rename_axis(columns=None)
    odd = wide[wide[["marked", *RULES]].nunique(axis=1) > 1]
    return odd.sort_values(["id", "system"], ignore_index=True).astype({c: int for c in ("marked", *RULES)})


def rule_pairs(questions: Sequence[Question], scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of questions on which two rules differ in Accuracy, for four kinds of response.

    Returns:
        Columns `response, first, second, differ, n`.
    """
    rng = random.Random(seed)
    one = [q for q in questions if q.n_select == 1]
    kinds = {
        "published answers": scored,
        "right, 30 % of characters lost": outcomes(one, [drop_characters(prompts.answer_text(q), 0.3, rng) for q in one]),
        "right, with a reason": outcomes(one, [f"{prompts.answer_text(q)}。{REASON}" for q in one]),
        "unrelated answer": outcomes(one, unrelated_answers(one, rng)),
    }
    rows = []
    for name, frame in kinds.items():
        keys = ["id", "system"] if "system" in frame else ["exam", "id"]
        wide = frame.pivot(index=keys, columns="rule", values="accuracy")
        for first, second in combinations(RULES, 2):
            rows.append((name, first, second, float((wide[first] != wide[second]).mean()), len(wide)))
    return pd.DataFrame(rows, columns=["response", "first", "second", "differ", "n"])


def system_pairs(questions: Sequence[Question], published: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Every two published systems on the same questions, marked by letters.

    Returns:
        Columns `first, second, n, right_first, right_second, difference, low, high, discordant, p`; shares 0 to 1.
    """
    right = {}
    for system, answers in published.items():
        marked = exam_card.mark_published(questions, {q.id: answers.get(q.id, "") for q in questions})
        right[system] = np.array([float(marked[q.id].right) for q in questions])
    rows = []
    for first, second in combinations(right, 2):
        a, b = right[first], right[second]
        interval, test = statistics.paired_bootstrap([a], [b]), statistics.mcnemar_exact(a, b)
        discordant = (test.gained + test.lost) / test.n
        rows.append((first, second, test.n, a.mean(), b.mean(), *interval, discordant, test.p))
    columns = ["first", "second", "n", "right_first", "right_second", "difference", "low", "high", "discordant", "p"]
    return pd.DataFrame(rows, columns=columns)


def exam_points(questions: Sequence[Question], published: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Accuracy on the text-only five-choice questions beside the points of the whole examination, per system and year.

    Returns:
        Columns `system, year, accuracy, n, text_points, image_accuracy, image_n, points, max_points, required, general, passed`;
        `text_points` is the share of the points of the text questions.
    """
    rows = []
    for system, answers in published.items():
        marked = exam_card.mark_published(questions, {q.id: answers.get(q.id, "") for q in questions})
        for row in exam_card.card(questions, marked, system).itertuples():
            of_year = [q for q in questions if q.year == row.year]
            text, image = select_text_five(of_year)[0], [q for q in of_year if not q.text_only]
            right = {name: sum(marked[q.id].right for q in group) for name, group in (("text", text), ("image", image))}
            text_points = sum(q.points for q in text if marked[q.id].right) / sum(q.points for q in text)
            about = (system, row.year, right["text"] / len(text), len(text), text_points, right["image"] / len(image), len(image))
            rows.append((*about, row.points, row.max_points, row.required, row.general, row.passed))
    columns = ["system", "year", "accuracy", "n", "text_points", "image_accuracy", "image_n"]
    return pd.DataFrame(rows, columns=[*columns, "points", "max_points", "required", "general", "passed"])


def passing(questions: Sequence[Question], rates: Sequence[float] = tuple(np.round(np.arange(0.5, 1.0, 0.01), 2))) -> pd.DataFrame:
    """Probability to reach both marks for a candidate who is right on every item with the same probability.

    Exact: each block's points are a binomial count of its one-point items plus three times one of its three-point items.
    Prohibited choices are left out, so the true probability is lower.

    Returns:
        Columns `year, rate, required, general, both`.
    """
    marks = exam_card.pass_marks()
    rows = []
    for year in sorted({q.year for q in questions if q.year in marks.index}):
        of_year = [q for q in questions if q.year == year]
        for rate in rates:
            reach = []
            for required in (True, False):
                block = [q for q in of_year if (q.section in exam_card.REQUIRED_SECTIONS) == required]
                pmf = points_distribution([q.points for q in block], rate)
                reach.append(float(pmf[int(marks.loc[year, "required_mark" if required else "general_mark"]) :].sum()))
            rows.append((year, rate, *reach, reach[0] * reach[1]))
    return pd.DataFrame(rows, columns=["year", "rate", "required", "general", "both"])


def points_distribution(points: Sequence[float], rate: float) -> np.ndarray:
    """Distribution of the points of items that are each right with the same probability; shape (sum of points + 1,)."""
    from scipy.stats import binom

    pmf = np.ones(1)
    for value, count in zip(*np.unique(np.asarray(points, int), return_counts=True), strict=True):
        if value:
            spread = np.zeros(value * count + 1)
            spread[::value] = binom.pmf(np.arange(count + 1), count, rate)
            pmf = np.convolve(pmf, spread)
    return pmf


def rate_needed(frame: pd.DataFrame, probability: float, column: str = "both") -> dict[int, float]:
    """Lowest rate of `passing` that reaches the probability, per year."""
    return {int(year): float(g.loc[g[column] >= probability, "rate"].min()) for year, g in frame.groupby("year")}


# --- power --------------------------------------------------------------------------------------------------------


def questions_for(differences: Sequence[float], rate: float, discordant: Sequence[float], power: float = 0.8) -> pd.DataFrame:
    """Questions needed to see a difference: two models on different questions, and in pairs for shares of discordant questions.

    Returns:
        Columns `difference, design, discordant, n`; `design` is `unpaired` or `paired`.
    """
    rows = []
    for difference in differences:
        rows.append((difference, "unpaired", np.nan, statistics.questions_needed(difference, rate, power)))
        for share in discordant:
            if share >= difference:
                rows.append((difference, "paired", share, statistics.questions_needed_paired(difference, share, power)))
    return pd.DataFrame(rows, columns=["difference", "design", "discordant", "n"])


def smallest_difference(n: int, rate: float, discordant: float | None = None, power: float = 0.8) -> float:
    """Smallest difference that n questions show with this power, to 0.0005; None compares different questions."""
    for difference in np.arange(0.0005, 1 - rate, 0.0005):
        if discordant is not None and difference > discordant:
            break
        if discordant is None:
            needed = statistics.questions_needed(difference, rate, power)
        else:
            needed = statistics.questions_needed_paired(difference, discordant, power)
        if needed <= n:
            return float(difference)
    return float("nan")


# --- for the page ------------------------------------------------------------------------------------------------


def worked_example(question: Question, responses: Sequence[str], variant: str = "longest") -> pd.DataFrame:
    """Each response with its distance to every choice and what it earns.

    Returns:
        Columns `response`, one a letter (two decimals), `exact_match`, `accuracy`, `strict`; the last is strict Accuracy.
    """
    rows = []
    for response in responses:
        journal, strict = score(question, response, "journal", variant), score(question, response, "strict")
        distances = {x: f"{gestalt_distance(response, question.choice(x), variant):.2f}" for x in question.letters}
        earned = {"exact_match": int(journal.exact_match), "accuracy": int(journal.accuracy), "strict": int(strict.accuracy)}
        rows.append({"response": response, **distances, **earned})
    return pd.DataFrame(rows)


def disagreement_kinds(found: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """`disagreements` by who says right and who says wrong: columns `right`, `wrong`, `answers`, `questions` (ids, first `most`)."""
    judges = {"marked": "letters", **{rule: RULE_NAMES[rule] for rule in RULES}}
    rows = []
    for verdicts, group in found.groupby(list(judges), sort=False):
        sides = {side: [name for name, v in zip(judges.values(), verdicts, strict=True) if v == side] for side in (1, 0)}
        ids = list(dict.fromkeys(group["id"]))
        shown = ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")
        rows.append((*("; ".join(sides[side]).replace("journal, ", "") for side in (1, 0)), len(group), shown))
    return pd.DataFrame(rows, columns=["right", "wrong", "answers", "questions"]).sort_values("answers", ascending=False, ignore_index=True)


def verdicts(study: MetricsStudy) -> pd.DataFrame:
    """The paper's argument part by part: columns `part`, `holds`, `fails`, with the figures of the study."""

    def kept(change: str, rule: str, metric: str = "accuracy") -> str:
        return f"{100 * study.at('changes', change=change, rule=rule)[metric]:.1f} %"

    def damaged(band: str, metric: str = "accuracy") -> str:
        return f"{100 * study.at('damage', likeness=band, lost=0.3, rule='longest')[metric]:.1f} %"

    blind = {
        rule: f"{100 * study.at('levels', exam='igakuqa', asked='one', response='empty', rule=rule)['accuracy']:.1f} %"
        for rule in ("longest", "harness")
    }
    wrong = f"{100 * study.at('levels', exam='igakuqa', asked='one', response='nearest wrong answer', rule='longest')['gestalt']:.1f} %"
    rows = [
        (
            "Exact match is strict",
            f"always: a full stop leaves {kept('full stop', 'longest', 'exact_match')}",
            f"read strictly it forgives form and stays strict on content: {kept('full stop', 'strict', 'exact_match')}",
        ),
        (
            "Accuracy is lenient",
            f"towards form: a polite ending leaves {kept('polite ending', 'longest')}, "
            f"a reason after it {kept('reason, same line', 'longest')}",
            f"where choices are alike: with 30 % of characters lost {damaged('alike')} against {damaged('unlike')}",
        ),
        (
            "lenient, and still fair",
            "where the response names one choice and no other",
            f"a denial keeps {kept('denied', 'longest')}; rejecting a wrong choice keeps only {kept('wrong choice rejected', 'longest')}",
        ),
        (
            "no answer, no credit",
            f"where ties choose nothing: an empty response earns {blind['longest']}",
            f"where ties go to the first choice: {blind['harness']}",
        ),
        (
            "the Gestalt score measures closeness",
            "between responses to the same question",
            f"as a level: an always wrong answer can have {wrong}",
        ),
        (
            "generated text is what counts",
            "for text: every system can be scored",
            f"for letters, which are text too: a letter alone keeps {kept('letter alone', 'longest')}, "
            f"read strictly {kept('letter alone', 'strict')}",
        ),
    ]
    return pd.DataFrame(rows, columns=["part", "holds", "fails"])


def smallest_differences(sizes: Mapping[str, int], rate: float, discordant: Sequence[float]) -> pd.DataFrame:
    """Smallest visible difference in points: one row an exam, one column a design; see `smallest_difference`."""
    rows = []
    for name, n in sizes.items():
        row = {"exam": name, "n": n, "different questions": f"{100 * smallest_difference(n, rate):.1f}"}
        row |= {f"same, {100 * d:.0f} % differ": f"{100 * smallest_difference(n, rate, d):.1f}" for d in discordant}
        rows.append(row)
    return pd.DataFrame(rows)


def texts_of(found: pd.DataFrame, years: Sequence[int], limit: int) -> str:
    """The shortest questions of `disagreements` in words, as Markdown: stem, choices, gold, answer. Needs the exam at hand."""
    data_dir = paths.exam_data_dir()
    questions = {q.id: q for q in load_igakuqa(data_dir, years)}
    answers = {system: load_published(data_dir, years, system) for system in found["system"].unique()}
    parts = []
    one_each = found.drop_duplicates("id").sort_values("id", key=lambda ids: ids.map(lambda name: len(questions[name].text)), kind="stable")
    for row in one_each.head(limit).itertuples():
        question, given = questions[row.id], answers[row.system][row.id]
        lines = [f"**{row.id}** ({row.system} answered {escape(given)}; right: {', '.join(sorted(question.gold))})", escape(question.text)]
        parts.append("\n\n".join([*lines, "  \n".join(f"{x}. {escape(question.choice(x))}" for x in question.letters)]))
    return "\n\n---\n\n".join(parts)


# --- the whole study ----------------------------------------------------------------------------------------------


def compute(years: Sequence[int] = YEARS, data_dir: Path | None = None) -> MetricsStudy:
    """Runs every study on the exams of `data_dir` (None: `paths.exam_data_dir()`).

    Raises:
        JmedloraError: Questions or published answers are missing.
    """
    folder = data_dir or paths.exam_data_dir()
    everything = load_igakuqa(folder, years)
    igakuqa, _ = select_text_five(everything)
    jjsimqa, _ = select_text_five(load_jjsimqa(folder))
    both = [*igakuqa, *jjsimqa]
    published = {system: load_published(folder, years, system) for system in SYSTEMS}
    scored = published_outcomes(igakuqa, published)
    tables = {
        "levels": levels(both),
        "picks": picks(both),
        "damage": damage(both),
        "changes": changes(both[::CHANGES_EVERY]),
        "agreement": agreement(scored),
        "disagreements": disagreements(scored),
        "rule_pairs": rule_pairs(igakuqa, scored),
        "system_pairs": system_pairs(igakuqa, published),
        "exam": exam_points(everything, published),
        "passing": passing(everything),
    }
    about = {
        "years": list(years),
        "questions": {"igakuqa": len(igakuqa), "jjsimqa": len(jjsimqa)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {k: v for k, v in package_versions().items() if k in ("jmedlora", "numpy", "pandas")},
    }
    return MetricsStudy("data", tables, about)


def write(study: MetricsStudy, folder: Path = FOLDER) -> list[Path]:
    """Writes every table as CSV and `about.json`: numbers and ids, no text of a question."""
    written = [write_text(folder / f"{name}.csv", study.tables[name].to_csv(index=False, float_format="%.6g")) for name in TABLES]
    written.append(write_text(folder / "about.json", json.dumps(dict(study.about), indent=1) + "\n"))
    return [*written, write_manifest(folder)]


def read(folder: Path = FOLDER) -> MetricsStudy:
    """Reads what `write` wrote.

    Raises:
        JmedloraError: A file is missing or differs from the manifest.
    """
    if missing := [name for name in (*(f"{t}.csv" for t in TABLES), "about.json") if not (folder / name).is_file()]:
        mend = "run `python -m jmedlora_utils.analysis.metrics_study freeze` where the exams are"
        raise JmedloraError(f"{paths.relative(folder / missing[0])} is missing; {mend}")
    check_manifest(folder)
    tables = {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=True) for name in TABLES}
    tables["picks"]["variant"] = tables["picks"]["variant"].fillna("")
    return MetricsStudy("committed", tables, json.loads((folder / "about.json").read_text(encoding="utf-8")))


def load(source: str, years: Sequence[int] = YEARS) -> MetricsStudy:
    """The study from one of `SOURCES`: `data` computes it, `committed` reads it, `auto` computes it where the exams are.

    Raises:
        JmedloraError: The source is unknown.
        JmedloraError: An exam file was changed, or is missing and cannot be downloaded.
    """
    from jmedlora_utils.data import fetch

    if source not in SOURCES:
        raise JmedloraError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    exams = ["igakuqa", "jjsimqa"]
    if source == "committed" or (source == "auto" and not fetch.available(exams, years)):
        return read()
    fetch.ensure(exams, years)
    return compute(years)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `freeze`."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.analysis.metrics_study", description="The study of the metrics.")
    parser.add_argument("command", choices=["freeze"], help="compute from the exams and write book/results/metrics/")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="write there instead")
    chosen = parser.parse_args(arguments)
    return exit_status(lambda: _freeze(chosen.folder))


def _freeze(folder: Path) -> None:
    written = write(compute(), folder)
    print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e3:.0f} kB in {paths.relative(folder)}")


if __name__ == "__main__":
    sys.exit(main())
