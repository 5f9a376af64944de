"""What evaluations found: scores of answers, and answers read back beside their questions."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, read_jsonl, sha256_text
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import metrics, shuffling
from jmedlora_utils.evaluation.exam_prompts import load_exam


def exam_of(record: Record, workspace: paths.Workspace) -> list[Question]:
    """The questions of a record's exam, their choices in the order in which they were asked."""
    seed = record.config.get("settings", {}).get("shuffle_choices", 0)
    return [shuffling.shuffle_choices(q, seed) for q in load_exam(record.config["exam"], workspace)[0]]


def asked_questions(record: Record, workspace: paths.Workspace) -> tuple[list[Question], list[str]]:
    """The questions of an evaluation and what was answered to each, in the order of its answers file."""
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
    shares = {name: statistics.share(float(group[name].sum()), n) for name in ("exact_match", "accuracy")}
    return shares | {name: {"value": float(group[name].astype(float).mean()), "n": n} for name in ("gestalt", "readable")}


def questions_sha256(questions: Sequence[Question]) -> str:
    """SHA-256 of questions with everything that scores them: gold, rule, choices."""
    return sha256_text("".join(json.dumps(asdict(q), ensure_ascii=False, sort_keys=True, default=sorted) + "\n" for q in questions))
