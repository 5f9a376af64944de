"""What is exported of a committed study: for each model one log, with its aggregates, and a line for each question.

Ids, letters and scores alone: no text of a question, a choice or an answer, whatever the examination.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pandas as pd

from jmedlora_utils.analysis import hospital_answers
from jmedlora_utils.analysis.studies import CONDITION, METRICS, Study
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.identity import installed_version
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.records import read_json
from jmedlora_utils.data import fetch
from jmedlora_utils.models import registry

SCHEMAS = paths.PACKAGE_DATA / "every_eval_ever"
NOT_EXPORTED = "not exported; see sample_id"
PER_QUESTION = ("accuracy", "strict_accuracy")
"""Metrics of the lines per question; aggregates have all of `METRICS`."""
PUBLISHED = "published_pairs"
PUBLISHED_ON = "2026-11-24T00:00:00+00:00"  # day of the committed counts, whose files name none
PUBLISHED_EXAMS = {119: "igakuqa119", 120: "jmle2026"}
Log = dict[str, Any]


def of_study(study: Study, name: str) -> Iterator[tuple[Log, list[Log]]]:
    """Every model of a study under one condition: seed, kept step, number of worked examples, precision."""
    gold = study.questions.set_index(["seed", "exam", "id"])["gold"]
    letters = pd.Series(dtype=str)
    if hospital_answers.has_quiz(study.preset):
        found = hospital_answers.answers(study.preset, "committed")
        letters = found.set_index(["run", "seed", "steps", "exam", "id"])["picked"]
    for key, own in study.outcomes.groupby(CONDITION, observed=True):
        condition = dict(zip(CONDITION, key, strict=True))
        log = _log(study, name, condition)
        samples: list[Log] = []
        for (exam, facts), asked in own.groupby(["exam", "facts"], observed=True):
            title = str(exam) if exam == facts else f"{exam}.{facts}"
            log["evaluation_results"] += [_result(title, str(exam), metric, asked[metric], condition) for metric in METRICS]
            for row in asked.to_dict("records"):
                picked = letters.get((row["run"], row["seed"], row["steps"], row["exam"], row["id"]))
                right = str(gold[(row["seed"], row["exam"], row["id"])])
                read = {"strict_accuracy": picked}  # the letters are those of the strict scorer
                samples += [_sample(log, title, metric, row, right, read.get(metric)) for metric in PER_QUESTION]
        yield log, samples


def _log(study: Study, name: str, condition: Log) -> Log:
    """The aggregate file without its results."""
    base, tuned = str(condition["base"]), condition["steps"] > 0 or str(condition["method"]).startswith("cpt")
    known = registry.entries().get(base)
    model = f"jmedlora/{condition['run']}-step{condition['steps']}" if tuned else (known and known.hub_id) or f"jmedlora/{base}"
    details = {k: str(condition[k]) for k in ("base", "method", "quantisation", "steps", "seed", "size_params")}
    where = f"jmedlora-{name}.seed{condition['seed']}.{condition['run']}.{condition['quantisation']}.{condition['shots']}shot"
    log = _empty(where, model, study.about["created"], "open_weights" if known and not tuned else "unknown", details)
    log["source_metadata"] |= {
        "source_type": "evaluation_run",
        "evaluator_relationship": "third_party" if known and not tuned else "first_party",
    }
    log["model_info"]["additional_details"]["deployment_type"] = "self_deployed"
    log["eval_library"]["version"] = study.about["versions"]["jmedlora"]
    log["model_info"]["inference_engine"] = {"name": "transformers", "version": study.about["versions"]["transformers"]}
    return log


def _empty(name: str, model: str, created: str, weights: str, details: dict[str, str]) -> Log:
    """A log without results: who evaluated which model, and when."""
    stamp = str(datetime.fromisoformat(created).timestamp())
    about = {"deployment_type": "unknown", "model_availability": weights, **details}
    return {
        "schema_version": read_json(SCHEMAS / "eval.schema.json")["version"],
        "evaluation_id": f"{name}/{model}/{stamp}",
        "evaluation_timestamp": created,
        "retrieved_timestamp": stamp,
        "source_metadata": {"source_name": "jmedlora", "source_organization_name": "jmedlora"},
        "eval_library": {"name": "jmedlora", "version": installed_version("jmedlora")},
        "model_info": {"name": model.rpartition("/")[2], "id": model, "additional_details": about},
        "evaluation_results": [],
    }


def _result(title: str, exam: str, metric: str, values: pd.Series, condition: Log) -> Log:
    """One aggregate: a metric over the questions of a group."""
    scores, (scorer, kind) = values.to_numpy(float), METRICS[metric]
    uncertainty: Log = {"standard_deviation": float(scores.std()), "num_samples": len(scores)}
    if metric != "gestalt":
        interval = statistics.wilson(float(scores.sum()), len(scores))
        bounds = {"lower": interval.low, "upper": interval.high, "confidence_level": statistics.LEVEL, "method": "Wilson"}
        uncertainty["confidence_interval"] = bounds
    details = {"worked_examples": str(condition["shots"]), "decoding": "greedy"}
    return {
        "evaluation_result_id": f"{title}.{metric}",
        "evaluation_name": title,
        "source_data": _source(exam),
        "metric_config": _metric(metric, kind, f"{kind} as scorer {scorer!r} reads the answers"),
        "score_details": {"score": float(scores.mean()), "uncertainty": uncertainty},
        "generation_config": {"generation_args": {"temperature": 0.0}, "additional_details": details},
    }


def _metric(name: str, kind: str, about: str) -> Log:
    scale = {"lower_is_better": False, "score_type": "continuous", "min_score": 0.0, "max_score": 1.0}
    return {"metric_id": f"jmedlora.{name}", "metric_kind": kind, "metric_unit": "proportion", "evaluation_description": about, **scale}


def _source(exam: str) -> Log:
    """Where the questions come from: a pinned public repository, or made here."""
    public = next((source for source in fetch.SOURCES if exam == source.exam or exam.startswith(f"{source.exam}_")), None)
    if public is None:
        return {"dataset_name": exam, "source_type": "other", "additional_details": {"origin": "prepared by jmedlora, see its notebooks"}}
    return {"dataset_name": exam, "source_type": "url", "url": [f"https://github.com/{public.repository}/tree/{public.commit}"]}


def _sample(log: Log, title: str, metric: str, row: Log, gold: str, picked: str | None) -> Log:
    """One question under one metric; `picked` are the letters read from the answer, None where they were not kept."""
    read = {"turn_idx": 0, "source": "output.raw", "extraction_method": "strict reading", "is_terminal": True}
    return {
        "schema_version": log["schema_version"],
        "evaluation_id": log["evaluation_id"],
        "model_id": log["model_info"]["id"],
        "evaluation_name": title,
        "evaluation_result_id": f"{title}.{metric}",
        "sample_id": str(row["id"]),
        "interaction_type": "single_turn",
        "input": {"raw": NOT_EXPORTED, "reference": list(gold)},
        "output": {"raw": []},
        "answer_attribution": [] if picked is None else [{**read, "extracted_value": picked}],
        "evaluation": {"score": float(row[metric]), "is_correct": bool(row[metric] == 1)},
    }


# --- published answers ----------------------------------------------------------------------------------------------------


def of_published() -> Iterator[tuple[Log, list[Log]]]:
    """The systems whose published answers were scored here, on whole examinations; counts alone are committed, so no line per question."""
    folder = paths.RESULTS / PUBLISHED
    check_manifest(folder)
    runs = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False).set_index(["exam", "system"])
    for row in pd.read_csv(folder / "systems.csv").to_dict("records"):
        run = runs.loc[(str(row["exam"]), row["system"])]
        exam = PUBLISHED_EXAMS[row["exam"]]
        yield _published(row, run, exam), []


def _published(row: Log, run: pd.Series, exam: str) -> Log:
    model = run["model"].removeprefix("huggingface.co/").removeprefix("openrouter-").partition(":")[0]
    named = {
        "system": row["system"],
        **{k: run[k] for k in ("model", "decoding", "quantisation", "serving", "licence", "file", "commit") if run[k]},
    }
    source = fetch.source_of(exam)
    log = _empty(f"jmedlora-{PUBLISHED}.{exam}.{row['system']}", model, PUBLISHED_ON, "open_weights", named)
    del log["evaluation_timestamp"]  # nobody published it
    log["source_metadata"] |= {
        "source_type": "documentation",
        "source_organization_name": source.repository,
        "source_organization_url": f"https://github.com/{source.repository}",
        "evaluator_relationship": "other",
    }
    interval = statistics.wilson(float(row["right"]), int(row["items"]))
    bounds = {"lower": interval.low, "upper": interval.high, "confidence_level": statistics.LEVEL, "method": "Wilson"}
    shares = {"items": row["right"] / row["items"], "points": row["points"] / row["max_points"]}
    about = {"items": "share of all questions answered right", "points": "share of the examination's points"}
    for name, share in shares.items():
        score: Log = {"score": float(share)}
        if name == "items":
            score["uncertainty"] = {"confidence_interval": bounds, "num_samples": int(row["items"])}
        title = f"{exam}.{name}"
        result = {"evaluation_result_id": title, "evaluation_name": title, "source_data": _source(exam)}
        log["evaluation_results"].append({**result, "metric_config": _metric(name, "accuracy", about[name]), "score_details": score})
    return log
