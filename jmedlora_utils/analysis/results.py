"""Every score of a preset: model, steps, shots, questions, metric, as the journal's results are laid out; and paired differences."""

from __future__ import annotations

import itertools

import pandas as pd

from jmedlora_utils.analysis import findings, tables
from jmedlora_utils.analysis.findings import Condition
from jmedlora_utils.analysis.tables import Study
from jmedlora_utils.analysis.views import METHOD_NAMES, phrasings_apart
from jmedlora_utils.core import formatting, statistics

HEADINGS = {
    "exact_match": "Exact match (%)",
    "gestalt": "Gestalt score",
    "accuracy": "Accuracy (%)",
    "strict_accuracy": "strict Accuracy (%)",
    "before": "before (%)",
    "after": "after (%)",
    "gain": "gain [95 %]",
    "flips": "fixed / broken",
    "p": "Holm's p",
    "difference": "difference of gains [95 %]",
    "leniency": "Accuracy minus Exact match [95 %]",
}


def groups(study: Study) -> list[str]:
    """The groups of questions of a study: the exams asked, or the groups of facts of the mini exams."""
    asked = phrasings_apart(study)[["exam", "facts"]].drop_duplicates().astype(str)
    return list(dict.fromkeys(asked.sort_values(["exam", "facts"], key=_mini_order)["facts"]))


def score_table(study: Study, group: str) -> pd.DataFrame:
    """One group of questions in the journal's layout: a row a model, steps and shots, a column a metric; means over seeds.

    Accuracy has its 95 % interval (Wilson's for one seed). `Exact match`, `Gestalt score` and `Accuracy` follow the journal's formulas.
    """
    frame = phrasings_apart(study)
    frame = frame[frame["facts"] == group]
    rows = []
    keys = ["size_params", "run", "base", "method", "steps", "shots"]
    for (_, run, base, method, steps, shots), found in frame.groupby(keys, observed=True, sort=True):
        seeds = [g.to_numpy(float) for _, g in found.groupby("seed")["accuracy"]]
        # Of one seed, the share of right answers: a bootstrap of none right would be a point.
        share = statistics.mean_interval(seeds) if len(seeds) > 1 else statistics.wilson(float(seeds[0].sum()), len(seeds[0]))
        rows.append(
            {
                "run": run,
                "base": base,
                "method": METHOD_NAMES[method] if steps else "base",
                "steps": int(steps),
                "shots": int(shots),
                "exact_match": formatting.percent(found["exact_match"].mean()),
                "gestalt": f"{found['gestalt'].mean():.3f}",
                "accuracy": formatting.percent(share.value, max(share.low, 0.0), min(share.high, 1.0)),
                "strict_accuracy": formatting.percent(found["strict_accuracy"].mean()),
                "n": len(found),
            }
        )
    return pd.DataFrame(rows)


def score_tables(study: Study) -> str:
    """`score_table` of every group, numbered, in Markdown."""
    shown = []
    for group in groups(study):
        name = group.replace("_", "-")
        caption = f"Scores on `{group}`: model, steps and shots; chance earns {formatting.percent(_chance(study, group))} % Accuracy."
        scores = score_table(study, group)
        shown.append(formatting.numbered(scores, f"tab-scores-{name}", caption, _headings(scores)))
    return "\n".join([*shown, study.source_line()])


def steps_frame(study: Study, group: str, shots: int = 0) -> pd.DataFrame:
    """Accuracy of every run by steps on one group of questions, for `tuning_plots.accuracy_by_steps` with a line a run."""
    frame = phrasings_apart(study)
    own = frame[(frame["facts"] == group) & (frame["shots"] == shots)]
    return tables.estimates(own, ["run", "steps"]).rename(columns={"run": "base"}).astype({"base": str})


def run_frame(study: Study) -> pd.DataFrame:
    """The runs with size and language, for `style.base_styles` with a style a run."""
    found = study.outcomes[["run", "size_params", "centric"]].drop_duplicates()
    return found.rename(columns={"run": "base"}).astype({"base": str, "centric": str})


def gains_frame(study: Study) -> pd.DataFrame:
    """Tuned against base on the same questions: every run, kept step, number of shots and group.

    Returns:
        Columns `run`, `steps`, `shots`, `group`, `before`, `after`, `gain`, `low`, `high` (shares), `fixed`, `broken`, `n`, and `p`,
        McNemar's exact test pooled over seeds, with Holm's correction over all rows. Empty where nothing was tuned or no base was asked.
    """
    frame, rows = phrasings_apart(study), []
    tuned = frame[frame["steps"] > 0]
    for run, steps, shots, group in tuned[["run", "steps", "shots", "facts"]].drop_duplicates().itertuples(index=False):
        condition = Condition(shots=int(shots), facts=str(group))
        try:
            before = findings.baseline(frame, run, condition)
        except findings.FindingError:
            continue
        before, after = _paired(before, findings.outcomes(frame, run, steps, condition))
        test = statistics.mcnemar_exact(before, after)
        effect = findings.interval(after - before)
        row = {
            "run": str(run),
            "steps": int(steps),
            "shots": int(shots),
            "group": str(group),
            "before": before.mean(),
            "after": after.mean(),
        }
        rows.append(row | {"gain": effect.value, "low": effect.low, "high": effect.high, **test._asdict()})
    columns = ["run", "steps", "shots", "group", "before", "after", "gain", "low", "high", "gained", "lost", "n", "p"]
    found = pd.DataFrame(rows, columns=columns)
    adjusted = statistics.holm({str(i): p for i, p in found["p"].items()}) if len(found) else {}
    return found.assign(p=[adjusted[str(i)] for i in found.index]).rename(columns={"gained": "fixed", "lost": "broken"})


def gains_table(study: Study) -> str:
    """`gains_frame` as a numbered table, or a sentence where there is nothing to compare."""
    found = gains_frame(study)
    if found.empty:
        return "No run was asked before and after tuning, so there is nothing to compare."
    shown = pd.DataFrame(
        {
            **{c: found[c] for c in ("run", "group", "shots", "steps")},
            "before": found["before"].map(formatting.percent),
            "after": found["after"].map(formatting.percent),
            "gain": [formatting.percent(*row, signed=True) for row in found[["gain", "low", "high"]].itertuples(index=False)],
            "flips": [f"{a} / {b}" for a, b in found[["fixed", "broken"]].itertuples(index=False)],
            "n": found["n"].astype(int),
            "p": found["p"].map(formatting.p_value),
        }
    ).sort_values(["run", "group", "shots", "steps"])
    caption = (
        "Accuracy before and after tuning on the same questions. The interval covers questions and seeds; "
        "McNemar's exact test pools the seeds, with Holm's correction over all rows."
    )
    return formatting.numbered(shown, "tab-scores-gains", caption, _headings(shown), study.source_line())


def differences_table(study: Study) -> str:
    """Gains of two runs against each other, 0-shot, at the last kept step of each: what size, language and method do together.

    Every pair of runs on different bases, the larger base first; the same questions.
    """
    frame, rows = phrasings_apart(study), []
    tuned = frame[frame["steps"] > 0][["run", "base", "size_params"]].drop_duplicates().sort_values(["size_params", "run"])
    gains = {
        (run, group): gain for run in tuned["run"] for group in groups(study) if (gain := _last_gain(frame, str(run), group)) is not None
    }
    for small, large in itertools.combinations(tuned.itertuples(index=False), 2):
        for group in groups(study) if small.base != large.base else []:
            if not {(small.run, group), (large.run, group)} <= gains.keys():
                continue
            first, second = _paired(gains[large.run, group], gains[small.run, group])
            effect = findings.interval(first - second)
            rows.append(
                {
                    "pair": f"{large.run} - {small.run}",
                    "group": group,
                    "difference": formatting.percent(*effect, signed=True),
                    "n": len(first),
                }
            )
    if not rows:
        return "There are no two tuned bases to compare."
    shown = pd.DataFrame(rows)
    caption = "Gain of one run minus gain of another, last kept step, no worked example, in points."
    return formatting.numbered(shown, "tab-scores-differences", caption, _headings(shown), study.source_line())


def leniency_table(study: Study) -> str:
    """Accuracy minus Exact match of every run at its last step, 0-shot, question by question."""
    frame, rows = phrasings_apart(study), []
    for run in dict.fromkeys(frame.sort_values(["size_params", "run"])["run"].astype(str)):
        own = frame[(frame["run"] == run) & (frame["shots"] == 0)]
        own = own[own["steps"] == own["steps"].max()]
        for group, found in own.groupby("facts", observed=True):
            values = found.set_index("seed")
            effect = findings.interval(values["accuracy"] - values["exact_match"])
            row = {"run": run, "group": str(group), "exact_match": formatting.percent(values["exact_match"].mean())}
            rows.append(
                row
                | {
                    "accuracy": formatting.percent(values["accuracy"].mean()),
                    "leniency": formatting.percent(*effect, signed=True),
                    "n": len(found),
                }
            )
    shown = pd.DataFrame(rows)
    caption = "How much milder Accuracy is than Exact match, last step, no worked example."
    return formatting.numbered(shown, "tab-scores-leniency", caption, _headings(shown), study.source_line())


def _last_gain(frame: pd.DataFrame, run: str, group: str) -> pd.Series | None:
    """Gain at the last kept step, question by question; None where the run or its base was not asked."""
    condition = Condition(facts=group)
    last = frame.loc[(frame["run"] == run) & (frame["facts"] == group), "steps"].max()
    try:
        before, after = _paired(findings.baseline(frame, run, condition), findings.outcomes(frame, run, last, condition))
    except findings.FindingError:
        return None
    return after - before


def _paired(first: pd.Series, second: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both on the questions that both answered: two tokenizers may have left out different long prompts."""
    both = first.index.intersection(second.index).sort_values()
    return first.loc[both], second.loc[both]


def _chance(study: Study, group: str) -> float:
    frame = phrasings_apart(study)
    return float(frame.loc[frame["facts"] == group, "chance"].mean())


def _headings(frame: pd.DataFrame) -> dict[str, str]:
    return {c: HEADINGS.get(c, c) for c in frame.columns}


def _mini_order(column: pd.Series) -> pd.Series:
    order = {"mini_trained": "0", "mini_heldout": "1", "mini_general": "2", "taught": "0", "untaught": "1"}
    return column.map(lambda value: order.get(value, value))
