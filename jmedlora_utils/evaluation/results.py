"""What evaluations found: scores of answers, and answers read back beside their questions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from jmedlora_utils.core import formatting, paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, read_jsonl, sha256_text
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import metrics, shuffling
from jmedlora_utils.evaluation.exam_prompts import load_exam

METRICS = ("exact_match", "gestalt", "accuracy")


def run_file(run_name: str, step: int, exam: str, shots: int) -> str:
    """Stem of the answers file; the record's name is this after `30_evaluate__`."""
    return f"{run_name}__step{step}__{exam}__{shots}shot"


def exam_of(record: Record, workspace: paths.Workspace) -> list[Question]:
    """The questions of a record's exam, their choices in the order in which they were asked."""
    seed = record.config.get("settings", {}).get("shuffle_choices", 0)
    return [shuffling.shuffle_choices(q, seed) for q in load_exam(record.config["exam"], workspace)[0]]


def asked_questions(record: Record, workspace: paths.Workspace) -> tuple[list[Question], list[str]]:
    """The questions of an evaluation and what was answered to each, in the order of its answers file.

    Raises:
        JmedloraError: The answers file is missing or damaged, or answers a question that the exam does not have.
    """
    path = workspace.answers / next(iter(record.data))  # a record names its answers first
    rows = read_jsonl(path)
    by_id = {q.id: q for q in exam_of(record, workspace)}
    for number, row in enumerate(rows, start=1):
        where = f"{paths.relative(path)}:{number}"
        if not isinstance(row.get("response"), str):
            raise JmedloraError(f"{where}: field 'response' is missing or no text; delete the file and run notebook 30 again")
        if row.get("id") not in by_id:
            raise JmedloraError(f"{where}: exam {record.config['exam']!r} has no question {row.get('id')!r}; run notebook 30 again")
    return [by_id[r["id"]] for r in rows], [r["response"] for r in rows]


def score_groups(questions: Sequence[Question], responses: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by scorer, group and metric, each with its n; shares with their Wilson interval.

    Groups are `all` and, where an exam has them, its sections.
    """
    frame = metrics.score_frame(questions, responses)
    frame["section"] = frame["section"].fillna("")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for scorer, scored in frame.groupby("scorer", sort=False):
        groups = {"all": scored} | {str(s): g for s, g in scored.groupby("section") if s}
        found[str(scorer)] = {name: _metrics(group) for name, group in groups.items()}
    return found


def _metrics(group: pd.DataFrame) -> dict[str, dict[str, float]]:
    n = len(group)
    found = {}
    for name in ("exact_match", "accuracy"):
        interval = statistics.wilson(float(group[name].sum()), n)
        found[name] = {"value": interval.value, "n": n, "low": interval.low, "high": interval.high}
    for name in ("gestalt", "readable"):
        found[name] = {"value": float(group[name].astype(float).mean()), "n": n}
    return found


def baseline_frame(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """What no skill and full knowledge earn on the questions asked: the rows of `metrics.baselines` by exam and group."""
    asked: dict[tuple[str, ...], list[Question]] = {}
    for record in records:
        questions, _ = asked_questions(record, workspace)
        asked[record.config["exam"], *(q.id for q in questions)] = questions
    frames = []
    for (exam, *_), questions in asked.items():
        groups = {"all": questions} | {s: [q for q in questions if q.section == s] for q in questions if (s := q.section)}
        frames += [metrics.baselines(group).assign(exam=exam, group=name) for name, group in groups.items()]
    return pd.concat(frames, ignore_index=True)


def accuracy_table(records: Sequence[Record], workspace: paths.Workspace, scorer: str = "journal") -> pd.DataFrame:
    """Accuracy in percent, one column per step: for each exam and group the model by shots, with its 95 % interval, and the baselines.

    Of an exam with sections only the sections are shown: a total would average taught and untaught facts.
    """
    rows = []
    for record in sorted(records, key=lambda r: r.config["shots"]):
        about = {"exam": record.config["exam"], "step": record.config["step"], "answers": f"model, {record.config['shots']}-shot"}
        for group, scores in record.metrics[scorer].items():
            found = scores["accuracy"]
            shown = formatting.percent(found["value"], found["low"], found["high"])
            rows.append({**about, "group": group, "n": found["n"], "shown": shown})
    known = baseline_frame(records, workspace).query("scorer == @scorer").rename(columns={"baseline": "answers"})
    known = known.assign(shown=known["accuracy"].map(formatting.percent)).merge(pd.DataFrame(rows)[["step"]].drop_duplicates(), how="cross")
    frame = pd.concat([pd.DataFrame(rows), known])
    frame = frame[(frame["group"] != "all") | (frame.groupby("exam")["group"].transform("nunique") == 1)]
    keys = ["exam", "group", "answers", "n"]
    wide = frame.pivot(index=keys, columns="step", values="shown").rename(columns=lambda step: f"step {step}")
    names = list(dict.fromkeys(r.config["exam"] for r in records))
    order = list(dict.fromkeys(frame[keys].itertuples(index=False, name=None)))
    order.sort(key=lambda row: (names.index(row[0]), row[1]))
    return wide.loc[order].rename_axis(columns=None).reset_index()


def scorer_table(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """The three scorers side by side over whole exams, in percent, with the answers nobody could read; then the baselines."""
    known = baseline_frame(records, workspace).query("group == 'all'")
    rows = []
    for exam in dict.fromkeys(r.config["exam"] for r in records):
        of_exam = [r for r in records if r.config["exam"] == exam]
        for r in sorted(of_exam, key=lambda r: (r.config["shots"], r.config["step"])):
            about = {"exam": exam, "answers": f"model, {r.config['shots']}-shot", "step": str(r.config["step"]), "n": r.counts["questions"]}
            shown = {f"{s} {m}": r.metrics[s]["all"][m]["value"] for s in metrics.SCORERS for m in METRICS}
            rows.append({**about, **shown, "unreadable": r.counts["unreadable"]})
        for (answers, n), found in known[known["exam"] == exam].groupby(["baseline", "n"], sort=False):
            by = found.set_index("scorer")
            shown = {f"{s} {m}": by.loc[s, m] for s in metrics.SCORERS for m in METRICS}
            about = {"exam": exam, "answers": answers, "step": "", "n": n}
            rows.append({**about, **shown, "unreadable": round((1 - by.loc["strict", "readable"]) * n)})
    table = pd.DataFrame(rows)
    shares = table.columns[4:-1]
    table[shares] = table[shares].map(lambda share: "" if math.isnan(share) else formatting.percent(share))
    return table.rename(columns=lambda name: name.replace("_", " "))


def questions_sha256(questions: Sequence[Question]) -> str:
    """SHA-256 of questions with everything that scores them: gold, rule, choices."""
    return sha256_text("".join(json.dumps(asdict(q), ensure_ascii=False, sort_keys=True, default=sorted) + "\n" for q in questions))
