"""The registered study: its estimands, one number for each seed, and its verdicts by the committed rule (`resources/registration.yaml`).

A seed is a world of its own with its own bases and adapters, so every interval is Student's t over seeds. A number of a seed is a
difference of shares of right answers, or for claim 2 a slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from jmedlora_utils.analysis import evidence
from jmedlora_utils.analysis.gains import NotMeasuredError
from jmedlora_utils.analysis.studies import Study, question_of, read_runs
from jmedlora_utils.analysis.verdicts import NOT_MEASURED, NOT_SUPPORTED, SUPPORTED, UNDECIDED, decide
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.formatting import percent
from jmedlora_utils.core.records import read_yaml
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.core.statistics import Interval

FILE = paths.PACKAGE_DATA / "registration.yaml"
NOT_TESTABLE, ONE_SEED = "not testable here", "one seed"
SMALL, NOT_SMALL = "shown to be small", "not shown to be small"
POINTS, LOGITS = "points", "logits per doubling"
DECIDING = {1: 3, 2: 1, 3: 3, 4: 2}
"""How many estimands decide each claim."""
ANSWERS = "answers.csv"
SIZES = ("en-small", "en-medium", "en-large")
TRAINED, HELD_OUT = "mini_trained", "mini_heldout"
Share = Annotated[float, Field(gt=0, lt=1)]


class Registration(Checked):
    """What was fixed before the seeds were run."""

    stated: str  #: Day of the commit
    preset: str  #: The preset that it speaks of
    seeds: list[int]  #: Confirmatory seeds
    development_seeds: list[int]  #: Worlds on which every choice was made; no verdict uses them
    metric: str  #: Column of the outcomes, one scorer for every number of claims 1 to 3
    level: Share  #: Of every interval
    margin: Share  #: Smallest effect that supports a claim, and half the width of an equivalence
    slope_margin: Annotated[float, Field(gt=0)]  #: The same for claim 2, in logits per doubling of parameters
    equivalence_level: Share  #: Of each of two one-sided tests
    fewest_non_copies: Share  #: Below this share of answers that are no copy of a choice, claim 4 is not testable
    power: Share  #: At which the smallest detectable effect is given
    facts: dict[str, int]  #: Taught facts of each load
    text: list[str]  #: The rule in words


@cache
def read_registration() -> Registration:
    """The committed registration."""
    return Registration.read(read_yaml(FILE), FILE.name)


class Estimate(NamedTuple):
    """One estimand over the seeds."""

    claim: int
    name: str
    by_seed: pd.Series  #: Number of each seed, indexed by seed
    interval: Interval
    detectable: float  #: Smallest effect that so many seeds with this spread would find with the registered power
    verdict: str  #: By the rule; empty for what is only described
    unit: str = POINTS  #: Of the numbers: `POINTS` are shares, shown in percent

    def text(self, *numbers: float) -> str:
        """The estimate with its interval in the estimand's unit, signed; or other numbers of that unit.

        The interval of an equivalence belongs to two one-sided tests, so it says its level.
        """
        if not numbers and self.verdict in (SMALL, NOT_SMALL):
            level = f"{100 * (1 - 2 * read_registration().equivalence_level):.0f} %"
            return self.text(self.interval.value) + f" [{level}: {self.text(self.interval.low)}, {self.text(self.interval.high)}]"
        numbers = numbers or tuple(x for x in self.interval if not math.isnan(x))
        if self.unit == POINTS:
            return percent(*numbers, signed=True)
        return f"{numbers[0]:+.2f}" + (f" [{numbers[1]:+.2f}, {numbers[2]:+.2f}]" if numbers[1:] else "")


def correct(study: Study, run: str, exam: str, facts: str, shots: int = 0, base: bool = False) -> pd.Series:
    """Share of right answers on `taught` or `untaught` facts of a run at its last step, or with `base` at step 0; indexed by seed.

    Raises:
        NotMeasuredError: The study holds no such answers.
    """
    return answered(study, run, exam, facts, shots, base)[read_registration().metric]


def answered(study: Study, run: str, exam: str, facts: str, shots: int = 0, base: bool = False) -> pd.DataFrame:
    """What `correct` reads: the rows of `Study.means` of one run and group at one step, indexed by seed."""
    frame = study.means
    rows = frame[(frame["run"] == run) & (frame["exam"] == exam) & (frame["shots"] == shots) & (frame["facts"] == facts)]
    rows = rows[rows["steps"] == (0 if base else rows["steps"].max())]
    if rows.empty or (not base and (rows["steps"] == 0).all()):
        raise NotMeasuredError(f"no answers of {run} to {exam}, {facts} facts, {shots}-shot; run the preset to its end")
    return rows.set_index("seed")


def averaged(study: Study, run: str, facts: str, base: bool = False) -> pd.Series:
    """Mean over both wordings and over prompts without and with a worked example."""
    return sum(correct(study, run, exam, facts, shots, base) for exam in (TRAINED, HELD_OUT) for shots in (0, 1)) / 4


def slope(study: Study, runs: Iterable[str], exam: str) -> pd.Series:
    """Least-squares slope of the logit of Accuracy on taught facts over the logarithm to base 2 of the parameters, by seed.

    The runs are on bases of at least two sizes. Shares of 0 and 1 have no logit, so half an answer is added on both sides (Haldane 1956).
    The number of answers is that of all questions of the exam, taught and untaught, as in the code that was registered.
    """
    columns = {}
    for run in runs:
        rows = answered(study, run, exam, "taught")
        whole = study.means[(study.means["run"] == run) & (study.means["exam"] == exam) & (study.means["shots"] == 0)]
        n = whole[whole["steps"] == rows["steps"].iloc[0]].groupby("seed")["n"].sum()
        right = rows[read_registration().metric] * n
        columns[math.log2(rows["size_params"].iloc[0])] = np.log((right + 0.5) / (n - right + 0.5))
    table = pd.DataFrame(columns)
    x = table.columns.to_numpy(float) - table.columns.to_numpy(float).mean()
    return pd.Series(table.to_numpy() @ x / (x @ x), index=table.index)


def estimate(claim: int, name: str, by_seed: pd.Series, margin: float | None = None, unit: str = POINTS) -> Estimate:
    """The mean over the seeds that have a number, with its interval, and the verdict where the rule has a margin for it.

    Raises:
        NotMeasuredError: No seed has a number.
    """
    rule, by_seed = read_registration(), by_seed.dropna()
    if not (n := len(by_seed)):
        raise NotMeasuredError(f"{name}: no seed has all the answers that it takes; run the preset to its end")
    if n < 2:
        word = "" if margin is None else ONE_SEED
        return Estimate(claim, name, by_seed, Interval(float(by_seed.mean()), math.nan, math.nan), math.nan, word, unit)
    from scipy.stats import t

    found = statistics.seed_interval([np.array([value]) for value in by_seed], rule.level)
    spread = float(by_seed.std(ddof=1)) / math.sqrt(n)
    detectable = spread * float(t.ppf((1 + rule.level) / 2, n - 1) + t.ppf(rule.power, n - 1))
    return Estimate(claim, name, by_seed, found, detectable, "" if margin is None else decide(found, margin), unit)


def equivalence(claim: int, name: str, by_seed: pd.Series) -> Estimate:
    """An effect that should be nil: two one-sided tests against plus and minus the margin, through the interval that belongs to them."""
    rule, made = read_registration(), estimate(claim, name, by_seed)
    if len(made.by_seed) < 2:
        return made._replace(verdict=ONE_SEED)
    inner = statistics.seed_interval([np.array([value]) for value in made.by_seed], 1 - 2 * rule.equivalence_level)
    within = -rule.margin < inner.low and inner.high < rule.margin
    return made._replace(interval=inner, verdict=SMALL if within else NOT_SMALL)


class Finding(NamedTuple):
    """What a study says of one claim."""

    claim: int
    estimates: list[Estimate]  #: In the order of the rule; those with a verdict decide
    verdict: str  #: The verdict on the claim
    missing: list[str]  #: Why an estimand could not be measured


def findings(study: Study) -> list[Finding]:
    """The registered rule applied to every claim; an estimand whose runs the study lacks is left out and named."""
    found = []
    for claim, makers in ((1, claim_1(study)), (2, claim_2(study)), (3, claim_3(study)), (4, claim_4(study))):
        measured, missing = [], []
        for make in makers:
            try:
                measured.append(make())
            except NotMeasuredError as error:
                missing.append(str(error))
        found.append(Finding(claim, measured, verdict(claim, measured), missing))
    return found


def changed_verdicts(study: Study) -> dict[int, list[str]]:
    """The verdict on each claim with one thing changed at a time: without one of the worlds, each in turn, and by the `strict` scorer.

    Claim 4 compares the paper's own formulas, so the other scorer says nothing about it.
    """
    frame = study.outcomes
    without = [replace(study, outcomes=frame[frame["seed"] != seed]) for seed in study.seeds if len(study.seeds) > 2]
    strict = replace(study, outcomes=frame.assign(**{read_registration().metric: frame["strict_accuracy"]}))
    words: dict[int, list[str]] = {}
    for changed in (*without, strict):
        for found in findings(changed):
            if not (changed is strict and found.claim == 4):
                words.setdefault(found.claim, []).append(found.verdict)
    return words


Makers = Sequence[Callable[[], Estimate]]


def claim_1(study: Study) -> Makers:
    """Knowledge: taught minus untaught, true minus placebo; what other wordings and prompts keep of it."""
    margin, true, placebo = read_registration().margin, "en-large_lora", "en-large_placebo"

    def knowledge() -> pd.Series:
        taught, untaught = ([averaged(study, run, facts) for run in (true, placebo)] for facts in ("taught", "untaught"))
        return (taught[0] - taught[1]) - (untaught[0] - untaught[1])

    def lost(run: str, what: str) -> pd.Series:
        other = (TRAINED, "taught", 1) if what == "example" else (HELD_OUT, "taught")
        return correct(study, run, TRAINED, "taught") - correct(study, run, *other)

    def mean_lost(run: str) -> pd.Series:
        return (lost(run, "wording") + lost(run, "example")) / 2

    def more_than_base(run: str, facts: str) -> pd.Series:
        return averaged(study, run, facts) - averaged(study, true, facts, base=True)

    return [
        lambda: estimate(1, "knowledge", knowledge(), margin),
        lambda: equivalence(1, "untaught facts", more_than_base(true, "untaught")),
        lambda: estimate(1, "partially: lost with another wording or an example", mean_lost(true), margin),
        lambda: estimate(1, "placebo on taught facts", more_than_base(placebo, "taught")),
        lambda: estimate(1, "true records alone: taught minus untaught", more_than_base(true, "taught") - more_than_base(true, "untaught")),
        lambda: estimate(1, "LoRA: lost with another wording", lost(true, "wording")),
        lambda: estimate(1, "LoRA: lost with a worked example", lost(true, "example")),
        lambda: estimate(1, "full tuning: lost with another wording", lost("en-large_full", "wording")),
        lambda: estimate(1, "full tuning: lost with a worked example", lost("en-large_full", "example")),
        lambda: estimate(1, "LoRA minus full tuning: lost, mean of both", mean_lost(true) - mean_lost("en-large_full")),
        lambda: estimate(1, "kept by records with examples", lost(true, "example") - lost("en-large_examples", "example")),
    ]


def claim_2(study: Study) -> Makers:
    """Size: the slope at the registered load; beside it half the load, and adapters of equal size."""
    margin = read_registration().slope_margin
    main = {base: f"{base}_lora" for base in SIZES}
    half = {base: f"{base}_half" for base in SIZES}
    matched = main | {base: f"{base}_matched" for base in ("en-small", "en-large")}

    def step(runs: dict[str, str], larger: str, smaller: str) -> pd.Series:
        return correct(study, runs[larger], HELD_OUT, "taught") - correct(study, runs[smaller], HELD_OUT, "taught")

    return [
        lambda: estimate(2, "slope per doubling", slope(study, main.values(), HELD_OUT), margin, LOGITS),
        lambda: estimate(2, "slope, half the facts", slope(study, half.values(), "mini_half"), unit=LOGITS),
        lambda: estimate(2, "slope, equal adapters", slope(study, matched.values(), HELD_OUT), unit=LOGITS),
        lambda: estimate(2, "large minus small, in points", step(main, "en-large", "en-small")),
        lambda: estimate(2, "middle minus small, in points", step(main, "en-medium", "en-small")),
        lambda: estimate(2, "large minus middle, in points", step(main, "en-large", "en-medium")),
        lambda: estimate(2, "equal adapters: large minus middle, in points", step(matched, "en-large", "en-medium")),
    ]


def claim_3(study: Study) -> Makers:
    """Language of the base by tokenizer: main effects, interaction, and whether the Japanese-centric bases stay limited."""
    margin = read_registration().margin

    def by(base: str) -> pd.Series:
        after, before = (correct(study, f"{base}_lora", HELD_OUT, "taught", base=untuned) for untuned in (False, True))
        return after - before

    def both(language: str) -> pd.Series:
        return (by(f"{language}-medium") + by(f"{language}-medium-shared")) / 2

    def own_minus_shared(language: str) -> pd.Series:
        return by(f"{language}-medium") - by(f"{language}-medium-shared")

    return [
        lambda: estimate(3, "English-centric gain", both("en"), margin),
        lambda: estimate(3, "English minus Japanese", both("en") - both("ja"), margin),
        lambda: estimate(3, "Japanese-centric short of half", both("en") / 2 - both("ja"), margin),
        lambda: estimate(3, "Japanese-centric gain", both("ja")),
        lambda: estimate(3, "own minus shared tokenizer", (own_minus_shared("en") + own_minus_shared("ja")) / 2),
        lambda: estimate(3, "language by tokenizer", own_minus_shared("en") - own_minus_shared("ja")),
        lambda: estimate(3, "own tokenizers: English minus Japanese", by("en-medium") - by("ja-medium")),
        lambda: estimate(3, "as in the paper: large English minus middle Japanese", by("en-large") - by("ja-medium")),
    ]


def claim_4(study: Study) -> Makers:
    """The metrics: of answers in sentences, those that only reading finds right, and those that Accuracy credits wrongly."""
    rule = read_registration()

    @cache
    def counts() -> pd.DataFrame:
        found = answer_counts(study)
        return found[found["seed"].isin(study.seeds)].groupby("seed").sum(numeric_only=True)

    def copies_none() -> pd.Series:
        return counts()["non_copies"] / counts()["n"]

    def share(part: str, of: str) -> Estimate:
        name = f"{of} answers that {'Exact match refuses' if part == 'right_not_exact' else 'Accuracy credits'}"
        values = (counts()[part] / counts()[of].where(counts()[of] > 0)).dropna()
        made = estimate(4, name, values, rule.margin)
        return made._replace(verdict=NOT_TESTABLE) if copies_none().mean() < rule.fewest_non_copies else made

    return [
        lambda: share("right_not_exact", "right"),
        lambda: share("credited_wrong", "wrong"),
        lambda: estimate(4, "answers that copy no choice", copies_none()),
    ]


def answer_counts(study: Study) -> pd.DataFrame:
    """How the run on sentences answered, by seed and exam; from the answers of a run, or from the committed table.

    Returns:
        Columns `seed`, `exam`, `n`, `non_copies` (answers that are no list of choices, letter for letter), `right` (on reading what the
        answer asserts), `right_not_exact` (of these, refused by Exact match), `wrong`, and `credited_wrong` (of these, right by Accuracy).
    """
    if study.folder is not None:
        return pd.read_csv(study.folder / ANSWERS)
    from jmedlora_utils.data.study_records import as_listed, asserted
    from jmedlora_utils.evaluation import metrics, reading

    said = study.examples[study.examples["run"] == "en-large_sentences"]
    rows = said.merge(study.questions, on=["seed", "exam", "id"])
    found = []
    for row in rows[rows["facts"] == "taught"].to_dict("records"):
        q = question_of(row)
        right = reading.read_choices(q, asserted(row["response"])) == q.gold
        paper = metrics.score(q, row["response"], "journal")
        found.append(
            {"seed": row["seed"], "exam": row["exam"], "n": 1, "non_copies": int(not as_listed(q, row["response"])), "right": int(right)}
            | {"right_not_exact": int(right and not paper.exact_match), "wrong": int(not right)}
            | {"credited_wrong": int(not right and bool(paper.accuracy))}
        )
    if not found:
        raise NotMeasuredError("no answers of en-large_sentences; run the preset to its end")
    return pd.DataFrame(found).groupby(["seed", "exam"], as_index=False).sum()


def verdict(claim: int, estimates: Sequence[Estimate]) -> str:
    """The verdict on a claim: supported if each of its deciding estimands is, not supported if one is not, else undecided."""
    words = [e.verdict for e in estimates if e.verdict]
    if len(words) < DECIDING[claim]:
        return NOT_MEASURED
    for word in (ONE_SEED, NOT_TESTABLE, NOT_SUPPORTED):
        if word in words:
            return word
    return SUPPORTED if set(words) <= {SUPPORTED, SMALL} else UNDECIDED


def provisional(study: Study) -> str:
    """What a page says above the verdicts: that these are not the registered seeds, or not all of them; empty where they are."""
    rule = read_registration()
    if study.preset != rule.preset or not set(study.seeds) <= set(rule.seeds):
        return "Not the registered study: what follows applies its rule to other worlds, and is no evidence."
    if missing := len(set(rule.seeds) - set(study.seeds)):
        return (
            f"{len(study.seeds)} of the {len(rule.seeds)} registered worlds have been run, and {missing} are still to come. The number was "
            "fixed in advance, so every verdict is provisional until all worlds are in."
        )
    return ""


def table(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """One row per estimand, points as shares; columns claim, estimand, unit, worlds, value, low, high, detectable, verdict."""
    rows = [(e.claim, e.name, e.unit, len(e.by_seed), *e.interval, e.detectable, e.verdict) for e in estimates]
    return pd.DataFrame(rows, columns=["claim", "estimand", "unit", "worlds", "value", "low", "high", "detectable", "verdict"])


def freeze(preset: str, folder: Path | None = None, seeds: Sequence[int] = (), add: bool = False) -> list[Path]:
    """Commits the evidence of a finished run as `evidence.freeze` does, with the counts of answers and the estimates beside it."""
    written, study = evidence.freeze(preset, folder, seeds, add), read_runs(preset, seeds)
    written = evidence.add_tables(written, {ANSWERS: answer_counts(study)}, study.seeds, add)
    every = [e for finding in findings(evidence.read_evidence(written[-1].parent)) for e in finding.estimates]
    return evidence.add_tables(written, {"estimates.csv": table(every)})
