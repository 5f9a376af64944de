"""Answers and their cost on disk, batch by batch, so that a killed run continues and ends byte for byte as an uninterrupted one."""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jmedlora_utils.core.notebook import progress
from jmedlora_utils.core.records import peak_memory_bytes, sha256_text, write_text, writing

Row = dict[str, Any]


class AnswerLog:
    """One answers file.

    Rows are appended to `<name>.partial` in the order of the batches and synced; once all are there, they are written to
    `<name>` in exam order. A batch that a kill cut off is asked again as a whole: the other rows of a batch can change a row's
    logits by rounding. What each batch cost stands in `<name>.cost`, one line per batch with the keys it was spent on, so that
    the cost of other settings is never counted here.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self.keys = path, list(keys)
        self.partial = path.with_name(f"{path.name}.partial")
        self.cost = path.with_name(f"{path.name}.cost")
        self._spent_on = sha256_text("".join(keys))[:32]
        self._since = time.perf_counter()

    def complete(self) -> list[Row] | None:
        """The rows of the finished file in exam order, or None where it is missing, damaged or answers something else."""
        rows = _whole_rows(self.path)
        return rows if [r.get("key") for r in rows] == self.keys else None

    def fill(self, batches: Sequence[Sequence[int]], ask: Callable[[Sequence[int]], list[Row]], stage: str, title: str = "") -> list[Row]:
        """Asks every batch (positions of questions) that is not on disk, writes the finished file and returns its rows in exam order."""
        for batch in progress(batches[self.resume(batches) :], title):
            self._append(self.partial, "".join(map(_line, ask(batch))))
            self.lap(stage)
        by_key = {row["key"]: row for row in _whole_rows(self.partial)}
        rows = [by_key[key] for key in self.keys]
        write_text(self.path, "".join(map(_line, rows)))
        self.partial.unlink()
        return rows

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

    def resume(self, batches: Sequence[Sequence[int]]) -> int:
        """Number of whole batches already answered; anything after them is cut off the file."""
        rows = _whole_rows(self.partial)
        done, n = 0, 0
        for batch in batches:
            if [r.get("key") for r in rows[n : n + len(batch)]] != [self.keys[i] for i in batch]:
                break
            done, n = done + 1, n + len(batch)
        if self.partial.exists():
            write_text(self.partial, "".join(map(_line, rows[:n])))
        return done

    def start(self) -> None:
        """Starts the clock: what was done since the log was opened, such as filling another, is none of its cost."""
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Adds the seconds since the last lap, or since the start, to the cost of a stage."""
        since, self._since = self._since, time.perf_counter()
        seconds = round(self._since - since, 3)
        line = {"keys": self._spent_on, "timing": {stage: seconds}, "wall_seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
        self._append(self.cost, f"\n{json.dumps(line)}")  # the line break comes first: a line that a kill cut off damages no other

    def spent(self) -> dict[str, Any]:
        """The measured fields of a record, over all runs that asked for these answers."""
        lines = self.cost.read_text(encoding="utf-8", errors="replace").split("\n") if self.cost.is_file() else []
        return sum_costs(row for line in lines for row in _parsed(line) if row.get("keys") == self._spent_on)

    def forget_cost(self) -> None:
        """Removes the cost file, once its sum stands in a record."""
        self.cost.unlink(missing_ok=True)


def sum_costs(costs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Measured fields of several runs as one: seconds are sums, memory is the largest."""
    costs = list(costs)
    stages = dict.fromkeys(stage for cost in costs for stage in cost["timing"])
    return {
        "timing": {stage: round(sum(cost["timing"].get(stage, 0.0) for cost in costs), 3) for stage in stages},
        "wall_seconds": round(sum(cost["wall_seconds"] for cost in costs), 3),
        "peak_memory_bytes": max((cost["peak_memory_bytes"] for cost in costs), default=0),
    }


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parsed(line: str) -> list[Row]:
    """The JSON object of a line, or nothing where a kill or a fault of the disk damaged it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return []
    return [row] if isinstance(row, dict) else []


def _whole_rows(path: Path) -> list[Row]:
    """Rows up to the first line that was not written to its end."""
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else ():
        if not (found := _parsed(line)):
            break
        rows += found
    return rows
