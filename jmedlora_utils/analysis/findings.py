"""The paper's claims and what the miniature says of each, by a rule that was written before the runs.

Everything here reads the per-question frame of `tables` (one row a question, model and condition) and returns effects with
intervals and verdicts. The rule, stated on `STATED` and committed before the first five-seed run:

* One **margin** for every effect: 5 points. Less than that would not matter to anyone choosing a model.
* *supported*: the 95 % interval lies above zero and the estimate reaches the margin. *not supported*: the whole interval lies
  below the margin. *undecided at this size*: anything else, or a control failed. A claim with several parts is supported when all
  parts are, not supported when one part is not, undecided otherwise.
* **Headline condition**: 0-shot, Accuracy under the `journal` scorer, method LoRA, the *late* step (the second of the three kept),
  facts asked in a phrasing used in tuning. Other shots, steps, phrasings and scorers are shown beside it and never replace it.
* Base and tuned model answer the same questions, so every effect is a mean of per-question differences; the interval is
  `statistics.mean_interval` over questions and seeds. Tests are McNemar's, exact, pooled over seeds, with Holm's correction over
  every tuned run, kept step, number of shots and phrasing.
* **Control**: Accuracy on untaught facts at the headline condition must have an interval that covers chance (1/5 for one of
  five, 1/10 for two). If it does not, format or leakage was learned, and claims 1 to 3 are undecided whatever their effects.

Corrected on `CORRECTED`, after a review and before any five-seed evidence existed (of the five seeds, one had been asked in
full), because the code departed from the rule above. The control had pooled both phrasings, so that each untaught fact counted
twice; it now reads the exam of the headline phrasing alone. The interval of claim 4 had taken the answers to one fact, in two
phrasings and from every base, for independent questions; they are now averaged to one number a fact. The words of the rule stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jmedlora_utils.core import statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.statistics import Interval

STATED = "2026-11-22"
CORRECTED = "2026-11-22"
MARGIN = 0.05
ALPHA = 0.01
NEAR_MISS = 0.8
SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided at this size"
NOT_MEASURED = "not measured"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED)
PHRASINGS = ("taught", "taught_held_out_phrasing")
EXAM_OF = dict(zip(PHRASINGS, ("mini_trained", "mini_heldout"), strict=True))


class FindingError(JmedloraError):
    """A comparison that the outcomes at hand cannot make; names the missing condition."""


@dataclass(frozen=True)
class Condition:
    """What is compared; the defaults are the headline condition.

    Attributes:
        step_rank: Which of a run's kept steps: 0 early, 1 late, 2 very late; the last one where fewer were kept.
        shots: Worked examples in the prompt.
        facts: Group of facts asked.
        metric: Column of the frame.
    """

    step_rank: int = 1
    shots: int = 0
    facts: str = "taught"
    metric: str = "accuracy"


HEADLINE = Condition()


@dataclass(frozen=True)
class Claim:
    """One claim of the paper (Sukeda et al. 2024, abstract and discussion) and its test in the miniature."""

    number: int
    title: str
    parts: dict[str, str]


CLAIMS = (
    Claim(
        1,
        "LoRA instruction-tuning incorporates domain knowledge, partially",
        {
            "gain": "largest English-centric base: Accuracy on taught facts after late LoRA minus before; also needs Holm's p < 0.01",
            "shortfall": "the same model: 100 % minus its Accuracy on taught facts in a phrasing not used in tuning",
        },
    ),
    Claim(
        2,
        "The effect is more pronounced in larger models",
        {"size": "gain of the largest English-centric base minus gain of the smallest"},
    ),
    Claim(
        3,
        "Adapting an English-centric model is promising; Japanese-centric models remain limited",
        {
            "English-centric gain": "gain of the English-centric base of the Japanese-centric base's size",
            "language": "that gain minus the gain of the Japanese-centric base",
        },
    ),
    Claim(
        4,
        "Exact match is strict, Accuracy is lenient",
        {"leniency": "late LoRA answers of every base on taught facts in both phrasings: Accuracy minus Exact match"},
    ),
)


@dataclass(frozen=True)
class Part:
    """One part of a claim: its effect and what the rule says of it.

    Attributes:
        name: Key in `Claim.parts`.
        effect: Estimate and interval, shares (0.05 = 5 points).
        verdict: One of `VERDICTS`.
        models: The models compared.
        p: Holm-adjusted p value where the rule asks for one.
    """

    name: str
    effect: Interval
    verdict: str
    models: str
    p: float | None = None


@dataclass(frozen=True)
class Finding:
    """The verdict on one claim; `reason` says in words why, and why not more."""

    claim: Claim
    verdict: str
    parts: tuple[Part, ...] = field(default=())
    reason: str = ""


def decide(effect: Interval, margin: float = MARGIN) -> str:
    """The rule for one effect; see the module's first lines.

    Args:
        effect: Estimate and interval, shares.
        margin: Smallest effect of interest, above 0.
    """
    if effect.low > 0 and effect.value >= margin:
        return SUPPORTED
    if effect.high < margin:
        return NOT_SUPPORTED
    return UNDECIDED


def combine(verdicts: Sequence[str]) -> str:
    """The rule for a claim of several parts."""
    if NOT_SUPPORTED in verdicts:
        return NOT_SUPPORTED
    return SUPPORTED if set(verdicts) == {SUPPORTED} else UNDECIDED


def runs(frame: pd.DataFrame, method: str = "lora") -> pd.DataFrame:
    """Tuned runs of one method, smallest base first.

    Returns:
        Columns `run`, `base`, `size_params`, `centric`.
    """
    tuned = frame[(frame["method"] == method) & (frame["steps"] > 0)]
    return (
        tuned[["run", "base", "size_params", "centric"]].drop_duplicates("run").sort_values(["size_params", "run"]).reset_index(drop=True)
    )


def step_of(frame: pd.DataFrame, run: str, rank: int) -> int:
    """The run's kept step of that rank (0 early, 1 late, 2 very late); the last one where fewer were kept."""
    steps = sorted(frame.loc[(frame["run"] == run) & (frame["steps"] > 0), "steps"].unique())
    if not steps:
        raise FindingError(f"run {run!r} has no tuned answers; evaluate its adapter first")
    return int(steps[min(rank, len(steps) - 1)])


def outcomes(frame: pd.DataFrame, run: str, steps: int, condition: Condition = HEADLINE) -> pd.Series:
    """Scores of one model, indexed by (seed, exam, id).

    Raises:
        FindingError: The condition has no answers.
    """
    wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & (frame["facts"] == condition.facts)
    rows = frame[wanted]
    if rows.empty:
        raise FindingError(f"no answers of {run} at step {steps}, {condition.shots}-shot, {condition.facts} facts")
    return rows.set_index(["seed", "exam", "id"])[condition.metric].sort_index()


def baseline(frame: pd.DataFrame, run: str, condition: Condition = HEADLINE) -> pd.Series:
    """Scores of the run's base before tuning: its own step 0, else that of another run on the same base.

    The step 0 of a run with continued pretraining is the base after that pretraining, so it never serves.

    Raises:
        FindingError: The base was never asked under this condition.
    """
    before = frame[(frame["steps"] == 0) & (frame["shots"] == condition.shots) & (frame["facts"] == condition.facts)]
    base = frame.loc[frame["run"] == run, "base"]
    same = before[before["base"] == base.iloc[0]] if len(base) else before.iloc[:0]
    same = same[~same["method"].astype(str).str.startswith("cpt")]
    if same.empty:
        raise FindingError(f"the base of {run} was not asked, {condition.shots}-shot, {condition.facts} facts; evaluate step 0")
    asked = set(same["run"])
    return outcomes(frame, run if run in asked else sorted(asked)[0], 0, condition)


def gains(frame: pd.DataFrame, run: str, condition: Condition = HEADLINE) -> pd.Series:
    """Tuned minus base, one number a question, indexed by (seed, exam, id).

    Raises:
        FindingError: The two did not answer the same questions.
    """
    after = outcomes(frame, run, step_of(frame, run, condition.step_rank), condition)
    before = baseline(frame, run, condition)
    if not after.index.equals(before.index):
        raise FindingError(f"{run}: base and tuned model answered different questions ({len(before)} and {len(after)})")
    return after - before


def interval(values: pd.Series, level: float = statistics.LEVEL) -> Interval:
    """Interval of the mean of per-question numbers, over questions and seeds (`statistics.mean_interval`)."""
    return statistics.mean_interval([group.to_numpy(float) for _, group in values.groupby(level="seed")], level)


def paired_tests(frame: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """Base against tuned on the same taught questions: every run, kept step, number of shots and phrasing.

    Returns:
        Columns `run`, `steps`, `shots`, `facts`, `gained`, `lost`, `n`, `p`, `p_holm`; `p_holm` is adjusted over all rows.
    """
    rows = []
    tuned = frame[(frame["steps"] > 0) & frame["facts"].isin(PHRASINGS)]
    for (run, steps, shots, facts), _ in tuned.groupby(["run", "steps", "shots", "facts"]):
        condition = Condition(shots=shots, facts=facts, metric=metric)
        before, after = baseline(frame, run, condition), outcomes(frame, run, steps, condition)
        if not after.index.equals(before.index):
            raise FindingError(f"{run}: base and tuned model answered different questions at step {steps}")
        test = statistics.mcnemar_exact(before, after)
        rows.append({"run": run, "steps": int(steps), "shots": int(shots), "facts": facts, **test._asdict()})
    found = pd.DataFrame(rows, columns=["run", "steps", "shots", "facts", "gained", "lost", "n", "p"])
    adjusted = statistics.holm({str(i): p for i, p in found["p"].items()})
    return found.assign(p_holm=[adjusted[str(i)] for i in found.index])


def controls(frame: pd.DataFrame) -> pd.DataFrame:
    """Untaught facts against chance, every model and condition.

    Returns:
        Columns `run`, `steps`, `shots`, `exam`, `n`, `chance`, `value`, `low`, `high`, `covers` (the 95 % interval holds
        chance), `p` (exact, both sides), `p_holm`; shares. Of many true 95 % intervals some miss chance by luck;
        `p_holm` accounts for that.
    """
    rows = []
    for key, group in frame[frame["facts"] == "untaught"].groupby(["run", "steps", "shots", "exam"]):
        indexed = group.set_index("seed")
        chance = indexed["chance"]
        value = interval(indexed["accuracy"])
        above = interval(indexed["accuracy"] - chance)
        p = statistics.chance_test(int(indexed["accuracy"].sum()), chance.to_numpy(float))
        row = dict(zip(("run", "steps", "shots", "exam"), key, strict=True))
        rows.append(row | {"n": len(group), "chance": float(chance.mean()), **value._asdict(), "covers": above.covers(0.0), "p": p})
    columns = ["run", "steps", "shots", "exam", "n", "chance", "value", "low", "high", "covers", "p"]
    found = pd.DataFrame(rows, columns=columns)
    adjusted = statistics.holm({str(i): p for i, p in found["p"].items()})
    return found.assign(p_holm=[adjusted[str(i)] for i in found.index])


def untaught_at_chance(frame: pd.DataFrame, run: str, condition: Condition = HEADLINE) -> Interval:
    """Accuracy on untaught facts minus chance at one condition of a run, in the exam of the condition's phrasing."""
    steps = step_of(frame, run, condition.step_rank)
    wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & (frame["facts"] == "untaught")
    rows = frame[wanted & (frame["exam"] == EXAM_OF[condition.facts])].set_index("seed")
    if rows.empty:
        raise FindingError(f"no answers of {run} at step {steps}, {condition.shots}-shot, untaught facts")
    return interval(rows["accuracy"] - rows["chance"])


def evaluate_claims(frame: pd.DataFrame, condition: Condition = HEADLINE, tests: pd.DataFrame | None = None) -> list[Finding]:
    """Applies the rule to every claim.

    Args:
        frame: Per-question outcomes, see `tables.outcomes`.
        condition: The headline condition, or another to see whether the verdicts hold there.
        tests: `paired_tests` of the condition's metric, where they are at hand.

    Returns:
        One finding a claim, in the order of `CLAIMS`; `NOT_MEASURED` where a model it needs was not run.
    """
    tests = paired_tests(frame, condition.metric) if tests is None else tests
    makers = (_claim_gain, _claim_size, _claim_language, _claim_metrics)
    found = []
    for claim, make in zip(CLAIMS, makers, strict=True):
        try:
            parts, checked = make(frame, condition, tests)
        except FindingError as error:
            found.append(Finding(claim, NOT_MEASURED, (), str(error)))
            continue
        verdict, reason = combine([p.verdict for p in parts]), ""
        failed = [run for run in checked if not untaught_at_chance(frame, run, condition).covers(0.0)]
        if failed:
            verdict, reason = UNDECIDED, f"the control failed: {', '.join(failed)} differs from chance on untaught facts"
        found.append(Finding(claim, verdict, parts, reason))
    return found


def _claim_gain(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    largest = _english(frame).iloc[-1]["run"]
    gain = interval(gains(frame, largest, condition))
    steps = step_of(frame, largest, condition.step_rank)
    key = (tests["run"] == largest) & (tests["steps"] == steps) & (tests["shots"] == condition.shots) & (tests["facts"] == condition.facts)
    p = float(tests.loc[key, "p_holm"].iloc[0])
    verdict = decide(gain)
    if verdict == SUPPORTED and p >= ALPHA:
        verdict = UNDECIDED
    other = Condition(condition.step_rank, condition.shots, "taught_held_out_phrasing", condition.metric)
    shortfall = interval(1 - outcomes(frame, largest, steps, other))
    parts = (Part("gain", gain, verdict, largest, p), Part("shortfall", shortfall, decide(shortfall), largest))
    return parts, [largest]


def _claim_size(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    ladder = _english(frame)
    if len(ladder) < 2:
        raise FindingError("only one English-centric base was tuned with LoRA; the claim needs two sizes")
    small, large = ladder.iloc[0]["run"], ladder.iloc[-1]["run"]
    effect = interval(_difference(gains(frame, large, condition), gains(frame, small, condition), large, small))
    return (Part("size", effect, decide(effect), f"{large} - {small}"),), [large, small]


def _claim_language(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    english, japanese = language_pair(frame)
    own = gains(frame, english, condition)
    effect = interval(_difference(own, gains(frame, japanese, condition), english, japanese))
    first = interval(own)
    parts = (
        Part("English-centric gain", first, decide(first), english),
        Part("language", effect, decide(effect), f"{english} - {japanese}"),
    )
    return parts, [english, japanese]


def _claim_metrics(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    answers = leniency(frame, condition)["lenient"].reset_index()
    facts = [i.removeprefix(f"{exam}-") for exam, i in zip(answers["exam"], answers["id"], strict=True)]
    effect = interval(answers["lenient"].groupby([answers["seed"], pd.Series(facts, name="fact")]).mean())
    return (Part("leniency", effect, decide(effect), "every LoRA run"),), []


def language_pair(frame: pd.DataFrame) -> tuple[str, str]:
    """The LoRA runs of the Japanese-centric base and of the English-centric base nearest to it in size (English first).

    Raises:
        FindingError: One of the two kinds of base was not tuned with LoRA.
    """
    tuned = runs(frame)
    japanese = tuned[tuned["centric"] == "japanese"]
    if japanese.empty:
        raise FindingError("no Japanese-centric base was tuned with LoRA")
    size = float(japanese.iloc[0]["size_params"])
    english = _english(frame)
    nearest = (np.log(english["size_params"].astype(float)) - np.log(size)).abs().idxmin()
    return english.loc[nearest, "run"], japanese.iloc[0]["run"]


def leniency(frame: pd.DataFrame, condition: Condition = HEADLINE) -> pd.DataFrame:
    """Exact match against Accuracy, one row an answer of every LoRA run on taught facts, both phrasings.

    Returns:
        Index (seed, exam, id, run); columns `exact_match`, `accuracy`, `gestalt`, `lenient` (accuracy minus exact match) and
        `near_miss` (right only by Accuracy, and at least `NEAR_MISS` close to the gold answer).
    """
    strict = condition.metric.startswith("strict_")
    exact, right = ("strict_exact_match", "strict_accuracy") if strict else ("exact_match", "accuracy")
    found = []
    for run in runs(frame)["run"]:
        steps = step_of(frame, run, condition.step_rank)
        wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & frame["facts"].isin(PHRASINGS)
        found.append(frame[wanted])
    rows = pd.concat(found) if found else frame.iloc[:0]
    if rows.empty:
        raise FindingError("no late LoRA answers on taught facts")
    rows = rows.set_index(["seed", "exam", "id", "run"]).sort_index()
    table = pd.DataFrame({"exact_match": rows[exact], "accuracy": rows[right], "gestalt": rows["gestalt"]})
    table["lenient"] = table["accuracy"] - table["exact_match"]
    table["near_miss"] = (table["lenient"] > 0) & (table["gestalt"] >= NEAR_MISS)
    return table


def rules_table() -> pd.DataFrame:
    """The claims and the effect each part measures, for the page that states the rule."""
    rows = [{"claim": c.number, "says": c.title, "part": name, "effect": text} for c in CLAIMS for name, text in c.parts.items()]
    return pd.DataFrame(rows)


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row a part: claim, effect in points with its interval, the part's verdict and the claim's verdict."""
    rows = []
    for finding in findings:
        for part in finding.parts or (None,):
            row = {"claim": finding.claim.number, "part": part.name if part else "", "models": part.models if part else ""}
            row |= {name: 100 * getattr(part.effect, name) if part else np.nan for name in ("value", "low", "high")}
            p = part.p if part and part.p is not None else np.nan
            rows.append(row | {"p_holm": p, "part_verdict": part.verdict if part else "", "verdict": finding.verdict})
    return pd.DataFrame(rows)


def robustness(frame: pd.DataFrame) -> pd.DataFrame:
    """The verdicts again with one thing changed at a time: shots, step, phrasing, scorer. Beside the headline, never instead.

    Returns:
        One row a changed condition; columns `condition` and `claim 1` to `claim 4`.
    """
    variants = {
        "headline": HEADLINE,
        "1-shot": Condition(shots=1),
        "early step": Condition(step_rank=0),
        "very late step": Condition(step_rank=2),
        "held-out phrasing": Condition(facts="taught_held_out_phrasing"),
        "strict scorer": Condition(metric="strict_accuracy"),
    }
    tests = {metric: paired_tests(frame, metric) for metric in {c.metric for c in variants.values()}}
    rows = []
    for name, condition in variants.items():
        verdicts = {f"claim {f.claim.number}": f.verdict for f in evaluate_claims(frame, condition, tests[condition.metric])}
        rows.append({"condition": name, **verdicts})
    return pd.DataFrame(rows)


def same_verdicts(changed: pd.DataFrame) -> list[tuple[int, int]]:
    """How many changed conditions give a claim the verdict of the headline, and how many were measured; in the order of `CLAIMS`.

    Args:
        changed: What `robustness` returns.
    """
    verdicts = changed.set_index("condition")[[f"claim {claim.number}" for claim in CLAIMS]]
    others = verdicts.drop(index="headline")
    same = others.eq(verdicts.loc["headline"]) & others.ne(NOT_MEASURED)
    return list(zip(same.sum().tolist(), others.ne(NOT_MEASURED).sum().tolist(), strict=True))


def _english(frame: pd.DataFrame) -> pd.DataFrame:
    ladder = runs(frame)
    ladder = ladder[ladder["centric"] == "english"]
    if ladder.empty:
        raise FindingError("no English-centric base was tuned with LoRA")
    return ladder


def _difference(first: pd.Series, second: pd.Series, one: str, other: str) -> pd.Series:
    if not first.index.equals(second.index):
        raise FindingError(f"{one} and {other} answered different questions ({len(first)} and {len(second)})")
    return first - second
