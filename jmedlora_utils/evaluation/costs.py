"""What asking costs, on disk beside the answers batch by batch, so that the share of a killed run is not lost when it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jmedlora_utils.core.records import peak_memory_bytes, sha256_text


class Ledger:
    """Cost of one answers file, over all runs that wrote it: one line a batch in `<answers>.cost`.

    A line names the keys it was spent on, so that what other settings cost is never counted here. What a kill cuts off, a batch or
    the loading of the model, is not in it.
    """

    def __init__(self, answers: Path, keys: Sequence[str]) -> None:
        self.path = answers.with_name(f"{answers.name}.cost")
        self._keys = sha256_text("".join(keys))[:32]
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Books the seconds since the last lap, or since the ledger was opened, on a stage."""
        since, self._since = self._since, time.perf_counter()
        seconds = round(self._since - since, 3)
        line = {"keys": self._keys, "timing": {stage: seconds}, "wall_seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(line)}")  # the break comes first: a line that a kill cut off spoils no other

    def total(self) -> dict[str, Any]:
        """Measured fields of all laps; of none, zeros."""
        return sum_costs(self._lines())

    def close(self) -> None:
        """Removes the file, once its total stands elsewhere."""
        self.path.unlink(missing_ok=True)

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else ():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and line.get("keys") == self._keys:
                found.append(line)
        return found


def sum_costs(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Measured fields of several runs as one: seconds are sums, memory is the largest."""
    stages = dict.fromkeys(stage for cost in costs for stage in cost["timing"])
    return {
        "timing": {stage: round(sum(cost["timing"].get(stage, 0.0) for cost in costs), 3) for stage in stages},
        "wall_seconds": round(sum(cost["wall_seconds"] for cost in costs), 3),
        "peak_memory_bytes": max((cost["peak_memory_bytes"] for cost in costs), default=0),
    }
