"""From answers and records to tables: per-question outcomes, the summary, committed evidence, numbered tables of the book.

`python -m jmedlora_utils.analysis.tables freeze --preset mini-seeds` turns a finished run into committed evidence.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import findings
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, Preset, declared_parameters, load_preset
from jmedlora_utils.core.records import (
    Record,
    RecordError,
    load_records,
    read_jsonl,
    read_record,
    write_jsonl,
    write_record,
    write_text,
)

SOURCES = ("auto", "committed", "run")
SUMMARY_COLUMNS = ("base", "size_params", "centric", "method", "steps", "shots", "seed", "exam", "facts", "metric", "value", "n")
METRICS = {
    "exact_match": ("journal", "exact_match"),
    "gestalt": ("journal", "gestalt"),
    "accuracy": ("journal", "accuracy"),
    "strict_exact_match": ("strict", "exact_match"),
    "strict_accuracy": ("strict", "accuracy"),
}
METHODS = ("none", "lora", "qlora", "cpt-lora", "lora-emb", "full")
FACTS = {("mini_heldout", "taught"): "taught_held_out_phrasing"}
EVIDENCE_KINDS = ("prepare", "pretrain", "tune")
SERIES_POINTS = 60
CONDITION = ["seed", "run", "base", "size_params", "centric", "method", "steps", "shots"]
QUESTION = ["exam", "facts", "id", "category", "n_select", "chance"]
FORMS = ["seed", "run", "steps", "shots", "exam", "n_select", "n", "as_asked", "right"]
BANNERS = {
    "smoke": "smoke: a test of the code with a toy of a toy. Nothing on this page is evidence.",
}


@dataclass(frozen=True)
class Study:
    """Everything an analysis page reads.

    Attributes:
        preset: Preset that the answers come from.
        origin: `committed` or `run`.
        outcomes: One row a question, model and condition: the columns `CONDITION`, `QUESTION` and the keys of `METRICS`.
        records: Records of preparing, pretraining and tuning.
        examples: Answers kept for reading: seed, run, steps, exam, id, response.
        questions: Exam questions, one row a seed, exam and id.
        forms: Answers on untaught facts by whether they have the form asked for: the columns `FORMS`.
        about: Device, dates and commit of the run; `evaluate_seconds`: run name to seconds, mean over seeds; `left_out`:
            records found beside the run that the preset does not name.
    """

    preset: str
    origin: str
    outcomes: pd.DataFrame
    records: list[Record]
    examples: pd.DataFrame
    questions: pd.DataFrame
    forms: pd.DataFrame
    about: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """Seeds at hand."""
        return sorted(int(s) for s in self.outcomes["seed"].unique())

    def source_line(self) -> str:
        """Where the numbers come from, for the foot of a table: preset, seeds, device, day."""
        kind = "committed evidence" if self.origin == "committed" else "this run"
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        return f"Preset {self.preset}, {seeds}, {self.about['device']}, {self.about['created'][:10]} ({kind})"

    def banner(self) -> str:
        """A Markdown warning where the numbers are no evidence, rest on one seed, or records were left out; empty otherwise."""
        said = ""
        if self.preset in BANNERS:
            said = f":::{{warning}}\n{BANNERS[self.preset]}\n:::\n"
        elif len(self.seeds) == 1:
            said = ":::{note}\nOne seed: intervals speak of other questions, not of another training run.\n:::\n"
        if left := self.about.get("left_out"):
            said += f":::{{note}}\nRecords left out, because the preset does not name their run, step, exam or shots: {left}.\n:::\n"
        centred = self.outcomes[["base", "centric"]].astype(str).drop_duplicates()
        if unknown := sorted(centred.loc[centred["centric"] == "unknown", "base"]):
            names = ", ".join(f"`{Path(base).name}`" for base in unknown)
            said += (
                f":::{{note}}\nThe language that {names} is centred on is not known, so comparisons by language leave it out. "
                "A registry of your own (`JMEDLORA_MODELS`) can state it.\n:::\n"
            )
        return said


def load_study(preset: str, source: str = "committed") -> Study:
    """Reads a study from committed evidence or from the run folders.

    Args:
        preset: A preset of `notebooks/presets/`. `mini` and `mini-seeds` share their evidence.
        source: `committed` (`book/results/<name>/`), `run` (`runs/<preset>/`), or `auto`: committed where it exists.

    Raises:
        JmedloraError: `source` is unknown, or its results are missing.
    """
    return read_evidence(evidence_folder(preset)) if is_committed(preset, source) else read_runs(preset)


def is_committed(preset: str, source: str) -> bool:
    """Whether `load_study` reads committed evidence for these two.

    Raises:
        JmedloraError: `source` is unknown.
    """
    if source not in SOURCES:
        raise JmedloraError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    return source == "committed" or (source == "auto" and (evidence_folder(preset) / "evidence.json").is_file())


def evidence_folder(preset: str) -> Path:
    """Where the committed evidence of a preset lies: `mini-seeds` goes to `book/results/mini/`."""
    return paths.RESULTS / preset.removesuffix("-seeds")


# --- reading runs -------------------------------------------------------------------------------------------------


def read_runs(preset: str, seeds: Sequence[int] = ()) -> Study:
    """Scores the answers of a preset below `runs/`.

    Only what the preset names now is read: records of a run, step, exam or number of shots that it no longer has, or
    never had, are counted in `Study.about["left_out"]`.

    Args:
        preset: A preset that has run.
        seeds: Seeds to read; all of the preset's by default.

    Raises:
        JmedloraError: A seed has no evaluation, an answers file is missing or does not match its exam, or shards wait to be put together.
    """
    settings = load_preset(preset)
    planned, left_out = evaluations(settings), 0
    records, evaluated, outcomes, examples, questions, forms = [], [], [], [], [], []
    wanted = tuple(seeds) or settings.seeds
    for seed in wanted:
        workspace = paths.Workspace(preset, seed)
        try:
            found = load_records(workspace.root, allow_smoke=True)
        except RecordError as error:
            raise JmedloraError(f"preset {preset!r}, seed {seed}: {error}") from error
        _refuse_unjoined(workspace, planned)
        # The same weights loaded in another way are compared on notebook 30's own page; here they would count twice.
        found = [r for r in found if not r.config.get("variant_of")]
        named = [r for r in found if _is_named(r, settings, planned)]
        left_out += len(found) - len(named)
        found, exams = named, {}
        for record in (r for r in found if r.kind == "evaluate"):
            scored = _score(workspace, record, found, exams)
            outcomes.append(scored.drop(columns=["response", "as_asked"]))
            forms.append(_forms(scored))
            if int(record.config["shots"]) == 0:
                examples.append(scored[["seed", "run", "steps", "exam", "id", "response"]])
        records += [r for r in found if r.kind in EVIDENCE_KINDS]
        evaluated += [r for r in found if r.kind == "evaluate"]
        questions += list(exams.values())
    if not outcomes:
        raise JmedloraError(f"preset {preset!r}: no evaluation record below {paths.relative(paths.runs_root() / preset)}; run it first")
    about = {
        "device": evaluated[0].device,
        "created": max(r.created for r in evaluated),
        "git_commit": evaluated[0].git_commit,
        "evaluate_seconds": _seconds_by_run(evaluated, len(wanted)),
        "left_out": left_out,
    }
    frame = compact(pd.concat(outcomes, ignore_index=True))
    read = [pd.concat(found, ignore_index=True) for found in (examples, questions, forms)]
    return Study(preset, "run", frame, records, *read, about)


def evaluations(preset: Preset) -> set[tuple[str, int, str, int]]:
    """Every evaluation that a preset asks for: run, step, exam, shots; notebook 30's defaults where the preset is silent."""
    found: set[tuple[str, int, str, int]] = set()
    for run in preset.runs:
        asked = declared_parameters(EVALUATE_NOTEBOOK) | run.evaluate
        found |= set(itertools.product([run.name], asked["steps"], asked["exams"], asked["shots"]))
    return found


def _refuse_unjoined(workspace: paths.Workspace, planned: set[tuple[str, int, str, int]]) -> None:
    """A study must not leave out, without a word, what its shards have answered."""
    from jmedlora_utils.evaluation import evaluator, shards

    stems = {evaluator.run_file(*asked) for asked in planned}
    waiting = [stem for stem in shards.unjoined(workspace.answers) if stem.removesuffix("__likelihood") in stems]
    if waiting:
        raise JmedloraError(
            f"{waiting[0]}: its shards are done, but not put together ({len(waiting)} such files in {paths.relative(workspace.answers)}); "
            "run its notebook 30 once more, with the num_shards it had or without, which asks nothing"
        )


def _is_named(record: Record, preset: Preset, planned: set[tuple[str, int, str, int]]) -> bool:
    config = record.config
    if record.kind == "evaluate":
        return (config["run_name"], int(config["step"]), config["exam"], int(config["shots"])) in planned
    return record.kind != "tune" or config["run_name"] in {run.name for run in preset.runs}


def _seconds_by_run(records: Sequence[Record], seeds: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for record in records:
        seconds[record.config["run_name"]] = seconds.get(record.config["run_name"], 0.0) + record.wall_seconds
    return {run: round(total / seeds, 1) for run, total in seconds.items()}


def _score(workspace: paths.Workspace, record: Record, records: Sequence[Record], exams: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The answers of one evaluation, scored: one row a question."""
    from jmedlora_utils.evaluation import evaluator, metrics

    exam = record.config["exam"]
    questions = evaluator.exam_of(record, workspace)
    answers_file = workspace.answers / f"{record.name.removeprefix('30_evaluate__')}.jsonl"
    answers = {row["id"]: row["response"] for row in read_jsonl(answers_file)}
    asked = [q for q in questions if q.id in answers]
    if len(asked) != len(answers):
        raise JmedloraError(f"{paths.relative(answers_file)}: {len(answers) - len(asked)} answers to questions that {exam} does not have")
    responses = [answers[q.id] for q in asked]
    scores = metrics.score_frame(asked, responses, scorers=("journal", "strict")).set_index(["scorer", "id"])
    table = question_frame(asked)
    if exam not in exams:
        # For reading, the choices stand as printed, whatever order a run asked them in.
        exams[exam] = question_frame(evaluator.load_exam(exam, workspace)[0], texts=True).assign(seed=record.seed)
    for column, (scorer, name) in METRICS.items():
        table[column] = scores.loc[scorer][name].reindex(table["id"]).to_numpy(float)
    read = scores.loc["strict"].reindex(table["id"])
    as_asked = read["readable"].to_numpy(bool) & (read["picked"].map(_letters).to_numpy() == table["n_select"].to_numpy())
    base = record.config["base"]
    size, centric = base_facts(records, base)
    run = record.config["run_name"]
    method = method_of(records, run)
    condition = (record.seed, run, base, size, centric, method, int(record.config["step"]), int(record.config["shots"]))
    for column, value in zip(CONDITION, condition, strict=True):
        table[column] = value
    return table.assign(response=responses, as_asked=as_asked)[[*CONDITION, *QUESTION, *METRICS, "response", "as_asked"]]


def _letters(picked: str) -> int:
    return len(picked.split(",")) if picked else 0


def _forms(scored: pd.DataFrame) -> pd.DataFrame:
    """Of the answers on untaught facts, those that name as many listed choices as asked, and the right ones among them (`FORMS`)."""
    untaught = scored[scored["facts"] == "untaught"]
    given = untaught.assign(n=1, right=untaught["as_asked"] & (untaught["strict_accuracy"] == 1))
    return given.groupby(FORMS[:-3], as_index=False)[FORMS[-3:]].sum()


def question_frame(questions: Sequence[Any], texts: bool = False) -> pd.DataFrame:
    """Exam questions as a table, with their group and the chance of a blind pick; `texts` adds stem, choices, gold.

    The group, column `facts`, is the group of facts of a mini exam; the questions of a published exam are one group, named after it.
    """
    rows = []
    for q, chance in zip(questions, statistics.chances(questions), strict=True):
        facts = FACTS.get((q.exam, q.section), q.section) if q.exam.startswith("mini_") else q.exam
        row = {"exam": q.exam, "facts": facts, "id": q.id, "category": q.category, "n_select": q.n_select, "chance": float(chance)}
        if texts:
            row |= {"text": q.text, "choices": list(q.choices), "gold": "".join(sorted(q.gold))}
        rows.append(row)
    return pd.DataFrame(rows)


def compact(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with their text columns as categories: a hundred thousand rows are then compared in no time."""
    texts = [c for c in (*CONDITION, *QUESTION) if not pd.api.types.is_numeric_dtype(outcomes[c])]
    return outcomes.astype(dict.fromkeys(texts, "category"))


def base_facts(records: Iterable[Record], base: str) -> tuple[int, str]:
    """Parameters of a base and the language it is centred on, one of `registry.LANGUAGES`.

    From its pretraining record where it was trained here, else from the model registry. The language of a local folder, or of a
    model that the registry does not list, is `unknown`; its size may then stand in the record of a tuning run.

    Raises:
        JmedloraError: Nothing knows its size.
    """
    records = list(records)
    for record in records:
        if record.kind == "pretrain" and record.model.get("base") == base:
            return int(record.counts["parameters"]), str(record.config["centric"])
    tuned = [int(r.model["parameters"]) for r in records if r.kind == "tune" and r.model.get("base") == base]
    from jmedlora_utils.models import registry

    try:
        entry = registry.resolve(base)
    except JmedloraError as error:
        raise JmedloraError(f"base {base!r}: no pretraining record and not in the registry; its size and language are unknown") from error
    if entry.shape is None and not tuned:
        raise JmedloraError(f"base {base!r}: its size is not known; list it in the registry of this site (JMEDLORA_MODELS) with its shape")
    return entry.shape.parameters() if entry.shape else tuned[0], entry.language


def method_of(records: Iterable[Record], run: str) -> str:
    """Method of a run, one of `METHODS`, from its tuning record; `none` for a base that is only evaluated.

    An adapter that was tuned elsewhere has no such record: `lora`, or `qlora` where it was asked on the base in 4 bits.
    """
    records = list(records)
    for record in records:
        if record.kind == "tune" and record.config.get("run_name") == run:
            method = record.config["method"]
            if record.config.get("pretrain_on"):
                return f"cpt-{method}"
            return f"{method}-emb" if record.config.get("train_embeddings") else method
    for record in records:
        if record.kind == "evaluate" and record.config["run_name"] == run and record.config.get("method"):
            return "qlora" if record.config.get("quantisation") == "nf4" else record.config["method"]
    return "none"


# --- tables -------------------------------------------------------------------------------------------------------


def summary(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The long summary: one row a model, condition, seed, group of facts and metric; columns `SUMMARY_COLUMNS`.

    `value` is a share, 0 to 1. Metrics without a prefix follow the journal's formulas; `strict_` ones are ours.
    """
    keys = [c for c in SUMMARY_COLUMNS if c not in ("metric", "value", "n")]
    grouped = outcomes.groupby(["run", *keys], observed=True)
    wide = grouped[list(METRICS)].mean().assign(n=grouped.size()).reset_index()
    long = wide.melt(id_vars=["run", *keys, "n"], value_vars=list(METRICS), var_name="metric", value_name="value")
    order = ["run", *keys, "metric"]
    return long.sort_values(order, key=_metric_order, kind="stable")[list(SUMMARY_COLUMNS)].reset_index(drop=True)


def estimates(outcomes: pd.DataFrame, by: Sequence[str], metric: str = "accuracy") -> pd.DataFrame:
    """Mean of a metric with its interval over questions and seeds.

    Args:
        outcomes: Per-question outcomes.
        by: Columns that make a row.
        metric: A key of `METRICS`.

    Returns:
        Columns `by`, `value`, `low`, `high` (shares) and `n` (answers).
    """
    rows = []
    for key, group in outcomes.groupby(list(by), observed=True):
        found = statistics.mean_interval([g.to_numpy(float) for _, g in group.groupby("seed")[metric]])
        low, high = max(found.low, 0.0), min(found.high, 1.0)  # Student's interval knows no ends of a scale
        rows.append({**dict(zip(by, key, strict=True)), "value": found.value, "low": low, "high": high, "n": len(group)})
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "n"])


def series(records: Iterable[Record]) -> pd.DataFrame:
    """Loss series of tuning records, long: columns `run`, `seed`, `step`, `loss`."""
    rows = []
    for record in records:
        for point in record.metrics["series"] if record.kind == "tune" else []:
            rows.append({"run": record.config["run_name"], "seed": record.seed, "step": int(point["step"]), "loss": float(point["loss"])})
    return pd.DataFrame(rows, columns=["run", "seed", "step", "loss"])


def costs(records: Iterable[Record]) -> pd.DataFrame:
    """What each preparing, pretraining and tuning step took, mean over seeds.

    Returns:
        Columns `kind`, `name`, `seconds`, `peak_gib`, `trainable` (parameters; NaN where nothing was trained), `seeds`.
    """
    rows = [
        {
            "kind": r.kind,
            "name": r.config.get("run_name") or r.model.get("base") or r.name,
            "seconds": r.wall_seconds,
            "peak_gib": r.peak_memory_bytes / 2**30,
            "trainable": r.counts.get("trainable_parameters", np.nan),
            "seed": r.seed,
        }
        for r in records
    ]
    if not rows:
        return pd.DataFrame(columns=["kind", "name", "seconds", "peak_gib", "trainable", "seeds"])
    grouped = pd.DataFrame(rows).groupby(["kind", "name"], sort=False)
    return grouped.agg(
        seconds=("seconds", "mean"), peak_gib=("peak_gib", "mean"), trainable=("trainable", "mean"), seeds=("seed", "nunique")
    ).reset_index()


# --- committed evidence -------------------------------------------------------------------------------------------


def freeze(preset: str, folder: Path | None = None, seeds: Sequence[int] = ()) -> list[Path]:
    """Writes the evidence of a finished run, small enough to commit: no weights, no machine paths.

    For each seed the trimmed records of preparing, pretraining and tuning, the exam's questions, and one line a condition with
    every question's outcome. Texts are kept for the first seed only: its questions, and the answers of the shown run before
    tuning and at the late step. `summary.csv` holds all seeds.

    Args:
        preset: A preset that has run; smoke is refused.
        folder: Where to; `evidence_folder(preset)` by default. Old evidence there is replaced, README.md stays.
        seeds: Seeds to freeze; all of the preset's by default.

    Raises:
        JmedloraError: The preset is smoke, an exam is not invented, or results are missing.
    """
    if preset == "smoke":
        raise JmedloraError("smoke runs test the code and are no evidence; freeze mini-seeds")
    study, settings = read_runs(preset, seeds), load_preset(preset)
    if foreign := sorted(set(study.outcomes["exam"]) - {"mini_trained", "mini_heldout", "mini_general"}):
        raise JmedloraError(f"exam {foreign[0]!r} is not invented: its questions may not be committed; freeze a preset of the mini study")
    if left := study.about.get("left_out"):
        print(f"{left} records are not in preset {preset!r} and were left out", file=sys.stderr)
    folder = folder or evidence_folder(preset)
    for old in folder.glob("seed*"):
        shutil.rmtree(old)
    written = [write_text(folder / "summary.csv", summary(study.outcomes).to_csv(index=False, float_format="%.6g"))]
    written.append(write_text(folder / "forms.csv", study.forms.to_csv(index=False)))
    for record in study.records:
        written.append(write_record(folder / f"seed{record.seed}" / "records", trimmed(record)))
    for seed in study.seeds:
        here = folder / f"seed{seed}"
        asked = study.questions[study.questions["seed"] == seed]
        columns = [*QUESTION, "text", "choices", "gold"] if seed == study.seeds[0] else QUESTION
        written.append(write_jsonl(here / "questions.jsonl", asked[columns].to_dict("records")))
        written.append(write_jsonl(here / "outcomes.jsonl", _packed(study.outcomes[study.outcomes["seed"] == seed])))
    kept = (0, findings.step_of(study.outcomes, settings.show, findings.HEADLINE.step_rank))
    shown = (study.examples["seed"] == study.seeds[0]) & (study.examples["run"] == settings.show) & study.examples["steps"].isin(kept)
    first = study.examples[shown]
    written.append(write_jsonl(folder / f"seed{study.seeds[0]}" / "examples.jsonl", first.drop(columns="seed").to_dict("records")))
    about = {"preset": preset, "seeds": study.seeds, "show": settings.show, **study.about, "versions": study.records[0].versions}
    written.append(write_text(folder / "evidence.json", json.dumps(about, indent=1) + "\n"))
    return written


def read_evidence(folder: Path) -> Study:
    """Reads what `freeze` wrote.

    Raises:
        JmedloraError: The evidence is missing.
    """
    about_file = folder / "evidence.json"
    if not about_file.is_file():
        raise JmedloraError(
            f"{paths.relative(about_file)} is missing; run `make reproduce PRESET=mini-seeds` and freeze it, or use source='run'"
        )
    about = json.loads(about_file.read_text(encoding="utf-8"))
    outcomes, questions, examples = [], [], []
    for seed in about["seeds"]:
        here = folder / f"seed{seed}"
        asked = pd.DataFrame(read_jsonl(here / "questions.jsonl"))
        questions.append(asked.assign(seed=seed))
        outcomes += [_unpacked(row, asked, seed, here / "outcomes.jsonl") for row in read_jsonl(here / "outcomes.jsonl")]
        if (here / "examples.jsonl").is_file():
            examples.append(pd.DataFrame(read_jsonl(here / "examples.jsonl")).assign(seed=seed))
    records = [read_record(p) for p in sorted(folder.glob("seed*/records/*.json"))]
    frame = compact(pd.concat(outcomes, ignore_index=True))
    forms = pd.read_csv(folder / "forms.csv")
    return Study(about["preset"], "committed", frame, records, pd.concat(examples), pd.concat(questions), forms, about)


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


def _packed(outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    """One line a condition and exam: 0/1 strings, and the gestalt score (`_thousandths`), in the order of the questions."""
    rows = []
    keys = [c for c in CONDITION if c != "seed"]
    for key, group in outcomes.groupby([*keys, "exam"], observed=True):
        row: dict[str, Any] = dict(zip([*keys, "exam"], key, strict=True))
        row["size_params"], row["steps"], row["shots"] = (int(row[c]) for c in ("size_params", "steps", "shots"))
        for metric in METRICS:
            values = group[metric].to_numpy(float)
            row[metric] = _thousandths(values) if metric == "gestalt" else "".join(str(int(v)) for v in values)
        rows.append(row)
    return rows


def _thousandths(values: np.ndarray) -> str:
    """Two base-36 digits a value: `rs` is 1.000. Half the size of a list, and the same on every machine."""
    return "".join(np.base_repr(int(v), 36).lower().rjust(2, "0") for v in np.round(1000 * values))


def _unpacked(row: dict[str, Any], questions: pd.DataFrame, seed: int, where: Path) -> pd.DataFrame:
    table = questions.loc[questions["exam"] == row["exam"], QUESTION].reset_index(drop=True)
    for metric in METRICS:
        packed, width = row[metric], 2 if metric == "gestalt" else 1
        if len(packed) != width * len(table):
            problem = f"{len(packed) / width:g} outcomes of {metric} for {len(table)} questions of {row['exam']}"
            raise JmedloraError(f"{paths.relative(where)}, run {row['run']}: {problem}; freeze the evidence again")
        values = [int(packed[i : i + width], 36) for i in range(0, len(packed), width)]
        table[metric] = np.array(values, float) / (1000 if width == 2 else 1)
    for column in CONDITION:
        table[column] = seed if column == "seed" else row[column]
    return table[[*CONDITION, *QUESTION, *METRICS]]


def _metric_order(column: pd.Series) -> pd.Series:
    return column.map({m: i for i, m in enumerate(METRICS)}) if column.name == "metric" else column


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: `freeze --preset NAME [--folder F] [--seeds 1 2]`."""
    parser = argparse.ArgumentParser(prog="python -m jmedlora_utils.analysis.tables", description="Committed evidence of the mini study.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("freeze", help="write book/results/<name>/ from runs/<preset>/")
    command.add_argument("--preset", required=True)
    command.add_argument("--folder", type=Path, default=None, help="write there instead")
    command.add_argument("--seeds", type=int, nargs="*", default=(), help="only these seeds")
    chosen = parser.parse_args(arguments)
    written = freeze(chosen.preset, chosen.folder, chosen.seeds)
    print(f"{len(written)} files, {sum(p.stat().st_size for p in written) / 1e6:.2f} MB below {paths.relative(written[0].parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
