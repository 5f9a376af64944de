"""Scores of a study: means with intervals, the long summary, and the rows of the journal's tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from jmedlora_utils.analysis import gains
from jmedlora_utils.analysis.studies import METRICS, TAUGHT, UNTAUGHT, Study, phrasings_apart
from jmedlora_utils.core import statistics

SUMMARY_COLUMNS = ("base", "size_params", "centric", "method", "steps", "shots", "seed", "exam", "facts", "metric", "value", "n")


def estimates(frame: pd.DataFrame, by: Sequence[str], metric: str = "accuracy") -> pd.DataFrame:
    """Mean of a metric with its interval over questions and seeds, one row per value of `by`.

    Returns:
        Columns `by`, `value`, `low`, `high` (shares) and `n` (answers).
    """
    rows = []
    for key, group in frame.groupby(list(by), observed=True):
        found = gains.interval(group.set_index("seed")[metric])
        low, high = max(found.low, 0.0), min(found.high, 1.0)  # Student's interval may leave the scale
        rows.append({**dict(zip(by, key, strict=True)), "value": found.value, "low": low, "high": high, "n": len(group)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])


def control_once(frame: pd.DataFrame) -> pd.DataFrame:
    """The outcomes without the held-out phrasing of untaught facts: with both, each of these facts would count twice."""
    return frame[(frame["facts"] != UNTAUGHT) | (frame["exam"] != "mini_heldout")]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """The long summary: one row per model, condition, seed, group of facts and metric; columns `SUMMARY_COLUMNS`.

    `value` is a share, 0 to 1. Metrics without a prefix follow the journal's formulas; `strict_` ones are ours.
    """
    keys = ["run", *(c for c in SUMMARY_COLUMNS if c not in ("metric", "value", "n"))]
    grouped = frame.groupby(keys, observed=True)
    wide = grouped[list(METRICS)].mean().assign(n=grouped.size()).reset_index()
    long = wide.melt(id_vars=[*keys, "n"], value_vars=list(METRICS), var_name="metric", value_name="value")
    long["metric"] = pd.Categorical(long["metric"], list(METRICS), ordered=True)
    return long.sort_values([*keys, "metric"], kind="stable")[list(SUMMARY_COLUMNS)].astype({"metric": str}).reset_index(drop=True)


def run_order(frame: pd.DataFrame) -> list[str]:
    """Tuned and untuned runs, smallest base first: the order, and so the colours, of every figure of runs."""
    return list(dict.fromkeys(frame.sort_values(["size_params", "run"])["run"].astype(str)))


def groups(frame: pd.DataFrame) -> list[str]:
    """The groups of questions of a study in the order of its pages: the exams asked, or the groups of facts of the invented exams."""
    order = {"mini_trained": "0", "mini_heldout": "1", "mini_general": "2", TAUGHT: "0", UNTAUGHT: "1"}
    asked = phrasings_apart(frame)[["exam", "facts"]].drop_duplicates().astype(str)
    return list(dict.fromkeys(asked.sort_values(["exam", "facts"], key=lambda c: c.map(lambda v: order.get(v, v)))["facts"]))


def journal_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Scores laid out as in the journal: one row per group of questions, model, steps and shots, one column per metric.

    Returns:
        Columns `facts`, `run`, `base`, `method`, `steps`, `shots`, the metrics (`METRICS`, means over seeds and questions), `value`, `low`,
        `high` (Accuracy, mean over seeds, with its 95 % interval: Wilson's for one seed), `chance` and `n`.
    """
    rows = []
    keys = ["facts", "run", "base", "method", "steps", "shots"]
    frame = phrasings_apart(frame)
    size = frame.groupby("run", observed=True)["size_params"].max()  # bases of several worlds differ by the tokens of their names
    for key, found in frame.groupby(keys, observed=True, sort=True):
        seeds = [g.to_numpy(float) for _, g in found.groupby("seed")["accuracy"]]
        # Of one seed, the share of right answers: a bootstrap of none right would be a point.
        share = statistics.mean_interval(seeds) if len(seeds) > 1 else statistics.wilson(float(seeds[0].sum()), len(seeds[0]))
        row = dict(zip(keys, key, strict=True)) | found[list(METRICS)].mean().to_dict()
        row |= {"value": share.value, "low": max(share.low, 0.0), "high": min(share.high, 1.0)}
        rows.append(row | {"chance": float(found["chance"].mean()), "n": len(found)})
    found = pd.DataFrame(rows)
    found["size"] = found["run"].map(size)
    order = ["facts", "size", *keys[1:]]
    return found.sort_values(order, kind="stable", ignore_index=True).drop(columns="size")


def likelihood_rows(study: Study) -> pd.DataFrame:
    """Accuracy of the likeliest choice, where it was asked for.

    Returns:
        Columns `run`, `exam`, `steps`, `shots`, then one per normaliser of the log-likelihood (shares, means over seeds), and `n`.
    """
    keys = ["run", "exam", "steps", "shots"]
    ways = [column for column in study.likelihood if column not in ("seed", *keys, "n")]
    if not ways:
        return pd.DataFrame(columns=keys)
    found = study.likelihood.groupby(keys, as_index=False).agg(dict.fromkeys(ways, "mean") | {"n": "sum"})
    order = {run: i for i, run in enumerate(run_order(study.outcomes))}
    return found.sort_values(["exam", "run", "steps", "shots"], key=lambda c: c.map(order) if c.name == "run" else c, ignore_index=True)


def largest_run(frame: pd.DataFrame) -> str:
    """The main LoRA run on the largest English-centric base."""
    tuned = gains.main_runs(frame)
    return str(tuned[tuned["centric"] == "english"].iloc[-1]["run"])


def along_steps(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    """Accuracy of a run by group of facts and step, 0-shot: `facts`, `steps`, `value`, `low`, `high`, `n`.

    Untaught facts are those in the trained phrasing, as in the rule of the verdicts.
    """
    return estimates(control_once(frame[(frame["run"] == run) & (frame["shots"] == 0)]), ["facts", "steps"])


def chance(frame: pd.DataFrame, facts: str) -> float:
    """Chance level of a group of facts, 0 to 1."""
    return float(frame.loc[frame["facts"] == facts, "chance"].mean())
