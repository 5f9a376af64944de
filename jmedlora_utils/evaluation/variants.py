"""The same weights loaded in other ways: adapter beside its base or merged into it, base whole or in 4 bits.

Merging rounds, and an adapter on a base of another precision meets other weights than it was trained on: a score belongs to one loading.
"""

from collections.abc import Sequence
from typing import get_args

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record
from jmedlora_utils.evaluation import evaluator
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
