"""A run on one's own articles: every answer as letters and scores, from its records or from committed evidence.

Texts are never kept: neither questions, which quote the articles, nor what the model wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from jmedlora_utils.analysis import evidence
from jmedlora_utils.analysis.studies import evaluation_of, evaluations
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import load_records

ANSWERS = ["run", "seed", "steps", "exam", "facts", "id", "gold", "picked", "readable", "strict_accuracy", "prohibited"]
FILE = "answers.csv"


def has_quiz(preset: str) -> bool:
    """Whether a preset asks a quiz of one's own articles."""
    return any("quiz" in run.all_evaluation()["exams"] for run in load_preset(preset).runs)


def answers(preset: str, source: str = "run") -> pd.DataFrame:
    """One row per answer without worked examples: the columns `ANSWERS`.

    `gold` and `picked` are letters, `picked` as the strict scorer reads it; `prohibited` says whether a prohibited choice was made, and is
    empty for a question that has none.

    Args:
        preset: A preset that asks a quiz.
        source: `run`, `committed`, or `auto`: committed where it exists.

    Raises:
        JmedloraError: The preset asks no quiz, or its results are missing.
    """
    if not has_quiz(preset):
        raise JmedloraError(f"preset {preset!r} asks no quiz; add notebook 13 and the exams quiz, quiz_bm25 and exam_sample to it")
    if evidence.is_committed(preset, source):
        folder = evidence.evidence_folder(preset)
        check_manifest(folder)
        return pd.read_csv(folder / FILE, keep_default_na=False, na_values={"prohibited": [""]})
    return _of_run(preset, ())


def _of_run(preset: str, seeds: Sequence[int]) -> pd.DataFrame:
    from jmedlora_utils.evaluation import metrics, results

    settings, rows = load_preset(preset), []
    planned = evaluations(settings)
    for seed in seeds or settings.seeds:
        workspace = paths.Workspace(preset, seed)
        for record in load_records(workspace.root, "evaluate", allow_smoke=True):
            run, step, exam, shots = evaluation_of(record)
            if record.config.get("variant_of") or evaluation_of(record) not in planned or shots:
                continue
            for question, response in zip(*results.asked_questions(record, workspace), strict=True):
                scored = metrics.score(question, response, "strict")
                harm = int(bool(scored.picked & question.prohibited)) if question.prohibited else None
                where = (run, seed, step, exam, question.section or exam, question.id, "".join(sorted(question.gold)))
                rows.append((*where, "".join(sorted(scored.picked)), int(scored.readable), scored.accuracy, harm))
    return pd.DataFrame(rows, columns=ANSWERS).astype({"prohibited": float})


def freeze(preset: str, folder: Path | None = None, seeds: Sequence[int] = (), add: bool = False) -> list[Path]:
    """Commits the evidence of a finished run as `evidence.freeze` does, and `answers.csv` beside it."""
    table = _of_run(preset, seeds)
    return evidence.add_tables(evidence.freeze(preset, folder, seeds, add), {FILE: table}, table["seed"].unique(), add)
