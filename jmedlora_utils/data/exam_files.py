"""The exams of a workspace: collected, written in the schema, summed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import fetch
from jmedlora_utils.data.exams import (
    EXCLUSIONS,
    Question,
    errata,
    load_igakuqa,
    load_jjsimqa,
    load_worked_examples,
    read_exam,
    select_text_five,
    summary,
    write_exam,
)

if TYPE_CHECKING:
    import pandas as pd

EXAMS = ("mini", "igakuqa", "jjsimqa")
SHOTS = "_shots"


@dataclass(frozen=True)
class Collected:
    """Exams ready to be written.

    Attributes:
        exams: Name to every question of the exam.
        asked: Name to the questions a text model is asked: all of a mini exam, the text-only five-choice ones of a real one.
        shots: Name to worked examples, none of which is a question of the exam.
        notices: What was verified, fetched or skipped.
    """

    exams: dict[str, list[Question]] = field(default_factory=dict)
    asked: dict[str, list[Question]] = field(default_factory=dict)
    shots: dict[str, list[Question]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def collect(workspace: paths.Workspace, exams: Sequence[str], years: Sequence[int], language: str, on_missing: str) -> Collected:
    """Reads the exams, real ones from files that are fetched and verified first.

    Args:
        workspace: Where notebook 10 has written the mini exams.
        exams: Of `EXAMS`.
        years: Years of IgakuQA.
        language: `ja` or `en`, of IgakuQA.
        on_missing: `error`: download what is missing, and stop where that fails. `skip`: no download, an exam that is not
            there is left out with a notice.

    Raises:
        JmedloraError: An exam or `on_missing` is unknown, or an exam is missing or malformed.
        JmedloraError: A file was changed, or is missing and cannot be downloaded.
    """
    if unknown := sorted(set(exams) - set(EXAMS)):
        raise JmedloraError(f"parameter exams names {unknown[0]!r}; known: {', '.join(EXAMS)}")
    if on_missing not in ("error", "skip"):
        raise JmedloraError(f"parameter on_missing is {on_missing!r}; it takes 'error' or 'skip'")
    found = Collected()
    for exam in exams:
        if exam == "mini":
            _collect_mini(workspace, found, on_missing)
        elif on_missing == "skip" and not fetch.available([exam], years):
            found.notices.append(f"{exam} is not on this machine and on_missing is 'skip': left out.")
        else:
            _collect_real(exam, years, language, found, on_missing == "error")
    return found


def _collect_mini(workspace: paths.Workspace, found: Collected, on_missing: str) -> None:
    files = sorted((workspace.data / "exams").glob("mini_*.jsonl"))
    if not files:
        problem = f"no mini exam below {paths.relative(workspace.data / 'exams')}; run notebook 10_prepare_instructions first"
        if on_missing == "error":
            raise JmedloraError(problem)
        found.notices.append(problem)
    for path in files:
        if path.stem.endswith(SHOTS):
            found.shots[path.stem.removesuffix(SHOTS)] = read_exam(path)
        else:
            found.exams[path.stem] = found.asked[path.stem] = read_exam(path)


def _collect_real(exam: str, years: Sequence[int], language: str, found: Collected, download: bool) -> None:
    fetched = fetch.ensure([exam, "igakuqa"], years if exam == "igakuqa" else (), download=download)
    name = f"{exam}_en" if exam == "igakuqa" and language == "en" else exam
    questions = load_igakuqa(fetched.folder, years, language) if exam == "igakuqa" else load_jjsimqa(fetched.folder)
    found.notices.append(f"{name}: {fetched.notice()}")
    found.exams[name] = questions
    found.asked[name], _ = select_text_five(questions)
    # JJSIMQA has no worked examples of its own; those of the national examination are no test question of either.
    shots = load_worked_examples(fetched.folder, language if exam == "igakuqa" else "ja")
    if shared := {q.text for q in shots} & {q.text for q in questions}:
        raise JmedloraError(f"{name}: a worked example is a test question ({min(shared)[:20]}...); leave it out of the shots")
    found.shots[name] = shots


def write_collected(workspace: paths.Workspace, found: Collected) -> list[Path]:
    """Writes `data/exams/<exam>.jsonl` (what models are asked), `<exam>_full.jsonl` and `<exam>_shots.jsonl`.

    The mini exams are left as notebook 10 wrote them.
    """
    written = []
    folder = workspace.data / "exams"
    for name, questions in found.exams.items():
        if not name.startswith("mini_"):
            written.append(write_exam(folder / f"{name}.jsonl", found.asked[name]))
            written.append(write_exam(folder / f"{name}_full.jsonl", questions))
            written.append(write_exam(folder / f"{name}{SHOTS}.jsonl", found.shots[name]))
    return written


def overview(exams: Mapping[str, Sequence[Question]]) -> pd.DataFrame:
    """Counts of every exam, one row a year where it has years, and a row for all of them."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for name, questions in exams.items():
        years = sorted({q.year for q in questions if q.year is not None})
        for year in years if len(years) > 1 else []:
            rows.append({"exam": name, "year": str(year), **summary([q for q in questions if q.year == year])})
        rows.append({"exam": name, "year": "all" if len(years) != 1 else str(years[0]), **summary(questions)})
    return pd.DataFrame(rows)


def exclusion_table(exams: Mapping[str, Sequence[Question]], asked: Mapping[str, Sequence[Question]]) -> pd.DataFrame:
    """Per exam: questions, how many were left out for which reason, and how many are asked."""
    import pandas as pd

    rows = []
    for name, questions in exams.items():
        reasons = dict.fromkeys(EXCLUSIONS, 0) if name.startswith("mini_") else select_text_five(questions)[1]
        rows.append({"exam": name, "questions": len(questions), **reasons, "asked": len(asked[name])})
    return pd.DataFrame(rows)


def errata_table(exams: Mapping[str, Sequence[Question]]) -> pd.DataFrame:
    """Known errata present in the exams and how each is handled; columns `exam, erratum, count, questions, handling`."""
    import pandas as pd

    rows = [{"exam": name, **row} for name, questions in exams.items() for row in errata(questions)]
    return pd.DataFrame(rows, columns=["exam", "erratum", "count", "questions", "handling"])


def baseline_table(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy of the baselines of several exams in percent: one row an exam and baseline, one column a scorer."""
    import pandas as pd

    rows = []
    for name, frame in parts.items():
        for baseline, of_baseline in frame.groupby("baseline", sort=False):
            shares = {row.scorer: f"{100 * row.accuracy:.1f}" for row in of_baseline.itertuples()}
            rows.append({"exam": name, "n": int(frame["n"].iloc[0]), "baseline": baseline, **shares})
    return pd.DataFrame(rows)
