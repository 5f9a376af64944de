"""Run records: one small self-describing JSON per run, and the safe file writing behind it."""

import hashlib
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.identity import installed_version
from jmedlora_utils.core.settings import explain

SCHEMA_VERSION = 1
VOLATILE = ("created", "wall_seconds", "peak_memory_bytes", "git_commit", "git_dirty", "device", "versions", "timing")
PACKAGES = ("jmedlora", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "numpy", "pandas", "papermill")


@dataclass(config=ConfigDict(extra="forbid"))
class Record:
    """One run, described by itself."""

    kind: Literal["prepare", "pretrain", "tune", "evaluate", "texts", "score", "benchmark"]  #: What ran
    name: str  #: Name of the run; the file name derives from it
    preset: str  #: Name of the preset; analysis refuses `smoke`
    seed: int  #: Random seed of the run
    config: dict[str, Any] = field(default_factory=dict)  #: Every setting that shaped the result, JSON values only
    metrics: dict[str, Any] = field(default_factory=dict)  #: Final figures, or lists of rows (for example the loss series)
    counts: dict[str, Any] = field(default_factory=dict)  #: Whole numbers: rows read, rows left out and why, questions, parameters
    data: dict[str, str] = field(default_factory=dict)  #: Files read: name to SHA-256 or revision
    model: dict[str, Any] = field(default_factory=dict)  #: Base model and adapter: id, revision, architecture, parameters, quantisation
    timing: dict[str, float] = field(default_factory=dict)  #: Seconds per stage
    wall_seconds: float = 0.0  #: Seconds of the whole run
    peak_memory_bytes: int = 0  #: Peak memory of the device, or of the process on a CPU
    status: Literal["done", "failed", "cancelled"] = "done"
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str = ""
    git_dirty: bool = False
    created: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        self.versions = self.versions or package_versions()
        self.device = self.device or device_name()
        self.created = self.created or datetime.now(UTC).isoformat(timespec="seconds")
        if not self.git_commit:
            self.git_commit, self.git_dirty = git_state()

    def comparable(self) -> dict[str, Any]:
        """The record without what may differ between two equal runs: times, memory, machine, commit."""
        return {k: v for k, v in asdict(self).items() if k not in VOLATILE}


_RECORD = TypeAdapter(Record)


def write_record(folder: Path, record: Record) -> Path:
    """Writes `<folder>/<name>.json`, whole or not at all, and returns its path."""
    return write_json(folder / f"{record.name}.json", asdict(record), allow_nan=False)


def read_record(path: Path) -> Record:
    """Reads one record."""
    raw = read_json(path)
    if isinstance(raw, dict) and raw.get("schema_version") not in (None, SCHEMA_VERSION):
        raise JmedloraError(f"{path}: schema version {raw['schema_version']}, this code reads {SCHEMA_VERSION}; run its step again")
    try:
        return _RECORD.validate_python(raw)
    except ValidationError as error:
        raise JmedloraError(
            f"{path}: {explain(error, (f.name for f in fields(Record)))}; delete the file and run its step again"
        ) from error


def load_records(folders: Path | Sequence[Path], kind: str | None = None, allow_smoke: bool = False) -> list[Record]:
    """Reads the finished records below the folders, sorted by path."""
    folders = [folders] if isinstance(folders, Path) else list(folders)
    files = sorted(p for folder in folders for p in folder.rglob("*.json") if p.parent.name == "records")
    found = [read_record(p) for p in files]
    found = [r for r in found if (kind is None or r.kind == kind) and r.status == "done"]
    if not found:
        where = ", ".join(paths.relative(f) for f in folders)
        raise JmedloraError(f"no finished {kind or 'run'} record below {where}; run `make reproduce` first")
    smoke = [r.name for r in found if r.preset == "smoke"]
    if smoke and not allow_smoke:
        raise JmedloraError(f"{smoke[0]}: smoke runs test the code and are no evidence; point the analysis at another preset")
    return found


def write_text(path: Path, text: str, mode: int = 0o644) -> Path:
    """Writes a text file whole or not at all: to a temporary file beside it, then renamed; 0o600 keeps confidential text to its owner."""
    temporary = ""
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a write that fails in the block, as on a full disk, into one line that names the file or folder.

    torch and safetensors have errors of their own for that, which are known by their words.
    """
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if not isinstance(error, OSError) and not re.search(r"No space left|os error|[Ww]riter failed|failed writing", reason):
            raise
        raise JmedloraError(f"{path}: could not be written ({reason}); free some space or choose another folder, and run again") from error


def write_json(path: Path, value: Any, allow_nan: bool = True) -> Path:
    """Writes one JSON value, whole or not at all."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=allow_nan) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes one JSON object a line, whole or not at all."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line; blank lines are skipped."""
    return [row for _, row in iter_jsonl(path)]


HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, as an escape such as `\\ud83d` alone leaves it: no file can hold it."""


def iter_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(line number, object)`; see `read_jsonl`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise JmedloraError(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno}); fix or remove the line") from error
        if not isinstance(row, dict):
            raise JmedloraError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}; fix or remove the line")
        if ("\\ud" in line or "\\uD" in line) and HALF.search(json.dumps(row, ensure_ascii=False)):
            raise JmedloraError(f"{path}:{number}: half of a surrogate pair, such as \\ud83d alone; fix or remove the line")
        yield number, row


def read_json(path: Path) -> Any:
    """Reads one JSON file; see `read_text`."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise JmedloraError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); fix the line, or delete the file and make it again"
        ) from error


class _NoDuplicateKeys(yaml.SafeLoader):
    """Refuses duplicate keys in a mapping, of which PyYAML silently keeps the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping, perhaps an empty one; see `read_text`."""
    where = paths.relative(path)
    try:
        found = yaml.load(read_text(path), Loader=_NoDuplicateKeys) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise JmedloraError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', error)}); correct the line") from error
    if not isinstance(found, dict):
        raise JmedloraError(f"{where}: a mapping of names to values is expected, found {type(found).__name__}; correct the file")
    return found


def read_text(path: Path) -> str:
    """Reads a text file in UTF-8, with or without a byte order mark."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise JmedloraError(f"{path}: no such file") from error
    except OSError as error:
        raise JmedloraError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JmedloraError(f"{path}:{line}: not UTF-8; save the file as UTF-8 (from Shift_JIS: iconv -f CP932 -t UTF-8)") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape results, and of Python."""
    return {"python": platform.python_version()} | {name: installed_version(name) for name in PACKAGES}


def git_state() -> tuple[str, bool]:
    """Commit of the working tree and whether it has uncommitted changes; ("", False) outside git.

    A preset's run asks once and hands the answer to its notebooks, so that all its records name one commit.
    """
    if "JMEDLORA_GIT_COMMIT" in os.environ:
        return os.environ["JMEDLORA_GIT_COMMIT"], os.environ.get("JMEDLORA_GIT_DIRTY") == "1"

    def git(*args: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(paths.ROOT), *args], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # git is not installed
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))


def device_name() -> str:
    """The accelerator if torch is loaded and sees one, else the processor and its core count."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


class Meter:
    """Measures a run: seconds per stage, whole seconds and peak memory of the device or the process."""

    def __init__(self) -> None:
        self.timing: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to `timing[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timing[name] = round(self.timing.get(name, 0.0) + time.perf_counter() - start, 3)

    @property
    def wall_seconds(self) -> float:
        return round(time.perf_counter() - self._start, 3)

    def fields(self) -> dict[str, Any]:
        """The measured fields, ready for `Record(**meter.fields())`."""
        return {"timing": self.timing, "wall_seconds": self.wall_seconds, "peak_memory_bytes": peak_memory_bytes()}


def peak_memory_bytes() -> int:
    """Peak bytes allocated on the GPU where torch sees one, else the peak resident size of the process."""
    import resource
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
