"""Committed evidence: a finished run, small enough to commit, with a manifest of sums that is checked whenever it is read.

`python -m jmedlora_utils freeze --preset mini-seeds` turns a finished run into committed evidence.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import gains, scores
from jmedlora_utils.analysis.studies import (
    CONDITION,
    LIKELIHOOD,
    METRICS,
    QUESTION,
    Study,
    compact,
    evaluation_of,
    evaluations,
    read_runs,
)
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.manifest import check_manifest, write_manifest
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import Record, load_records, read_jsonl, read_record, write_jsonl, write_record, write_text
from jmedlora_utils.data.exam_files import INVENTED_EXAMS

SOURCES = ("auto", "committed", "run")
SERIES_POINTS = 60
LIKELIHOODS = "likelihood.csv"
TEXTS = ["text", "choices"]


def load_study(preset: str, source: str = "committed") -> Study:
    """Reads a study from committed evidence or from the run folders.

    Args:
        preset: A preset of `notebooks/presets/`. `mini` and `mini-seeds` share their evidence.
        source: `committed` (`book/results/<name>/`), `run` (`runs/<preset>/`), or `auto`: committed where it exists.

    Raises:
        JmedloraError: `source` is unknown, or its results are missing or damaged.
    """
    return read_evidence(evidence_folder(preset)) if is_committed(preset, source) else read_runs(preset)


def is_committed(preset: str, source: str) -> bool:
    """Whether `load_study` reads committed evidence for these two."""
    if source not in SOURCES:
        raise JmedloraError(f"source {source!r} is not one of {', '.join(SOURCES)}; correct it")
    return source == "committed" or (source == "auto" and has_evidence(preset))


def evidence_folder(preset: str) -> Path:
    """Where the committed evidence of a preset lies: `mini-seeds` goes to `book/results/mini/`."""
    return paths.RESULTS / preset.removesuffix("-seeds")


def has_evidence(preset: str) -> bool:
    """Whether evidence of a preset is committed."""
    return (evidence_folder(preset) / "evidence.json").is_file()


def refuse_smoke(preset: str) -> None:
    """Refuses the preset smoke.

    Raises:
        JmedloraError: It is smoke.
    """
    if preset == "smoke":
        raise JmedloraError("preset smoke: its runs test the code and are no evidence; freeze another preset, such as mini-seeds")


def check_finished(preset: str, seeds: Sequence[int] = ()) -> None:
    """Refuses what is no evidence: runs of the preset smoke, and half of a run.

    Raises:
        JmedloraError: The preset is smoke, or a seed lacks an evaluation, or a loss on texts, that the preset asks for.
    """
    refuse_smoke(preset)
    settings = load_preset(preset)
    texts = {run.name for run in settings.runs if run.evaluate.get("texts")}
    for seed in seeds or settings.seeds:
        records = load_records(paths.Workspace(preset, seed).root, allow_smoke=True)
        done = {evaluation_of(r) for r in records if r.kind == "evaluate"}
        if missing := sorted(evaluations(settings) - done):
            run, step, exam, shots = missing[0]
            raise JmedloraError(
                f"preset {preset!r}, seed {seed}: not every evaluation is there ({len(missing)} missing; first: {run}, step {step}, "
                f"on {exam}, {shots}-shot); run the seed to its end, then freeze it"
            )
        if unread := sorted(texts - {r.config["run_name"] for r in records if r.kind == "texts"}):
            raise JmedloraError(f"preset {preset!r}, seed {seed}: no loss on texts of {', '.join(unread)}; run the seed to its end")


def freeze(preset: str, folder: Path | None = None, seeds: Sequence[int] = (), add: bool = False) -> list[Path]:
    """Writes the evidence of a finished run, small enough to commit: no weights, no machine paths.

    For each seed the trimmed records of preparing, pretraining and tuning, the exam's questions, and one line per condition with
    every question's outcome. Texts are kept for invented exams alone, and for the first seed only: its questions, and the answers of
    the shown run before tuning and at the last step. Of published exams, ids, gold letters and outcomes are kept, and no text.

    Args:
        preset: A preset that has run to its end, see `check_finished`.
        folder: Where to; `evidence_folder(preset)` by default. Old evidence there is replaced, README.md stays.
        seeds: Seeds to freeze; all of the preset's by default.
        add: Whether other seeds that are committed there stay, as for a study that is run on several machines in turn.

    Raises:
        JmedloraError: The preset is smoke, results are missing, or what is committed there is another preset's.
    """
    refuse_smoke(preset)
    study, settings = read_runs(preset, seeds), load_preset(preset)
    if left := study.about.get("left_out"):
        print(f"{left} records are not in preset {preset!r} and were left out", file=sys.stderr)
    folder = folder or evidence_folder(preset)
    if add and (folder / "evidence.json").is_file():
        study = _joined(read_evidence(folder), study)
    tables, rows = {"summary.csv": scores.summary(study.outcomes), "forms.csv": study.forms, LIKELIHOODS: study.likelihood}, {}
    for seed in study.seeds:
        asked = study.questions[study.questions["seed"] == seed]
        with_texts = asked["exam"].isin(INVENTED_EXAMS) & (seed == study.seeds[0])
        rows[f"seed{seed}/questions.jsonl"] = [
            {c: row[c] for c in (*QUESTION, *(TEXTS if texts else []), "gold")}
            for row, texts in zip(asked.to_dict("records"), with_texts, strict=True)
        ]
        rows[f"seed{seed}/outcomes.jsonl"] = _packed(study.outcomes[study.outcomes["seed"] == seed], asked)
    rows[f"seed{study.seeds[0]}/examples.jsonl"] = _examples(study, settings.show).to_dict("records")
    # Nothing old is deleted before all that is new is there.
    for old in folder.glob("seed*"):
        shutil.rmtree(old)
    (folder / LIKELIHOODS).unlink(missing_ok=True)
    written = [
        write_text(folder / name, table.to_csv(index=False, float_format="%.6g"))
        for name, table in tables.items()
        if len(table) or name != LIKELIHOODS
    ]
    written += [write_record(folder / f"seed{r.seed}" / "records", trimmed(r)) for r in study.records]
    written += [write_jsonl(folder / name, found) for name, found in rows.items() if found]
    about = {"preset": preset, "seeds": study.seeds, "show": settings.show, **study.about, "versions": study.records[0].versions}
    written.append(write_text(folder / "evidence.json", json.dumps(about, indent=1) + "\n"))
    return [*written, write_manifest(folder)]


def _joined(old: Study, new: Study) -> Study:
    """Both studies as one; where both hold a seed, the new one counts."""
    if old.preset != new.preset:
        raise JmedloraError(f"preset {new.preset!r}: the committed evidence is that of {old.preset!r}; freeze to another folder")
    kept = [seed for seed in old.seeds if seed not in new.seeds]
    if not kept:
        return new

    def both(name: str) -> pd.DataFrame:
        first, second = getattr(old, name), getattr(new, name)
        return pd.concat([first[first["seed"].isin(kept)], second], ignore_index=True)

    weights = len(kept), len(new.seeds)
    took = [study.about["evaluate_seconds"] for study in (old, new)]
    seconds = {run: round(float(np.average([t.get(run, 0.0) for t in took], weights=weights)), 1) for run in took[1]}
    device = "; ".join(dict.fromkeys((old.about["device"], new.about["device"])))
    return Study(
        new.preset,
        "run",
        compact(both("outcomes")),
        [*(r for r in old.records if r.seed in kept), *new.records],
        both("examples"),
        both("questions"),
        both("forms"),
        new.about | {"device": device, "evaluate_seconds": seconds},
        both("likelihood"),
    )


def add_tables(written: Sequence[Path], tables: Mapping[str, pd.DataFrame], seeds: Sequence[int] = (), add: bool = False) -> list[Path]:
    """Tables beside the evidence that `freeze` has `written`, and its manifest anew; with `add`, committed rows of other seeds stay."""
    folder, made = written[-1].parent, []
    for name, table in tables.items():
        if add and (folder / name).is_file():
            old = pd.read_csv(folder / name)
            table = pd.concat([old[~old["seed"].isin(seeds)], table], ignore_index=True)
        made.append(write_text(folder / name, table.to_csv(index=False, float_format="%.6g")))
    return [*written[:-1], *made, write_manifest(folder)]


def _examples(study: Study, run: str) -> pd.DataFrame:
    """Answers to invented exams that are kept for reading: the run before tuning and at the last step, first seed."""
    steps = [0]
    if ((study.outcomes["run"] == run) & (study.outcomes["steps"] > 0)).any():
        steps.append(gains.last_step(study.outcomes, run))
    shown = study.examples[(study.examples["seed"] == study.seeds[0]) & (study.examples["run"] == run)]
    return shown[shown["steps"].isin(steps) & shown["exam"].isin(INVENTED_EXAMS)].drop(columns="seed")


def read_evidence(folder: Path) -> Study:
    """Reads what `freeze` wrote, after `check_manifest`.

    Raises:
        JmedloraError: The evidence is missing or damaged.
    """
    check_manifest(folder)
    about = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    outcomes, questions, examples = [], [], [pd.DataFrame(columns=["run", "steps", "exam", "id", "response", "seed"])]
    for seed in about["seeds"]:
        here = folder / f"seed{seed}"
        asked = pd.DataFrame(read_jsonl(here / "questions.jsonl"))
        questions.append(asked.reindex(columns=[*QUESTION, *TEXTS, "gold"]).assign(seed=seed))
        outcomes += [_unpacked(row, asked, seed, here / "outcomes.jsonl") for row in read_jsonl(here / "outcomes.jsonl")]
        if (here / "examples.jsonl").is_file():
            examples.append(pd.DataFrame(read_jsonl(here / "examples.jsonl")).assign(seed=seed))
    return Study(
        about["preset"],
        "committed",
        compact(pd.concat(outcomes, ignore_index=True)),
        [read_record(p) for p in sorted(folder.glob("seed*/records/*.json"))],
        pd.concat(examples[1:] or examples, ignore_index=True),
        pd.concat(questions, ignore_index=True),
        pd.read_csv(folder / "forms.csv"),
        about,
        pd.read_csv(folder / LIKELIHOODS) if (folder / LIKELIHOODS).is_file() else pd.DataFrame(columns=LIKELIHOOD),
        folder,
    )


def trimmed(record: Record) -> Record:
    """The record with its long series thinned to `SERIES_POINTS` rows, each the mean of its stretch; the rest stays."""
    return Record(**{**asdict(record), "metrics": {k: _thin(v) if _is_series(v) else v for k, v in record.metrics.items()}})


def _is_series(value: Any) -> bool:
    return isinstance(value, list) and len(value) > SERIES_POINTS and all(isinstance(row, dict) and "step" in row for row in value)


def _thin(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    frame = pd.DataFrame(rows)
    stretch = np.arange(len(frame)) * SERIES_POINTS // len(frame)
    means = frame.groupby(stretch).mean().assign(step=frame.groupby(stretch)["step"].max())
    return [
        {k: int(v) if k == "step" else float(f"{v:.5g}") for k, v in row.items() if not np.isnan(v)} for row in means.to_dict("records")
    ]


def _packed(outcomes: pd.DataFrame, questions: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per condition and exam: the outcomes of all its questions as one string per metric, in the order of the questions.

    0/1 scores are one digit each; the Gestalt score has two base-36 digits, in thousandths (`rs` is 1.000). Where a model was not asked
    every question of the exam, `asked` marks those that it was.
    """
    rows = []
    keys = [*(c for c in CONDITION if c != "seed"), "exam"]
    for key, group in outcomes.groupby(keys, observed=True):
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        row |= {c: int(row[c]) for c in ("size_params", "steps", "shots")}
        known, ids = questions.loc[questions["exam"] == row["exam"], "id"], set(group["id"])
        if len(ids) < len(known):
            row["asked"] = "".join(str(int(id in ids)) for id in known)
        for metric in METRICS:
            values = group[metric].to_numpy(float)
            width, scale = (2, 1000) if metric == "gestalt" else (1, 1)
            row[metric] = "".join(np.base_repr(int(v), 36).lower().rjust(width, "0") for v in np.round(scale * values))
        rows.append(row)
    return rows


def _unpacked(row: dict[str, Any], questions: pd.DataFrame, seed: int, where: Path) -> pd.DataFrame:
    table = questions.loc[questions["exam"] == row["exam"], QUESTION]
    if "asked" in row:
        table = table[[mark == "1" for mark in row["asked"]]]
    table = table.reset_index(drop=True)
    for metric in METRICS:
        packed, width = row[metric], 2 if metric == "gestalt" else 1
        if len(packed) != width * len(table):
            problem = f"{len(packed) / width:g} outcomes of {metric} for {len(table)} questions of {row['exam']}"
            raise JmedloraError(f"{paths.relative(where)}, run {row['run']}: {problem}; freeze the evidence again")
        values = [int(packed[i : i + width], 36) for i in range(0, len(packed), width)]
        table[metric] = np.array(values, float) / (1000 if width == 2 else 1)
    # Evidence of the second study does not say how a model was loaded: QLoRA runs in 4 bits, all in one template.
    loaded = {"quantisation": "nf4" if row["method"] == "qlora" else "none", "template": ""}
    condition = loaded | row | {"seed": seed}
    return table.assign(**{c: condition[c] for c in CONDITION})
