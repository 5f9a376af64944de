"""What tuning changed: base and tuned model on the same questions, one difference per question, with intervals and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from jmedlora_utils.analysis.studies import TAUGHT, phrasings_apart
from jmedlora_utils.core import statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.statistics import Interval


class NotMeasuredError(JmedloraError):
    """A comparison that the outcomes at hand cannot make; names the missing condition."""


@dataclass(frozen=True)
class Condition:
    """What is compared, at the last kept step."""

    shots: int = 0  #: Worked examples in the prompt
    facts: str = TAUGHT  #: Group of questions asked


PLAIN = Condition()


def tuned_runs(frame: pd.DataFrame, methods: Sequence[str] = ("lora",)) -> pd.DataFrame:
    """Tuned runs of some methods, smallest base first: columns `run`, `base`, `size_params`, `centric`."""
    tuned = frame.loc[frame["method"].isin(methods) & (frame["steps"] > 0), ["run", "base", "size_params", "centric"]]
    return tuned.drop_duplicates("run").sort_values(["size_params", "run"]).reset_index(drop=True)


def main_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """What `tuned_runs` returns without controls and variants: LoRA runs that asked their own base first, one for each base of a study."""
    asked = set(frame.loc[frame["steps"] == 0, "run"].astype(str))
    found = tuned_runs(frame)
    return found[found["run"].astype(str).isin(asked)].reset_index(drop=True)


def last_step(frame: pd.DataFrame, run: str) -> int:
    """The last kept step of a run."""
    steps = frame.loc[(frame["run"] == run) & (frame["steps"] > 0), "steps"]
    if steps.empty:
        raise NotMeasuredError(f"run {run!r} has no tuned answers; evaluate its adapter first")
    return int(steps.max())


def outcomes(frame: pd.DataFrame, run: str, steps: int, condition: Condition = PLAIN) -> pd.Series:
    """Accuracy of one model, indexed by (seed, exam, id).

    Raises:
        NotMeasuredError: The condition has no answers.
    """
    wanted = (frame["run"] == run) & (frame["steps"] == steps) & (frame["shots"] == condition.shots) & (frame["facts"] == condition.facts)
    rows = frame[wanted]
    if rows.empty:
        raise NotMeasuredError(f"no answers of {run} at step {steps}, {condition.shots}-shot, {condition.facts} facts")
    return rows.set_index(["seed", "exam", "id"])["accuracy"].sort_index()


def baseline_run(frame: pd.DataFrame, run: str, condition: Condition = PLAIN) -> tuple[str, bool]:
    """The run whose step 0 is the base of a run before tuning, and whether that base was loaded as the tuned model was.

    The run's own step 0, else that of another run on the same base, asked in the same template and loaded in the same
    precision. Where a base was only asked unquantised, a run in 4 bits is compared with that, and the second value is False: its
    gain then holds what 4-bit loading costs as well. The step 0 of a run with continued pretraining is the base
    after that pretraining, so it never serves another run or itself.

    Raises:
        NotMeasuredError: The base was never asked under this condition.
    """
    own = frame[frame["run"] == run]
    if own.empty:
        raise NotMeasuredError(f"run {run!r} has no answers; evaluate it first")
    asked = own.sort_values("steps").iloc[-1]
    loaded = str(asked["quantisation"])
    before = frame[(frame["steps"] == 0) & (frame["shots"] == condition.shots) & (frame["facts"] == condition.facts)]
    before = before[
        (before["base"] == asked["base"]) & (before["template"] == asked["template"]) & ~before["method"].astype(str).str.startswith("cpt")
    ]
    for loading in dict.fromkeys((loaded, "none")):
        bases = sorted(before.loc[before["quantisation"] == loading, "run"].astype(str).unique())
        if bases:
            return (run if run in bases else bases[0]), loading == loaded
    raise NotMeasuredError(f"the base of {run} was not asked, {condition.shots}-shot, {condition.facts} facts; evaluate step 0")


def baseline(frame: pd.DataFrame, run: str, condition: Condition = PLAIN) -> pd.Series:
    """Scores of the run's base before tuning, indexed by (seed, exam, id); see `baseline_run`."""
    return outcomes(frame, baseline_run(frame, run, condition)[0], 0, condition)


def other_loading(frame: pd.DataFrame) -> list[str]:
    """Tuned runs whose base was only asked in another precision than the tuned model (see `baseline_run`)."""
    found = []
    for run in tuned_runs(frame, list(frame["method"].unique()))["run"]:
        asked = frame.loc[frame["run"] == run, ["shots", "facts"]].iloc[0]
        try:
            alike = baseline_run(frame, run, Condition(shots=int(asked["shots"]), facts=str(asked["facts"])))[1]
        except NotMeasuredError:
            continue  # nothing is compared, so nothing needs the note
        found += [] if alike else [str(run)]
    return found


def gains(frame: pd.DataFrame, run: str) -> pd.Series:
    """Tuned minus base, one number per question, indexed by (seed, exam, id).

    Raises:
        NotMeasuredError: The two did not answer the same questions.
    """
    after = outcomes(frame, run, last_step(frame, run))
    return difference(after, baseline(frame, run), f"{run}: tuned model", "base")


def difference(first: pd.Series, second: pd.Series, one: str, other: str) -> pd.Series:
    """First minus second on the same questions; `one` and `other` name them in the error."""
    if not first.index.equals(second.index):
        raise NotMeasuredError(f"{one} and {other} answered different questions ({len(first)} and {len(second)})")
    return first - second


def interval(values: pd.Series, level: float = statistics.LEVEL) -> Interval:
    """Interval of the mean of per-question numbers, over questions and seeds (`statistics.mean_interval`)."""
    return statistics.mean_interval([group.to_numpy(float) for _, group in values.groupby(level="seed")], level)


def gains_by_base(frame: pd.DataFrame) -> pd.DataFrame:
    """Gain of each base's main run: the columns of `tuned_runs`, and `value`, `low`, `high` (shares)."""
    found = main_runs(frame)
    effects = [interval(gains(frame, run))._asdict() for run in found["run"]]
    return pd.concat([found, pd.DataFrame(effects, columns=list(Interval._fields))], axis=1)


def paired_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Tuned against base on the questions that both answered: every run, kept step, number of shots and group of questions.

    Two models may have left out different prompts as too long. A run whose base was not asked is passed over.

    Returns:
        Columns `run`, `steps`, `shots`, `group`, `before`, `after`, `gain`, `low`, `high` (shares), `fixed`, `broken`, `n`, `p_holm`
        (McNemar's exact test pooled over seeds, adjusted over all rows) and `alike` (see `baseline_run`).
    """
    frame, rows = phrasings_apart(frame), []
    tuned = frame[frame["steps"] > 0]
    for run, steps, shots, group in tuned[["run", "steps", "shots", "facts"]].drop_duplicates().itertuples(index=False):
        condition = Condition(shots=int(shots), facts=str(group))
        try:
            base, alike = baseline_run(frame, run, condition)
        except NotMeasuredError:
            continue
        before, after = on_both(outcomes(frame, base, 0, condition), outcomes(frame, run, steps, condition))
        gain, test = interval(after - before), statistics.mcnemar_exact(before, after)
        row = {"run": str(run), "steps": int(steps), "shots": int(shots), "group": str(group)}
        row |= {"before": before.mean(), "after": after.mean(), "gain": gain.value, "low": gain.low, "high": gain.high}
        rows.append(row | {"fixed": test.gained, "broken": test.lost, "n": test.n, "p": test.p, "alike": alike})
    columns = ["run", "steps", "shots", "group", "before", "after", "gain", "low", "high", "fixed", "broken", "n", "p", "alike"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(p_holm=list(statistics.holm(dict(enumerate(table["p"]))).values())).drop(columns="p")


def last_gain(frame: pd.DataFrame, run: str, group: str) -> pd.Series | None:
    """Gain at the last kept step, 0-shot, per question that both answered; None where the run or its base was not asked."""
    condition = Condition(facts=group)
    last = frame.loc[(frame["run"] == run) & (frame["facts"] == group), "steps"].max()
    try:
        before, after = on_both(baseline(frame, run, condition), outcomes(frame, run, last, condition))
    except NotMeasuredError:
        return None
    return after - before


def on_both(first: pd.Series, second: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both on the questions that both answered: two tokenizers may have left out different long prompts."""
    both = first.index.intersection(second.index).sort_values()
    return first.loc[both], second.loc[both]
