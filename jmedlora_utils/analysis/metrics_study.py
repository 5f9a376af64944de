"""What the metrics do to real questions: responses of known content, published answers, and points of the examination.

Everything is a table of numbers and question ids, so the results can be committed although the questions cannot.
`python -m jmedlora_utils.analysis.metrics_study freeze` computes them from the published exams and writes the committed evidence.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import exam_card, known_responses
from jmedlora_utils.analysis.known_responses import REASON, RULES, drop_characters, score_responses, unrelated_answers
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError, exit_status
from jmedlora_utils.core.manifest import check_manifest, write_manifest
from jmedlora_utils.core.records import package_versions, write_text
from jmedlora_utils.data import fetch
from jmedlora_utils.data.igakuqa import SYSTEMS, load_igakuqa, load_published
from jmedlora_utils.data.jjsimqa import load_jjsimqa
from jmedlora_utils.data.prompts import SEPARATOR, answer_text
from jmedlora_utils.data.questions import Question, select_text_five

EXAM_NAMES = {"igakuqa": "IgakuQA", "jjsimqa": "JJSIMQA"}
TABLES = ("levels", "picks", "damage", "changes", "agreement", "disagreements", "rule_pairs", "system_pairs", "exam", "passing")
SOURCES = ("auto", "committed", "data")
YEARS = (2018, 2019, 2020, 2021)
FOLDER = paths.RESULTS / "metrics"
CHANGES_EVERY = 4
"""`changes` asks every fourth question, which keeps the whole study to about a minute."""

Published = Mapping[str, Mapping[str, str]]
"""System to question id to its published answer, which is letters."""


@dataclass(frozen=True)
class MetricsStudy:
    """All results of the study."""

    origin: str  #: `committed` or `data`
    tables: Mapping[str, pd.DataFrame]  #: One frame for each of `TABLES`
    about: Mapping[str, Any]  #: Years, numbers of questions, day, versions

    def source_line(self, exams: Sequence[str] = ("igakuqa", "jjsimqa")) -> str:
        """Where the numbers come from, for the foot of a table that uses these exams."""
        asked = " and ".join(f"{self.about['questions'][exam]:,} questions of {EXAM_NAMES[exam]}" for exam in exams)
        kind = "committed evidence" if self.origin == "committed" else "computed by this run"
        return f"{asked}; {kind}, {self.about['created'][:10]}"

    def at(self, table: str, **where: Any) -> pd.Series:
        """The one row of a table with these values.

        Raises:
            JmedloraError: No row, or several, fit.
        """
        frame = self.tables[table]
        found = frame[(frame[list(where)] == pd.Series(where)).all(axis=1)]
        if len(found) != 1:
            raise JmedloraError(f"table {table}: {len(found)} rows with {where}, expected one; correct the values")
        return found.iloc[0]


# --- published answers --------------------------------------------------------------------------------------------


def as_text(question: Question, prediction: str) -> str:
    """A published answer, which is letters, as a response in words: the texts of its choices; empty if it names none."""
    letters = [p.strip() for p in prediction.split(",") if p.strip() in tuple(question.letters)]
    return SEPARATOR.join(question.choice(x) for x in letters)


def marks_by_letters(questions: Sequence[Question], answers: Mapping[str, str]) -> dict[str, exam_card.Marked]:
    """The published mark of one system on some of the questions that it answered."""
    return exam_card.mark_published(questions, {q.id: answers.get(q.id, "") for q in questions})


def published_outcomes(questions: Sequence[Question], published: Published) -> pd.DataFrame:
    """Published answers as choice texts under every rule, beside their mark by letters: `score_responses` and `system, marked`."""
    frames = []
    for system, answers in published.items():
        marked = marks_by_letters(questions, answers)
        scored = score_responses(questions, [as_text(q, answers.get(q.id, "")) for q in questions])
        frames.append(scored.assign(system=system, marked=scored["id"].map({name: float(m.right) for name, m in marked.items()})))
    return pd.concat(frames, ignore_index=True)


def agreement(scored: pd.DataFrame) -> pd.DataFrame:
    """How far each rule agrees with the mark by letters.

    Returns:
        Columns `system, rule, n`, the means `marked, accuracy, exact_match, gestalt` and, where the mark is right or wrong,
        `gestalt_right, gestalt_wrong`; `credited` and `refused` count questions that only the rule, or only the mark, gives.
    """
    columns = ["marked", "accuracy", "exact_match", "gestalt"]
    right = scored["marked"] == 1
    parts = {"gestalt_right": scored["gestalt"].where(right), "gestalt_wrong": scored["gestalt"].where(~right)}
    parts |= {"credited": scored["accuracy"].where(~right, 0), "refused": (1 - scored["accuracy"]).where(right, 0)}
    grouped = scored.assign(**parts).groupby(["system", "rule"], sort=False)
    counts = grouped[["credited", "refused"]].sum().astype(int)
    found = pd.concat([grouped.size().rename("n"), grouped[[*columns, "gestalt_right", "gestalt_wrong"]].mean(), counts], axis=1)
    return found.reset_index()


def disagreements(scored: pd.DataFrame) -> pd.DataFrame:
    """Published answers on which the rules, or a rule and the mark, differ: `id, system, marked` and one column per rule."""
    wide = scored.pivot(index=["id", "system", "marked"], columns="rule", values="accuracy").reset_index()
    wide = wide[["id", "system", "marked", *RULES]].rename_axis(columns=None)
    odd = wide[wide[["marked", *RULES]].nunique(axis=1) > 1]
    return odd.sort_values(["id", "system"], ignore_index=True).astype({c: int for c in ("marked", *RULES)})


def rule_pairs(questions: Sequence[Question], scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of questions on which two rules differ in Accuracy, for four kinds of response.

    Returns:
        Columns `response, first, second, differ, n`.
    """
    rng = random.Random(seed)
    one = [q for q in questions if q.n_select == 1]
    kinds = {
        "published answers": scored,
        "right, 30 % of characters lost": score_responses(one, [drop_characters(answer_text(q), 0.3, rng) for q in one]),
        "right, with a reason": score_responses(one, [f"{answer_text(q)}。{REASON}" for q in one]),
        "unrelated answer": score_responses(one, unrelated_answers(one, rng)),
    }
    rows = []
    for name, frame in kinds.items():
        wide = frame.pivot(index=["id", "system"] if "system" in frame else ["exam", "id"], columns="rule", values="accuracy")
        for first, second in combinations(RULES, 2):
            rows.append((name, first, second, float((wide[first] != wide[second]).mean()), len(wide)))
    return pd.DataFrame(rows, columns=["response", "first", "second", "differ", "n"])


def system_pairs(questions: Sequence[Question], published: Published) -> pd.DataFrame:
    """Every two published systems on the same questions, marked by letters.

    Returns:
        Columns `first, second, n, right_first, right_second, difference, low, high, discordant, p`; shares 0 to 1.
    """
    marks = {system: marks_by_letters(questions, answers) for system, answers in published.items()}
    right = {system: np.array([float(marked[q.id].right) for q in questions]) for system, marked in marks.items()}
    rows = []
    for first, second in combinations(right, 2):
        a, b = right[first], right[second]
        interval, test = statistics.paired_bootstrap([a], [b]), statistics.mcnemar_exact(a, b)
        rows.append((first, second, test.n, a.mean(), b.mean(), *interval, (test.gained + test.lost) / test.n, test.p))
    columns = ["first", "second", "n", "right_first", "right_second", "difference", "low", "high", "discordant", "p"]
    return pd.DataFrame(rows, columns=columns)


# --- points of the examination ------------------------------------------------------------------------------------


def exam_points(questions: Sequence[Question], published: Published) -> pd.DataFrame:
    """Accuracy on the text-only five-choice questions beside the points of the whole examination, per system and year.

    Returns:
        Columns `system, year, accuracy, n, text_points, image_accuracy, image_n, points, max_points, required, general, passed`;
        `text_points` is the share of the points of the text questions.
    """
    rows = []
    for system, answers in published.items():
        marked = marks_by_letters(questions, answers)
        for row in exam_card.card(questions, marked, system).itertuples():
            of_year = [q for q in questions if q.year == row.year]
            text, image = select_text_five(of_year)[0], [q for q in of_year if not q.text_only]
            right = {name: sum(marked[q.id].right for q in group) for name, group in (("text", text), ("image", image))}
            text_points = sum(q.points for q in text if marked[q.id].right) / sum(q.points for q in text)
            about = (system, row.year, right["text"] / len(text), len(text), text_points, right["image"] / len(image), len(image))
            rows.append((*about, row.points, row.max_points, row.required, row.general, row.passed))
    columns = ["system", "year", "accuracy", "n", "text_points", "image_accuracy", "image_n"]
    return pd.DataFrame(rows, columns=[*columns, "points", "max_points", "required", "general", "passed"])


def passing(questions: Sequence[Question], rates: Sequence[float] = tuple(np.round(np.arange(0.5, 1.0, 0.01), 2))) -> pd.DataFrame:
    """Probability to reach both marks for a candidate who is right on every item with the same probability.

    Exact: the distributions of a block's items, one convolved with the other.
    Prohibited choices are left out, so the true probability is lower.

    Returns:
        Columns `year, rate, required, general, both`.
    """
    marks, rows = exam_card.pass_marks(), []
    for year in sorted({q.year for q in questions if q.year in marks.index}):
        of_year = [q for q in questions if q.year == year]
        for rate in rates:
            reach = []
            for block in ("required", "general"):
                points = [q.points for q in of_year if exam_card.is_required(q) == (block == "required")]
                reach.append(float(points_distribution(points, rate)[int(marks.loc[year, f"{block}_mark"]) :].sum()))
            rows.append((year, rate, *reach, reach[0] * reach[1]))
    return pd.DataFrame(rows, columns=["year", "rate", "required", "general", "both"])


def points_distribution(points: Sequence[float], rate: float) -> np.ndarray:
    """Distribution of the points of items that are each right with the same probability; shape (sum of points + 1,)."""
    pmf = np.ones(1)
    for value in np.asarray(points, int):
        # One item after the other: scipy's binomial overflows at rates near the smallest float.
        item = np.zeros(value + 1)
        item[0] += 1 - rate
        item[value] += rate
        pmf = np.convolve(pmf, item)
    return pmf


# --- the whole study ----------------------------------------------------------------------------------------------


def compute(years: Sequence[int] = YEARS, data_dir: Path | None = None) -> MetricsStudy:
    """Runs every study on the exams of `data_dir` (None: `paths.exam_data_dir()`).

    Raises:
        JmedloraError: Questions or published answers are missing.
    """
    folder = data_dir or paths.exam_data_dir()
    everything = load_igakuqa(folder, years)
    igakuqa, _ = select_text_five(everything)
    jjsimqa, _ = select_text_five(load_jjsimqa(folder))
    both = [*igakuqa, *jjsimqa]
    published = {system: load_published(folder, years, system) for system in SYSTEMS}
    scored = published_outcomes(igakuqa, published)
    tables = {
        "levels": known_responses.levels(both),
        "picks": known_responses.picks(both),
        "damage": known_responses.damage(both),
        "changes": known_responses.changes(both[::CHANGES_EVERY]),
        "agreement": agreement(scored),
        "disagreements": disagreements(scored),
        "rule_pairs": rule_pairs(igakuqa, scored),
        "system_pairs": system_pairs(igakuqa, published),
        "exam": exam_points(everything, published),
        "passing": passing(everything),
    }
    about = {
        "years": list(years),
        "questions": {"igakuqa": len(igakuqa), "jjsimqa": len(jjsimqa)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {k: v for k, v in package_versions().items() if k in ("jmedlora", "numpy", "pandas")},
    }
    return MetricsStudy("data", tables, about)


def write(study: MetricsStudy, folder: Path = FOLDER) -> list[Path]:
    """Writes every table as CSV and `about.json`: numbers and ids, no text of a question."""
    written = [write_text(folder / f"{name}.csv", study.tables[name].to_csv(index=False, float_format="%.6g")) for name in TABLES]
    written.append(write_text(folder / "about.json", json.dumps(dict(study.about), indent=1) + "\n"))
    return [*written, write_manifest(folder)]


def read(folder: Path = FOLDER) -> MetricsStudy:
    """Reads what `write` wrote.

    Raises:
        JmedloraError: A file is missing or differs from the manifest.
    """
    if missing := [name for name in (*(f"{t}.csv" for t in TABLES), "about.json") if not (folder / name).is_file()]:
        fix = "run `python -m jmedlora_utils.analysis.metrics_study freeze` where the exams are"
        raise JmedloraError(f"{paths.relative(folder / missing[0])} is missing; {fix}")
    check_manifest(folder)
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
    tables["picks"]["variant"] = tables["picks"]["variant"].fillna("")
    return MetricsStudy("committed", tables, json.loads((folder / "about.json").read_text(encoding="utf-8")))


def load(source: str, years: Sequence[int] = YEARS) -> MetricsStudy:
    """The study from one of `SOURCES`: `data` computes it, `committed` reads it, `auto` computes it where the exams are.

    Raises:
        JmedloraError: The source is unknown, or an exam file was changed, or is missing and cannot be downloaded.
    """
    if source not in SOURCES:
        raise JmedloraError(f"source {source!r} is not one of {', '.join(SOURCES)}; correct it")
    exams = list(EXAM_NAMES)
    if source == "committed" or (source == "auto" and not fetch.available(exams, years)):
        study = read()
        if sorted(years) != study.about["years"]:
            raise JmedloraError(f"the committed study is of {study.about['years']}, not of {list(years)}; use source 'data'")
        return study
    fetch.ensure(exams, years)
    return compute(years)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `freeze`."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.analysis.metrics_study", description="The study of the metrics.")
    parser.add_argument("command", choices=["freeze"], help="compute from the exams and write book/results/metrics/")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="write there instead")
    chosen = parser.parse_args(arguments)
    return exit_status(lambda: _freeze(chosen.folder))


def _freeze(folder: Path) -> None:
    written = write(compute(), folder)
    print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e3:.0f} kB in {paths.relative(folder)}")


if __name__ == "__main__":
    sys.exit(main())
