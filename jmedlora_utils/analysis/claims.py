"""The paper's claims and what the miniature says of each, by a rule that was written before the runs.

Everything here reads the per-question outcomes of a study (one row per question, model and condition) and returns effects with
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
phrasings and from every base, for independent questions; they are now averaged to one number per fact. The words of the rule stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import evidence
from jmedlora_utils.analysis.gains import (
    EXAM_OF,
    HEADLINE,
    PHRASINGS,
    Condition,
    NotMeasuredError,
    difference,
    gains,
    interval,
    last_gain,
    on_both,
    outcomes,
    paired_tests,
    step_of,
    tuned_runs,
)
from jmedlora_utils.analysis.studies import TAUGHT, TAUGHT_HELD_OUT, UNTAUGHT
from jmedlora_utils.analysis.verdicts import NOT_SUPPORTED, SUPPORTED, UNDECIDED, combine, decide
from jmedlora_utils.core import formatting, paths
from jmedlora_utils.core.presets import load_preset, preset_names
from jmedlora_utils.core.statistics import Interval

STATED = "2026-11-22"
CORRECTED = "2026-11-22"
MARGIN = 0.05
ALPHA = 0.01
NEAR_MISS = 0.8
NOT_MEASURED, NO_CONTROL = "not measured", "no verdict: these questions have no control"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, UNDECIDED)
FULL_SIZE = "published models, 27B to 122B"
THE_MINIATURE = ("smoke", "mini", "mini-seeds")


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


def untaught_at_chance(frame: pd.DataFrame, run: str, condition: Condition = HEADLINE) -> Interval:
    """Accuracy on untaught facts minus chance at one condition of a run, in the exam of the condition's phrasing."""
    steps = step_of(frame, run, condition.step_rank)
    wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & (frame["facts"] == UNTAUGHT)
    rows = frame[wanted & (frame["exam"] == EXAM_OF[condition.facts])].set_index("seed")
    if rows.empty:
        raise NotMeasuredError(f"no answers of {run} at step {steps}, {condition.shots}-shot, untaught facts")
    return interval(rows["accuracy"] - rows["chance"])


def evaluate_claims(frame: pd.DataFrame, condition: Condition = HEADLINE, tests: pd.DataFrame | None = None) -> list[Finding]:
    """Applies the rule to every claim.

    Args:
        frame: Per-question outcomes, `Study.outcomes`.
        condition: The headline condition, or another to see whether the verdicts hold there.
        tests: `paired_tests` of the condition's metric, where they are at hand.

    Returns:
        One finding per claim, in the order of `CLAIMS`; `NOT_MEASURED` where a model it needs was not run.
    """
    tests = paired_tests(frame, condition.metric) if tests is None else tests
    makers = (_claim_gain, _claim_size, _claim_language, _claim_metrics)
    found = []
    for claim, make in zip(CLAIMS, makers, strict=True):
        try:
            parts, checked = make(frame, condition, tests)
        except NotMeasuredError as error:
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
    verdict = decide(gain, MARGIN)
    if verdict == SUPPORTED and p >= ALPHA:
        verdict = UNDECIDED
    other = Condition(condition.step_rank, condition.shots, TAUGHT_HELD_OUT, condition.metric)
    shortfall = interval(1 - outcomes(frame, largest, steps, other))
    parts = (Part("gain", gain, verdict, largest, p), Part("shortfall", shortfall, decide(shortfall, MARGIN), largest))
    return parts, [largest]


def _claim_size(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    ladder = _english(frame)
    if len(ladder) < 2:
        raise NotMeasuredError("only one English-centric base was tuned with LoRA; the claim needs two sizes")
    small, large = ladder.iloc[0]["run"], ladder.iloc[-1]["run"]
    effect = interval(difference(gains(frame, large, condition), gains(frame, small, condition), large, small))
    return (Part("size", effect, decide(effect, MARGIN), f"{large} - {small}"),), [large, small]


def _claim_language(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    english, japanese = language_pair(frame)
    own = gains(frame, english, condition)
    effect = interval(difference(own, gains(frame, japanese, condition), english, japanese))
    first = interval(own)
    parts = (
        Part("English-centric gain", first, decide(first, MARGIN), english),
        Part("language", effect, decide(effect, MARGIN), f"{english} - {japanese}"),
    )
    return parts, [english, japanese]


def _claim_metrics(frame: pd.DataFrame, condition: Condition, tests: pd.DataFrame) -> tuple[tuple[Part, ...], list[str]]:
    answers = leniency(frame, condition)["lenient"].reset_index()
    facts = [i.removeprefix(f"{exam}-") for exam, i in zip(answers["exam"], answers["id"], strict=True)]
    effect = interval(answers["lenient"].groupby([answers["seed"], pd.Series(facts, name="fact")]).mean())
    return (Part("leniency", effect, decide(effect, MARGIN), "every LoRA run"),), []


def language_pair(frame: pd.DataFrame) -> tuple[str, str]:
    """The LoRA runs of the Japanese-centric base and of the English-centric base nearest to it in size (English first).

    Raises:
        NotMeasuredError: One of the two kinds of base was not tuned with LoRA.
    """
    tuned = tuned_runs(frame)
    japanese = tuned[tuned["centric"] == "japanese"]
    if japanese.empty:
        raise NotMeasuredError("no Japanese-centric base was tuned with LoRA")
    size = float(japanese.iloc[0]["size_params"])
    english = _english(frame)
    nearest = (np.log(english["size_params"].astype(float)) - np.log(size)).abs().idxmin()
    return english.loc[nearest, "run"], japanese.iloc[0]["run"]


def leniency(frame: pd.DataFrame, condition: Condition = HEADLINE) -> pd.DataFrame:
    """Exact match against Accuracy, one row per answer of every LoRA run on taught facts, both phrasings.

    Returns:
        Index (seed, exam, id, run); columns `exact_match`, `accuracy`, `gestalt`, `lenient` (accuracy minus exact match) and
        `near_miss` (right only by Accuracy, and at least `NEAR_MISS` close to the gold answer).
    """
    strict = condition.metric.startswith("strict_")
    exact, right = ("strict_exact_match", "strict_accuracy") if strict else ("exact_match", "accuracy")
    found = []
    for run in tuned_runs(frame)["run"]:
        steps = step_of(frame, run, condition.step_rank)
        wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & frame["facts"].isin(PHRASINGS)
        found.append(frame[wanted])
    rows = pd.concat(found) if found else frame.iloc[:0]
    if rows.empty:
        raise NotMeasuredError("no late LoRA answers on taught facts")
    rows = rows.set_index(["seed", "exam", "id", "run"]).sort_index()
    table = pd.DataFrame({"exact_match": rows[exact], "accuracy": rows[right], "gestalt": rows["gestalt"]})
    table["lenient"] = table["accuracy"] - table["exact_match"]
    table["near_miss"] = (table["lenient"] > 0) & (table["gestalt"] >= NEAR_MISS)
    return table


def _english(frame: pd.DataFrame) -> pd.DataFrame:
    ladder = tuned_runs(frame)
    ladder = ladder[ladder["centric"] == "english"]
    if ladder.empty:
        raise NotMeasuredError("no English-centric base was tuned with LoRA")
    return ladder


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per part: claim, effect in points with its interval, the part's verdict and the claim's verdict."""
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
        One row per changed condition; columns `condition` and `claim 1` to `claim 4`.
    """
    variants = {
        "headline": HEADLINE,
        "1-shot": Condition(shots=1),
        "early step": Condition(step_rank=0),
        "very late step": Condition(step_rank=2),
        "held-out phrasing": Condition(facts=TAUGHT_HELD_OUT),
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


def larger_findings() -> dict[str, list[Finding]]:
    """What the committed evidence of every preset beyond the miniature says of each claim, by preset.

    A study of the invented exams is judged by the rule. The questions of published exams have neither untaught facts nor a second
    wording, so their effects come without a verdict (`NO_CONTROL`).
    """
    found = {}
    for name in larger_presets():
        if evidence.has_evidence(name):
            frame = evidence.read_evidence(evidence.evidence_folder(name)).outcomes
            found[name] = evaluate_claims(frame) if (frame["facts"] == TAUGHT).any() else effects_on_exams(frame)
    return found


def larger_presets() -> dict[str, str]:
    """Presets that tune or evaluate models beyond the miniature: name to what they say of themselves."""
    presets = [load_preset(name) for name in preset_names() if name not in THE_MINIATURE]
    return {preset.name: preset.about for preset in presets if preset.runs}


def effects_on_exams(frame: pd.DataFrame) -> list[Finding]:
    """The effects of the claims on published exams, at each run's last step, 0-shot: LoRA and QLoRA runs, every exam that was asked."""
    parts: dict[int, list[Part]] = {claim.number: [] for claim in CLAIMS}
    tuned = tuned_runs(frame, ("lora", "qlora"))
    for exam in sorted(frame["facts"].astype(str).unique()):
        gained = {run: gain for run in tuned["run"] if (gain := last_gain(frame, run, exam)) is not None}
        for run, gain in gained.items():
            parts[1].append(Part(f"gain on {exam}", interval(gain), NO_CONTROL, run))
        known = tuned[tuned["run"].isin(list(gained))]
        english, japanese = (known.loc[known["centric"] == kind, "run"].tolist() for kind in ("english", "japanese"))
        pairs = [(2, "size", english[-1], english[0])] if len(english) > 1 else []
        pairs += [(3, "language", english[-1], japanese[-1])] if english and japanese else []
        for number, name, first, second in pairs:
            both = on_both(gained[first], gained[second])
            parts[number].append(Part(f"{name} on {exam}", interval(both[0] - both[1]), NO_CONTROL, f"{first} - {second}"))
        late = frame[(frame["facts"] == exam) & frame["run"].isin(list(gained)) & (frame["shots"] == 0) & (frame["steps"] > 0)]
        if len(late):
            lenient = (late["accuracy"] - late["exact_match"]).groupby([late["seed"], late["id"]], observed=True).mean()
            parts[4].append(Part(f"leniency on {exam}", interval(lenient), NO_CONTROL, "every tuned run"))
    why = "no two models at hand make this comparison"
    return [
        Finding(c, NO_CONTROL if parts[c.number] else NOT_MEASURED, tuple(parts[c.number]), "" if parts[c.number] else why) for c in CLAIMS
    ]


def published_claims() -> pd.DataFrame:
    """The claims as published: index `claim`; columns `text`, `published_value`, `source`, `note`."""
    return pd.read_csv(paths.RESULTS / "published" / "claims.csv").set_index("claim")


def glance_table(found: Sequence[Finding], changed: pd.DataFrame | None = None, full_size: Mapping[int, str] | None = None) -> pd.DataFrame:
    """One row per claim: what was published, the effects in the miniature, larger runs or the words "not run", the verdict.

    Args:
        found: The findings.
        full_size: What `published_pairs.glance` returns; where given, a column of its own.
        changed: What `robustness` returns; where given, the last column counts the changes that leave the verdict as it is.

    Returns:
        Columns by the heading that a page shows.
    """
    published, larger = published_claims(), larger_findings()
    rows = []
    for finding in found:
        number = finding.claim.number
        measured = [f"`{name}`: {effects_text(others[number - 1])}" for name, others in larger.items()]
        measured += [] if any(name.startswith("paper") for name in larger) else ["at the paper's size: not run"]
        rows.append(
            {
                "claim": f"{number}. {finding.claim.title}",
                "published": published.loc[number, "published_value"],
                "the miniature, points [95 %]": effects_text(finding),
                "larger runs": "; ".join(measured),
                "verdict": f"**{finding.verdict}**",
            }
        )
    shown = pd.DataFrame(rows)
    if full_size is not None:
        shown.insert(3, FULL_SIZE, [full_size[finding.claim.number] for finding in found])
    if changed is None:
        return shown
    return shown.assign(**{"same verdict under other choices": [f"{same} of {n}" for same, n in same_verdicts(changed)]})


def effects_text(finding: Finding) -> str:
    """Each part's effect in points with its interval, or why there is none."""
    return "; ".join(f"{p.name} {formatting.percent(*p.effect, signed=True)}" for p in finding.parts) or finding.reason
