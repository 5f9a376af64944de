"""Fetches the published exams and checks every file against its SHA-256."""

from __future__ import annotations

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
SOURCES = {
    "IgakuQA": "jungokasai/IgakuQA/2bc4c3d159cf5505f6253d24a909fbd53237e239",
    "JJSIMQA": "aistairc/medLLM_QA_benchmark/614599e5042052a374fca74590a2dd95c80a56b3/data/ja/JJSIMQA",
}
EXAMS = ("igakuqa", "jjsimqa")
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Fetched:
    """What `ensure` found.

    Attributes:
        folder: Folder that holds `IgakuQA/` and `JJSIMQA/`.
        verified: Files whose SHA-256 is the published one.
        downloaded: Of these, how many came over the network just now.
        unlisted: Files of the years asked for that have no published sum, used as they are.
    """

    folder: Path
    verified: int
    downloaded: int
    unlisted: tuple[str, ...]

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


def url_of(name: str) -> str:
    """Public address of one upstream file."""
    root, _, rest = name.partition("/")
    return f"{BASE_URL}/{SOURCES[root]}/{rest}"


def wanted(exams: Iterable[str], years: Sequence[int] = ()) -> list[str]:
    """Names of the listed files that the exams need, for IgakuQA of the given years.

    Raises:
        JmedloraError: An exam is not one of `EXAMS`.
    """
    exams = list(exams)
    if unknown := sorted(set(exams) - set(EXAMS)):
        raise JmedloraError(f"no exam {unknown[0]!r} to fetch; known: {', '.join(EXAMS)}")
    below = ["JJSIMQA/"] if "jjsimqa" in exams else []
    if "igakuqa" in exams:
        below += [f"IgakuQA/{part}/{year}/" for part in ("data", "baseline_results") for year in years] + ["IgakuQA/scripts/"]
    return [name for name in sums() if name.startswith(tuple(below))] if below else []


def here(data_dir: Path | str | None = None) -> dict[str, str]:
    """The listed files that are on this machine, each with its published sum: what a step that reads examinations depends on.

    Looks at names only. A file whose content was changed is refused when it is read.
    """
    folder = Path(data_dir or paths.exam_data_dir())
    return {name: digest for name, digest in sums().items() if (folder / name).is_file()}


def available(exams: Iterable[str], years: Sequence[int] = (), data_dir: Path | str | None = None) -> bool:
    """Whether the questions of these exams and years are on this machine; asks no network."""
    folder = Path(data_dir or paths.exam_data_dir())
    exams = list(exams)
    jjsimqa = "jjsimqa" not in exams or (folder / "JJSIMQA" / "jjsimqa.jsonl").is_file()
    return jjsimqa and ("igakuqa" not in exams or all(any((folder / "IgakuQA" / "data" / str(y)).glob("*-?.jsonl")) for y in years))


def ensure(exams: Iterable[str], years: Sequence[int] = (), data_dir: Path | str | None = None, download: bool = True) -> Fetched:
    """Makes sure the files are there and unchanged, and downloads what is missing.

    A file that is there is verified too. A year without published sums is used as it is, with a notice.

    Args:
        exams: Of `EXAMS`.
        years: Years of IgakuQA.
        data_dir: Folder that holds `IgakuQA/` and `JJSIMQA/`; None takes `paths.exam_data_dir()`.
        download: False uses what is there; only a changed file is then refused.

    Raises:
        JmedloraError: A file was changed, or is missing and cannot be downloaded.
    """
    exams, folder = list(exams), Path(data_dir or paths.exam_data_dir())
    names = wanted(exams, years)
    present = [n for n in names if (folder / n).is_file()]
    for name in present:
        _verify(folder, name)
    missing = [n for n in names if not (folder / n).is_file()]
    if missing and download:
        _download(folder, missing)
    unlisted = tuple(
        str(p.relative_to(folder))
        for year in (years if "igakuqa" in exams else ())
        for part in ("data", "baseline_results")
        for p in sorted((folder / "IgakuQA" / part / str(year)).glob("*.jsonl"))
        if str(p.relative_to(folder)) not in sums()
    )
    downloaded = len(missing) if download else 0
    return Fetched(folder, len(present) + downloaded, downloaded, unlisted)


def verified(parts: Iterable[str], data_dir: Path | str | None = None) -> Path:
    """The folder of the exams, after its listed files below `parts` were found there and unchanged; asks no network.

    Args:
        parts: Beginnings of names in `sums`, such as `IgakuQA/data/2018/`. Files without a published sum are not looked at.
        data_dir: Folder that holds `IgakuQA/` and `JJSIMQA/`; None takes `paths.exam_data_dir()`.

    Raises:
        JmedloraError: A file was changed or is missing.
    """
    folder, below = Path(data_dir or paths.exam_data_dir()), tuple(parts)
    if absent := missing(below, folder):
        raise JmedloraError(_by_hand(folder, absent, "are not downloaded here; notebook 11 does that"))
    for name in (name for name in sums() if name.startswith(below)):
        _verify(folder, name)
    return folder


def missing(parts: Iterable[str], data_dir: Path | str | None = None) -> list[str]:
    """The listed files below `parts` that are not in the folder; see `verified`."""
    folder, below = Path(data_dir or paths.exam_data_dir()), tuple(parts)
    return [name for name in sums() if name.startswith(below) and not (folder / name).is_file()]


def _verify(folder: Path, name: str) -> None:
    found = sha256_file(folder / name)
    if found != sums()[name]:
        mend = "delete it and run this again to fetch the published file, or restore your copy"
        raise JmedloraError(f"{folder / name}: not the published file (SHA-256 expected {sums()[name]}, found {found}); {mend}")


def _download(folder: Path, missing: Sequence[str]) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    getter = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS)
    for name in progress(missing, f"Fetching {len(missing)} exam files"):
        try:
            target = folder / name
            pooch.retrieve(url_of(name), known_hash=sums()[name], path=target.parent, fname=target.name, downloader=getter)
        except (requests.RequestException, OSError) as error:
            why = f"could not be downloaded ({type(error).__name__})"
            raise JmedloraError(_by_hand(folder, missing[missing.index(name) :], why)) from error
        except ValueError as error:
            raise JmedloraError(f"{url_of(name)}: what came is not the published file, nothing was kept ({error})") from error


def _by_hand(folder: Path, missing: Sequence[str], why: str) -> str:
    """What is missing, where it comes from and how to bring it without a network."""
    roots = sorted({name.split("/")[0] for name in missing})
    shown = "\n".join(f"  {name}" for name in missing[:5]) + (f"\n  ... and {len(missing) - 5} more" if len(missing) > 5 else "")
    sources = "\n".join(f"  {root}/PATH  from  {BASE_URL}/{SOURCES[root]}/PATH" for root in roots)
    return (
        f"{len(missing)} exam files are missing in {folder} and {why}.\n"
        f"Missing:\n{shown}\nSources:\n{sources}\n"
        "By hand: on a machine with a network, clone the two repositories at these commits, copy the folders "
        f"{' and '.join(roots)} over, and name the folder that holds them: export JMEDLORA_DATA=/path/to/data "
        f"(now {os.environ.get('JMEDLORA_DATA', 'not set')}). They are verified when read. "
        "A year that you cannot get can be left out: the parameters years and check_years name the years."
    )
