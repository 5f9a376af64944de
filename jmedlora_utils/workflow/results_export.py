"""Committed results in the schemas of Every Eval Ever, which other programs load: an aggregate file for each model, and its questions.

The schemas are those of the package `every-eval-ever` (github.com/evaleval/every_eval_ever, MIT), kept in `resources/every_eval_ever/`.
What goes into a file is the matter of `results_logs`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jmedlora_utils.analysis import evidence
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json, read_jsonl, sha256_file, write_jsonl, write_text
from jmedlora_utils.workflow import results_logs
from jmedlora_utils.workflow.results_logs import SCHEMAS, Log


def studies() -> list[str]:
    """Names of the committed studies that can be exported: folders of `book/results/`."""
    return [*sorted(path.parent.name for path in paths.RESULTS.glob("*/evidence.json")), results_logs.PUBLISHED]


def export(out: Path, wanted: Sequence[str] = ()) -> list[Path]:
    """Writes the studies below `out/data/`, in the layout of the shared data store, and checks every file against the schemas.

    Args:
        out: A folder; files of the same content get the same name, so a second export changes nothing.
        wanted: Names of `studies`; all by default.

    Raises:
        JmedloraError: There is no such study, its evidence is damaged, or a file does not fit its schema.
    """
    if unknown := sorted(set(wanted) - set(studies())):
        raise JmedloraError(f"no committed study {unknown[0]!r}; there are {', '.join(studies())}")
    written: list[Path] = []
    for name in wanted or studies():
        own = name != results_logs.PUBLISHED
        logs = results_logs.of_study(evidence.load_study(name, "committed"), name) if own else results_logs.of_published()
        for log, samples in logs:
            written += _write(Path(out).expanduser(), f"jmedlora-{name}", log, samples)
    return written


def check(path: Path) -> int:
    """Compares an exported file with its schema, an aggregate or the lines per question; returns how many objects it holds.

    Raises:
        JmedloraError: One does not fit; names file, line and field.
    """
    lines = path.suffix == ".jsonl"
    rows, schema = (read_jsonl(path), _schema("instance_level_eval")) if lines else ([read_json(path)], _schema("eval"))
    for number, row in enumerate(rows, start=1):
        if error := next(schema.iter_errors(row), None):
            where = f"{path}:{number}" if lines else str(path)
            raise JmedloraError(
                f"{where}: {error.json_path}: {error.message[:200]}; the export does not fit {SCHEMAS.name}, please report it"
            )
    return len(rows)


@cache
def _schema(name: str) -> Any:
    from jsonschema import Draft7Validator

    return Draft7Validator(read_json(SCHEMAS / f"{name}.schema.json"))


def _write(out: Path, collection: str, log: Log, samples: list[Log]) -> list[Path]:
    developer, _, model = log["model_info"]["id"].partition("/")
    name = str(uuid.UUID(bytes=hashlib.sha256(log["evaluation_id"].encode()).digest()[:16], version=4))
    folder, written = Path("data", collection, developer, model.replace("/", "_")), []
    if samples:
        place = folder / f"{name}_samples.jsonl"
        written.append(write_jsonl(out / place, samples))
        sums = {"hash_algorithm": "sha256", "checksum": sha256_file(out / place), "total_rows": len(samples)}
        log["detailed_evaluation_results"] = {"format": "jsonl", "file_path": place.as_posix(), **sums}
    written.append(write_text(out / folder / f"{name}.json", json.dumps(log, ensure_ascii=False, indent=1) + "\n"))
    for path in written:
        check(path)
    return written
