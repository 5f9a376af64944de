"""The same weights loaded in other ways: adapter beside its base or merged into it, base whole or in 4 bits.

A score belongs to the weights as they were loaded. Merging rounds the product of the adapter into the base's number format (and
quantises again where that is 4-bit), and an adapter put on a base of another precision meets other weights than it was
trained on. So a run is evaluated unmerged, on the base as it was tuned, and the others are compared with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import pandas as pd

from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record
from jmedlora_utils.evaluation import evaluator, metrics, results
from jmedlora_utils.evaluation.settings import EvalSettings, Variant

VARIANTS: tuple[str, ...] = get_args(Variant)


def evaluate(settings: EvalSettings, run_name: str, workspace: paths.Workspace, names: Sequence[str]) -> dict[str, list[Record]]:
    """Evaluates a run's weights in other ways, under the name `<run>~<variant>`.

    Returns:
        Variant to its records. A merged variant has none for step 0, which has no adapter.
    """
    if unknown := [name for name in names if name not in VARIANTS]:
        raise JmedloraError(f"compare names {unknown[0]!r}; it takes {', '.join(VARIANTS)}")
    found = {}
    for name in names:
        mode, quantisation = name.split("-")
        steps = [s for s in settings.steps if s or mode == "unmerged"]
        if not steps:
            raise JmedloraError(f"compare names {name!r}, but steps names only 0, the base; name a step that has an adapter to merge")
        changed = settings.changed(adapter_mode=mode, quantisation=quantisation, steps=steps, likelihood=False)
        found[name] = evaluator.evaluate(changed, f"{run_name}~{name}", workspace, variant_of=run_name)
    return found


def difference_frame(
    records: Sequence[Record], variants: dict[str, list[Record]], workspace: paths.Workspace, scorer: str = "journal"
) -> pd.DataFrame:
    """How the answers and Accuracy of each variant differ from the run's own, on the same questions.

    Returns:
        One row per variant, exam, shots and step: `n`; `same` (share of answers that are equal letter for letter); `run` and
        `changed` (Accuracy of the run and of the variant, 0 to 1); `value, low, high` (their difference with its 95 % paired
        bootstrap interval); `gained` and `lost` questions; `p` of McNemar's exact test, adjusted by Holm over the table.
    """
    own = {_where(r): results.asked_questions(r, workspace) for r in records}
    rows, tests = [], {}
    for name, found in variants.items():
        for record in found:
            questions, before = own[_where(record)]
            others, after = results.asked_questions(record, workspace)
            if [q.id for q in questions] != [q.id for q in others]:
                raise JmedloraError(f"{record.name}: it was asked other questions than the run; delete its answers and run again")
            plain, changed = (
                np.array([metrics.score(q, r, scorer).accuracy for q, r in zip(questions, said, strict=True)]) for said in (before, after)
            )
            test = statistics.mcnemar_exact(plain, changed)
            tests[str(len(rows))] = test.p
            difference = statistics.paired_bootstrap([plain], [changed])
            same = float(np.mean([a == b for a, b in zip(before, after, strict=True)]))
            rows.append((name, *_where(record), len(plain), same, plain.mean(), changed.mean(), *difference, test.gained, test.lost))
    columns = ["variant", "exam", "shots", "step", "n", "same", "run", "changed", "value", "low", "high", "gained", "lost"]
    return pd.DataFrame(rows, columns=columns).assign(p=list(statistics.holm(tests).values()))


def _where(record: Record) -> tuple[str, int, int]:
    return record.config["exam"], record.config["shots"], record.config["step"]
