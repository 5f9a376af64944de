"""Shards: one evaluation split over several runs, whose answers put together are byte for byte those of one run.

The unit is the batch, not the question: the other rows of a batch can move a row's logits by rounding, so a shard asks
whole batches of the unsplit run, batch `i` in shard `i mod num_shards`. Every shard writes `<answers>.shard<i>of<n>.jsonl` and,
when done, the same name with `.json`: the keys of the whole evaluation in order, and what the shard cost.

Notebook 30 puts them together in whatever run first sees all of them done: the last shard, a shard that is started again, or the
unsplit notebook, which a preset's workflow starts after its shards. On a network file system two shards that end together may not see
each other, so none of these alone would do. `python -m jmedlora_utils.evaluation.shards merge <folder of answers>` does it by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl, write_jsonl, write_text
from jmedlora_utils.evaluation.costs import sum_costs

_NAME = re.compile(r"(?P<stem>.+)\.shard(?P<index>\d+)of(?P<of>\d+)\.json")


def shard_path(path: Path, index: int, of: int) -> Path:
    """Where a shard's answers lie; the path itself for an unsplit run."""
    return path if of == 1 else path.with_name(f"{path.stem}.shard{index}of{of}.jsonl")


def finish(path: Path, index: int, of: int, keys: Sequence[str], cost: dict[str, Any]) -> None:
    """Declares a shard done.

    Args:
        path: Answers file of the whole.
        index: The shard.
        of: Number of shards.
        keys: Keys of the whole, in order.
        cost: Measured fields of this shard.
    """
    note = shard_path(path, index, of).with_suffix(".json")
    if not note.is_file() or json.loads(note.read_text(encoding="utf-8"))["keys"] != list(keys):
        write_text(note, json.dumps({"keys": list(keys), "cost": cost}) + "\n")


def join(path: Path, keys: Sequence[str]) -> bool:
    """Puts the whole together if a split of it is done, and says whether it was; any number of runs may do so, at any time.

    Args:
        path: Answers file of the whole.
        keys: Keys of the whole, in order.

    Raises:
        JmedloraError: The shards say that they are done, but their answers are damaged.
    """
    done = [(index, of) for index, of, _ in _finished(path, keys)]
    for of in sorted({of for _, of in done}):
        if all((index, of) in done for index in range(of)):
            merge(path, of)
            return True
    return False


def answered(path: Path, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows by key that finished shards of an evaluation hold; `keys` are those of the whole."""
    wanted = set(keys)
    rows = [row for index, of, _ in _finished(path, keys) for row in read_jsonl(shard_path(path, index, of))]
    return {row["key"]: row for row in rows if row.get("key") in wanted}


def spent(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """What the finished shards of an evaluation cost; `keys` are those of the whole."""
    return sum_costs([note["cost"] for _, _, note in _finished(path, keys)])


def unjoined(folder: Path) -> list[str]:
    """Stems of the answers files whose shards are all done, but which are not put together."""
    found = []
    for stem, numbers in _splits(folder).items():
        path = folder / f"{stem}.jsonl"
        for of in numbers if not path.is_file() else ():
            first = _note(path, 0, of)
            if first and len({i for i, n, _ in _finished(path, first["keys"]) if n == of}) == of:
                found.append(stem)
                break
    return found


def merge(path: Path, of: int) -> None:
    """Writes the answers of all shards to `path` in the order of one run, whole or not at all.

    Args:
        path: Answers file of the whole.
        of: Number of shards.

    Raises:
        JmedloraError: A shard is missing, or they are of different evaluations.
    """
    notes = [_note(path, i, of) for i in range(of)]
    if absent := [i for i, note in enumerate(notes) if note is None]:
        raise JmedloraError(
            f"{paths.relative(path)}: {len(absent)} of {of} shards are not done, first {shard_path(path, absent[0], of).name}; "
            f"run notebook 30 with shard_index={absent[0]}, num_shards={of}"
        )
    known = [note for note in notes if note is not None]
    keys = known[0]["keys"]
    rows: dict[str, dict[str, Any]] = {}
    for i, note in enumerate(known):
        file = shard_path(path, i, of)
        found = read_jsonl(file)
        if note["keys"] != keys or not {row.get("key") for row in found} <= set(keys):
            raise JmedloraError(f"{file.name} was written with other settings, data or weights than shard 0; run that shard again")
        if twice := [row["id"] for row in found if row["key"] in rows]:
            raise JmedloraError(f"{file.name}: question {twice[0]} is in another shard too; run all shards again with the same num_shards")
        rows |= {row["key"]: row for row in found}
    if gone := [key for key in keys if key not in rows]:
        raise JmedloraError(f"{paths.relative(path)}: {len(gone)} of {len(keys)} answers are in no shard; run the shards again")
    write_jsonl(path, [rows[key] for key in keys])


def merge_folder(folder: Path) -> list[Path]:
    """Merges every evaluation whose shards lie in a folder, and returns what was written.

    Raises:
        JmedloraError: There is no shard, a shard is missing, or shards of different numbers lie side by side.
    """
    found = _splits(folder)
    if not found:
        raise JmedloraError(f"{folder}: no finished shard in it; give runs/<preset>/seed<seed>/answers of a run with num_shards above 1")
    for stem, numbers in found.items():
        if len(numbers) > 1:
            several = " and ".join(map(str, sorted(numbers)))
            raise JmedloraError(f"{stem}: splits into {several} shards lie side by side; remove the files of the one that was given up")
    targets = [(folder / f"{stem}.jsonl", numbers.pop()) for stem, numbers in found.items()]
    for path, of in targets:
        merge(path, of)
    return [path for path, _ in targets]


def _splits(folder: Path) -> dict[str, set[int]]:
    """Stems of the answers files that were split, with the numbers of shards of their splits."""
    found: dict[str, set[int]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if name := _NAME.fullmatch(file.name):
            found.setdefault(name["stem"], set()).add(int(name["of"]))
    return found


def _finished(path: Path, keys: Sequence[str]) -> list[tuple[int, int, dict[str, Any]]]:
    """Finished shards of an evaluation, of any split: index, number of shards, note. Those of other settings are passed over."""
    numbers = sorted(_splits(path.parent).get(path.stem, ()))
    notes = [(index, of, _note(path, index, of)) for of in numbers for index in range(of)]
    return [(index, of, note) for index, of, note in notes if note and note["keys"] == list(keys)]


def _note(path: Path, index: int, of: int) -> dict[str, Any] | None:
    """The note of a finished shard whose answers are there, else None."""
    file = shard_path(path, index, of)
    note = file.with_suffix(".json")
    return json.loads(note.read_text(encoding="utf-8")) if note.is_file() and file.is_file() else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.evaluation.shards", description=__doc__.splitlines()[0])
    command = parser.add_subparsers(required=True).add_parser("merge", help="put the shards of a folder together")
    command.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    try:
        for path in merge_folder(options.folder):
            print(f"wrote {paths.relative(path)}")
        print("their records are written by notebook 30 with the same settings: it finds the answers and asks nothing")
    except JmedloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
