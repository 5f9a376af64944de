"""Memory of models and of work on a CPU. Importing this module needs torch."""

import itertools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def peak_during(run: Callable[[], Result]) -> tuple[Result, int]:
    """What `run` returns, and the most bytes that torch held during it beyond those it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        result = run()
    events = sorted(watched.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return result, max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def resident_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, and of the constants behind weights in 4 bits; each storage once."""
    found = [*model.parameters(), *model.buffers()]
    for state in [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]:
        found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in found}.values())
