"""Fetches the published examinations from pinned commits and checks every file against its SHA-256."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import progress
from jmedlora_utils.core.records import sha256_file

BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Source:
    """A pinned public repository of questions; its files are those that `SHA256SUMS` lists below `folder`."""

    exam: str  #: Name of the exam it holds
    folder: str  #: Folder that its files have below the data folder
    repository: str  #: Owner and name on GitHub
    commit: str  #: The pinned commit
    path: str = ""  #: Folder of the files inside the repository; empty for its root
    yearly: tuple[str, ...] = ()  #: Folders with one subfolder per year, of which only the years asked for are fetched
    questions: tuple[str, ...] = ()  #: Beginnings of the names of what asking the questions needs; empty where that is everything

    @property
    def url(self) -> str:
        """Public address of the folder that holds its files."""
        return "/".join(part for part in (BASE_URL, self.repository, self.commit, self.path) if part)

    def parts(self, answers: bool = True) -> tuple[str, ...]:
        """Beginnings of the names of its files: all of them, or without the published answers where those stand apart."""
        return (f"{self.folder}/",) if answers or not self.questions else tuple(f"{self.folder}/{part}" for part in self.questions)

    def files(self, years: Sequence[int] = (), answers: bool = True) -> list[str]:
        """Listed files of these years, and those that belong to no year, as names below the data folder; see `parts`."""
        of_years = tuple(f"{self.folder}/{part}/{year}/" for part in self.yearly for year in years)
        any_year = tuple(f"{self.folder}/{part}/" for part in self.yearly)
        listed = [name for name in sums() if name.startswith(self.parts(answers))]
        return [name for name in listed if name.startswith(of_years) or not name.startswith(any_year)]


SOURCES = (
    Source("igakuqa", "IgakuQA", "jungokasai/IgakuQA", "2bc4c3d159cf5505f6253d24a909fbd53237e239", "", ("data", "baseline_results")),
    Source("jjsimqa", "JJSIMQA", "aistairc/medLLM_QA_benchmark", "614599e5042052a374fca74590a2dd95c80a56b3", "data/ja/JJSIMQA"),
    Source(
        "igakuqa119",
        "IgakuQA119",
        "docto-rin/IgakuQA119",
        "2d942397cbaa1031ca139184bc4af16e1ffa202d",
        questions=("questions/", "results/correct_answers.csv"),
    ),
    Source(
        "jmle2026",
        "JMLE2026-Bench",
        "naoto-iwase/JMLE2026-Bench",
        "76c4b29475d3008072a77a091a0d27df049dadcd",
        questions=("jmle2026_dataset.json",),
    ),
)
EXAMS = tuple(source.exam for source in SOURCES)


@dataclass(frozen=True)
class Fetched:
    """What `ensure` found."""

    folder: Path  #: Folder that holds the folders of the sources
    verified: int  #: Files whose SHA-256 is the published one
    downloaded: int  #: Of these, how many came over the network just now
    unlisted: tuple[str, ...]  #: Files of the years asked for that have no published sum, used as they are

    def notice(self) -> str:
        """One paragraph for the reader."""
        text = f"{self.verified} files verified against their SHA-256, {self.downloaded} of them downloaded now."
        if self.unlisted:
            text += f" Notice: {len(self.unlisted)} files have no published sum and are used as they are, first {self.unlisted[0]}."
        return text


@cache
def sums() -> dict[str, str]:
    """Published SHA-256 of every upstream file: path below the data folder to hexadecimal digest."""
    lines = (paths.PACKAGE_DATA / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def source_of(exam: str) -> Source:
    """The source of an exam."""
    for source in SOURCES:
        if source.exam == exam:
            return source
    raise JmedloraError(f"no exam {exam!r} to fetch; known: {', '.join(EXAMS)}")


def url_of(name: str) -> str:
    """Public address of one listed file."""
    folder, _, rest = name.partition("/")
    return f"{next(source for source in SOURCES if source.folder == folder).url}/{rest}"


def here(data_dir: Path | str | None = None) -> dict[str, str]:
    """The listed files that are on this machine, each with its published sum: what a step that reads examinations depends on.

    Looks at names only. A file whose content was changed is refused when it is read.
    """
    folder = Path(data_dir or paths.exam_data_dir())
    return {name: digest for name, digest in sums().items() if (folder / name).is_file()}


def available(exams: Iterable[str], years: Sequence[int] = (), data_dir: Path | str | None = None, answers: bool = True) -> bool:
    """Whether these exams and years are on this machine, also years without published sums; asks no network. See `Source.parts`."""
    folder = Path(data_dir or paths.exam_data_dir())
    for source in map(source_of, exams):
        if source.yearly:
            if not all(any((folder / source.folder / source.yearly[0] / str(year)).glob("*-?.jsonl")) for year in years):
                return False
        elif missing(source.parts(answers), folder):
            return False
    return True


def ensure(
    exams: Iterable[str], years: Sequence[int] = (), data_dir: Path | str | None = None, download: bool = True, answers: bool = True
) -> Fetched:
    """Makes sure the files are there and unchanged, and downloads what is missing.

    A file that is there is verified too. A year of IgakuQA without published sums is used as it is, with a notice. Without `download`
    what is there is used, and only a changed file is refused. `answers`: whether published answers that stand apart from the questions
    are needed too (`Source.parts`).
    """
    sources, folder = [source_of(exam) for exam in exams], Path(data_dir or paths.exam_data_dir())
    names = [name for source in sources for name in source.files(years, answers)]
    absent = [name for name in names if not (folder / name).is_file()]
    _verify(folder, [name for name in names if name not in absent])
    if download and absent:
        if os.environ.get("JMEDLORA_DATA") and not folder.is_dir():
            raise JmedloraError(f"JMEDLORA_DATA: {folder} is not a folder; correct it, or make the folder to have the files put there")
        _download(folder, absent)
    there = (
        path.relative_to(folder).as_posix()
        for source in sources
        for part in source.yearly
        for year in years
        for path in sorted((folder / source.folder / part / str(year)).glob("*.jsonl"))
    )
    downloaded = len(absent) if download else 0
    return Fetched(folder, len(names) - len(absent) + downloaded, downloaded, tuple(name for name in there if name not in sums()))


def verified(parts: Iterable[str], data_dir: Path | str | None = None) -> Path:
    """The folder of the exams, after its listed files below `parts` were found there and unchanged; asks no network.

    `parts` are beginnings of names in `sums`, such as `IgakuQA/data/2018/`. Files without a published sum are not looked at.
    """
    folder, below = Path(data_dir or paths.exam_data_dir()), tuple(parts)
    if absent := missing(below, folder):
        raise JmedloraError(_by_hand(folder, absent, "are not downloaded here; notebook 11 does that"))
    _verify(folder, [name for name in sums() if name.startswith(below)])
    return folder


def missing(parts: Iterable[str], data_dir: Path | str | None = None) -> list[str]:
    """The listed files below `parts` that are not in the folder; see `verified`."""
    folder, below = Path(data_dir or paths.exam_data_dir()), tuple(parts)
    return [name for name in sums() if name.startswith(below) and not (folder / name).is_file()]


def _verify(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        found = sha256_file(folder / name)
        if found != sums()[name]:
            fix = "delete it and run this again to fetch the published file, or restore your copy"
            raise JmedloraError(f"{folder / name}: not the published file (SHA-256 expected {sums()[name]}, found {found}); {fix}")


def _download(folder: Path, names: Sequence[str]) -> None:
    import pooch

    pooch.get_logger().setLevel("ERROR")
    getter = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
    for i, name in enumerate(progress(names, f"Fetching {len(names)} exam files")):
        try:
            target = folder / name
            pooch.retrieve(url_of(name), known_hash=sums()[name], path=target.parent, fname=target.name, downloader=getter)
        except OSError as error:  # every error of requests is one
            raise JmedloraError(_by_hand(folder, names[i:], f"could not be downloaded ({type(error).__name__})")) from error
        except ValueError as error:
            raise JmedloraError(f"{url_of(name)}: what came is not the published file, nothing was kept ({error})") from error


def _by_hand(folder: Path, names: Sequence[str], why: str) -> str:
    """What is missing, where it comes from and how to bring it without a network."""
    folders = {name.split("/")[0] for name in names}
    shown = "\n".join(f"  {name}" for name in names[:5]) + (f"\n  ... and {len(names) - 5} more" if len(names) > 5 else "")
    sources = "\n".join(f"  {source.folder}/PATH  from  {source.url}/PATH" for source in SOURCES if source.folder in folders)
    return (
        f"{len(names)} exam files are missing in {folder} and {why}.\n"
        f"Missing:\n{shown}\nSources:\n{sources}\n"
        "By hand: on a machine with a network, clone these repositories at these commits, copy the folders "
        f"{' and '.join(sorted(folders))} over, and name the folder that holds them: export JMEDLORA_DATA=/path/to/data "
        f"(now {os.environ.get('JMEDLORA_DATA', 'not set')}). They are verified when read. "
        "A year that you cannot get can be left out: the parameters years and check_years name the years."
    )
