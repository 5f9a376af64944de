"""Where things are: the one module that knows folders."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from jmedlora_utils.core.errors import JmedloraError

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
PRESETS = NOTEBOOKS / "presets"
BOOK = ROOT / "book"
RESULTS = BOOK / "results"
HTML = ROOT / "_build" / "html"
PACKAGE_DATA = PACKAGE / "resources"


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


def runs_root() -> Path:
    """Folder under which every preset writes; `JMEDLORA_RUNS` overrides it."""
    return _folder("JMEDLORA_RUNS", ROOT / "runs")


def exam_data_dir() -> Path:
    """Folder that holds the folders of the sources, `IgakuQA/`, `JJSIMQA/` and others; see `fetch.SOURCES`.

    `JMEDLORA_DATA` names a local copy; without it, the download cache of the project is used.
    """
    return _folder("JMEDLORA_DATA", ROOT / ".jmedlora_cache")


def weights_dir() -> Path:
    """Folder of models that came through the package index; `JMEDLORA_WEIGHTS` overrides it."""
    return _folder("JMEDLORA_WEIGHTS", ROOT / ".jmedlora_cache" / "models")


def fix_folders() -> None:
    """Makes the folders that the environment names absolute, because notebooks run in another working folder than the command."""
    for name in ("JMEDLORA_RUNS", "JMEDLORA_DATA", "JMEDLORA_WEIGHTS", "JMEDLORA_MODELS"):
        if given := os.environ.get(name):
            os.environ[name] = str(Path(given).expanduser().resolve())


def require_space(folder: Path, need: int, what: str, fix: str) -> None:
    """Refuses what the disk of a folder, which may not be there yet, cannot hold; `what` says how much it takes, of `need` bytes."""
    free = shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.is_dir())).free
    if need > free:
        raise JmedloraError(f"{what} and the disk of {folder} has {free / 1e9:.1f} GB free; {fix}")


def relative(path: Path | str) -> str:
    """The path as shown to a reader: from the repository root where it lies inside it."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


NAME = re.compile(r"[^\W_](?:[^\W_]|[.-]|_(?=[^\W_]))*")


def check_name(name: object, what: str) -> str:
    """A name that becomes a folder, a file and a word of a command, unchanged; `what` bears it, as the error calls it."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name.encode()) > 100:
        raise JmedloraError(
            f"{what} {name!r:.110}: a name has letters, digits, '.', '-' and single '_' between them, at most 100 bytes (33 kanji), "
            "and starts with a letter or a digit; choose another name"
        )
    return name


@dataclass(frozen=True)
class Workspace:
    """The folders of one preset at one seed: `runs/<preset>/seed<seed>/`."""

    preset: str
    seed: int

    def __post_init__(self) -> None:
        check_name(self.preset, "preset")

    @property
    def root(self) -> Path:
        return runs_root() / self.preset / f"seed{self.seed}"

    @property
    def data(self) -> Path:
        """Prepared data: `articles.jsonl`, `instructions/*.jsonl`, `exams/*.jsonl`."""
        return self.root / "data"

    @property
    def bases(self) -> Path:
        """Base models trained here, one folder each in the layout of `save_pretrained`."""
        return self.root / "bases"

    @property
    def adapters(self) -> Path:
        """One folder per tuning run, `checkpoint-<step>` inside."""
        return self.root / "adapters"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def answers(self) -> Path:
        """One JSONL per evaluation, one line per question."""
        return self.root / "answers"

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def logs(self) -> Path:
        return self.root / "logs"
