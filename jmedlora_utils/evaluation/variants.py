"""The same weights loaded in other ways: adapter beside its base or merged into it, base whole or in 4 bits.

A score belongs to the weights as they were loaded. Merging rounds the product of the adapter into the base's number format (and
quantises again where that is 4-bit), and an adapter put on a base of another precision meets other weights than it was
trained on. So a run is evaluated unmerged, on the base as it was tuned, and the others are compared with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jmedlora_utils.core import formatting, paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import evaluator, metrics
from jmedlora_utils.evaluation.settings import ADAPTER_MODES, EvalSettings
from jmedlora_utils.models.loading import QUANTISATIONS

if TYPE_CHECKING:
    import pandas as pd

VARIANTS = tuple(f"{mode}-{quantisation}" for mode in ADAPTER_MODES for quantisation in QUANTISATIONS)


def evaluate(settings: EvalSettings, run_name: str, workspace: paths.Workspace, names: Sequence[str]) -> dict[str, list[Record]]:
    """Evaluates a run's weights in other ways, under the name `<run>~<variant>`.

    Args:
        settings: Those of the run.
        run_name: Its name.
        workspace: Where everything lies.
        names: Variants, each one of `VARIANTS`: how the adapter is used, and the base's quantisation.

    Returns:
        Variant to its records. A merged variant has none for step 0, which has no adapter. Nothing for a shard: whole exams
        are compared, by the unsplit notebook that follows the shards.

    Raises:
        JmedloraError: There is no such variant, or the run cannot be evaluated so.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise JmedloraError(f"compare names {unknown[0]!r}; it takes {', '.join(VARIANTS)}")
    if settings.num_shards > 1:
        return {}
    found = {}
    for name in names:
        mode, quantisation = name.split("-")
        steps = tuple(s for s in settings.steps if s or mode == "unmerged")
        if not steps:
            raise JmedloraError(f"compare names {name!r}, but steps names only 0, the base; name a step that has an adapter to merge")
        changed = replace(settings, adapter_mode=mode, quantisation=quantisation, steps=steps, likelihood=False)
        found[name] = evaluator.evaluate(changed, f"{run_name}~{name}", workspace, variant_of=run_name)
    return found


def difference_table(
    records: Sequence[Record], variants: dict[str, list[Record]], workspace: paths.Workspace, scorer: str = "journal"
) -> pd.DataFrame:
    """How the answers and Accuracy of each variant differ from the run's own, on the same questions.

    Args:
        records: The run's own.
        variants: What `evaluate` returned.
        workspace: Where answers lie.
        scorer: Scorer of Accuracy.

    Returns:
        One row a variant, exam, shots and step: `n`; `same answers` (letter for letter, in percent); Accuracy of the run and
        of the variant in percent; `difference` in points with its 95 % paired bootstrap interval; `gained` and `lost`
        questions; `p` of McNemar's exact test, adjusted by Holm over the table.
    """
    import pandas as pd

    own = {_where(r): evaluator.asked_questions(r, workspace) for r in records}
    rows, tests = [], {}
    for name, found in variants.items():
        for record in found:
            questions, before = own[_where(record)]
            others, after = evaluator.asked_questions(record, workspace)
            if [q.id for q in questions] != [q.id for q in others]:
                raise JmedloraError(f"{record.name}: it was asked other questions than the run; delete its answers and run again")
            scores = [_accuracies(questions, said, scorer) for said in (before, after)]
            test = statistics.mcnemar_exact(*scores)
            tests[str(len(rows))] = test.p
            same = np.mean([a == b for a, b in zip(before, after, strict=True)])
            rows.append(
                {
                    "variant": name,
                    **dict(zip(("exam", "shots", "step"), _where(record), strict=True)),
                    "n": len(questions),
                    "same answers": formatting.percent(float(same)),
                    "run": formatting.percent(float(scores[0].mean())),
                    "variant's": formatting.percent(float(scores[1].mean())),
                    "difference": formatting.percent(*statistics.paired_bootstrap([scores[0]], [scores[1]]), signed=True),
                    "gained": test.gained,
                    "lost": test.lost,
                }
            )
    adjusted = statistics.holm(tests)
    return pd.DataFrame([{**row, "p": f"{adjusted[str(i)]:.3f}"} for i, row in enumerate(rows)])


def _accuracies(questions: Sequence[Question], responses: Sequence[str], scorer: str) -> np.ndarray:
    return np.array([metrics.score(q, r, scorer).accuracy for q, r in zip(questions, responses, strict=True)])


def _where(record: Record) -> tuple[str, int, int]:
    return record.config["exam"], record.config["shots"], record.config["step"]
