"""The arms of the study with small real models: true records, placebo, two languages, retrieval; what they gain by the committed rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import evidence, scores, small_models_rule
from jmedlora_utils.analysis.gains import NotMeasuredError
from jmedlora_utils.analysis.studies import METHODS, Study, question_of, read_runs
from jmedlora_utils.analysis.verdicts import NOT_MEASURED, decide
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.formatting import percent
from jmedlora_utils.core.records import load_records
from jmedlora_utils.core.statistics import Interval
from jmedlora_utils.data.exam_files import INVENTED_EXAMS, TAUGHT_EXAMS
from jmedlora_utils.evaluation import metrics

RUNG = "small real models, tuned here"
ARMS = ["run", "arm", "material", "language_taught", "exposure"]
ANSWERS = ["run", "seed", "steps", "exam", "facts", "n", "unreadable", "denying", "other"]
MEASURES = ["run", "seed", "what", "group", "value"]
SHOWN = ["seed", "base", "arm", "id", "picked"]
RETRIEVAL = {"mini_article": "retrieval, right article", "mini_bm25": "retrieval, BM25"}
TOO_FEW = "too few seeds"
MEMORISED = "real questions, memorised"
QUESTIONS = {
    MEMORISED: TAUGHT_EXAMS,
    "invented facts, taught wording": ("mini_trained",),
    "invented facts, other wording": ("mini_heldout",),
}
LABELS = METHODS | {"lora, worked example": "LoRA, worked example"}
EXAM_LABELS = {
    "mini_trained": "facts, taught wording",
    "mini_heldout": "facts, other wording",
    "mini_article": "facts, behind the right article",
    "mini_bm25": "facts, behind an article by BM25",
    "small_exam_1": "real questions, first order",
    "small_exam_2": "real questions, second order",
    "small_transfer": "JJSIMQA",
    "jjsimqa": "JJSIMQA",
    "igakuqa": "IgakuQA",
}
UNTUNED = "small-bases"  # the preset that asks the untuned models whole examinations
LIKELIEST = "likeliest choice"
READINGS = {
    "Exact match": "exact_match",
    "as written": "strict_accuracy",
    "nearest choice": "accuracy",
    LIKELIEST: "per_character",
}
DENIAL = re.compile("ではな|でな[いく]|じゃな|誤り|誤って|間違|正しくな|不適切|^いいえ")


def arms(study: Study) -> pd.DataFrame:
    """One row per run: the columns `ARMS`; `exposure` is how often each record was read. Bases have empty strings and 0."""
    tuned = {r.config["run_name"]: r for r in study.records if r.kind == "tune"}
    rows = []
    for run in sorted(study.outcomes["run"].astype(str).unique()):
        if run not in tuned:
            rows.append((run, "base", "", "", 0.0))
            continue
        record = tuned[run]
        material, *kinds = record.config["records"].split("_")
        arm = "placebo" if "placebo" in kinds else "lora, worked example" if "shot" in kinds else record.config["method"]
        english = "english" if "en" in kinds else "japanese"
        rows.append((run, arm, "examination" if material == "exam" else "facts", english, record.metrics["epochs"]))
    return pd.DataFrame(rows, columns=ARMS)


def summary(study: Study) -> pd.DataFrame:
    """The long summary of the miniature with the columns of `ARMS` but `run`; retrieval is the base asked with an article."""
    parts = []
    for run, arm, material, language, exposure in arms(study).itertuples(index=False):
        found = scores.summary(study.outcomes[study.outcomes["run"] == run])
        asked = found["exam"].astype(str)
        of_exam = np.where(asked.isin(INVENTED_EXAMS), "facts", "examination")
        parts.append(
            found.assign(
                arm=asked.map(RETRIEVAL).fillna(arm) if arm == "base" else arm,
                material=material or of_exam,
                language_taught=language,
                exposure=exposure,
            )
        )
    return pd.concat(parts, ignore_index=True)


def by_arm(study: Study) -> pd.DataFrame:
    """Accuracy of every arm on the questions of its material, without a worked example, over both orders of the choices.

    Untaught facts are those in the taught wording, as in claim 1.

    Returns:
        `base`, `material`, `arm`, `group` (`taught`, `taught, other wording`, `untaught`), `value`, `low`, `high`, `chance` (shares) and
        `n`, at the last step of each run; the base comes first and retrieval last.
    """
    frame = (
        study.outcomes[study.outcomes["shots"] == 0]
        .astype({"run": str, "base": str, "exam": str, "facts": str})
        .merge(arms(study), on="run")
    )
    frame = scores.control_once(frame[frame["steps"] == frame.groupby("run")["steps"].transform("max")]).copy()
    frame["arm"] = frame["exam"].map(RETRIEVAL).fillna(frame["arm"].replace(LABELS))
    frame["arm"] += frame["language_taught"].map({"english": ", in English"}).fillna("")
    kinds = {exam: kind for kind, exams in QUESTIONS.items() for exam in exams} | dict.fromkeys(RETRIEVAL, "invented facts")
    frame = frame.assign(kind=frame["exam"].map(kinds)).dropna(subset="kind")
    frame["material"] = frame["kind"].str.split(",").str[0]
    frame["group"] = frame["facts"].where(frame["facts"] == "untaught", "taught")
    frame["group"] = frame["group"].mask((frame["exam"] == "mini_heldout") & (frame["group"] == "taught"), "taught, other wording")
    keys = ["base", "material", "arm", "group"]
    found = scores.estimates(frame, keys, small_models_rule.read_rule().scorer)
    found = found.merge(frame.groupby(keys)["chance"].mean().reset_index(), on=keys)
    materials = ["real questions", "invented facts"]
    order = ["base", *dict.fromkeys(a for a in found["arm"] if a != "base" and a not in RETRIEVAL.values()), *RETRIEVAL.values()]
    places = {"arm": order, "material": materials}
    return found.sort_values(keys, key=lambda c: c.map(places.get(c.name, sorted(set(c))).index), kind="stable", ignore_index=True)


def bases_of(study: Study) -> list[str]:
    """The base models of the study, SmolLM2 before Gemma."""
    return sorted(study.outcomes["base"].astype(str).unique(), reverse=True)


def find_run(study: Study, base: str, arm: str, material: str = "", language: str = "") -> str:
    """The run of an arm.

    Raises:
        NotMeasuredError: The study has none.
    """
    table = arms(study).merge(study.outcomes[["run", "base"]].astype(str).drop_duplicates(), on="run")
    fits = table[(table["base"] == base) & (table["arm"] == arm) & (table["material"] == material)]
    fits = fits[fits["language_taught"] == language]
    if fits.empty:
        raise NotMeasuredError(f"{base}: no run of arm {arm!r} on {material or 'nothing'} {language}; run the preset to its end")
    return str(fits["run"].iloc[0])


def answered(study: Study, run: str, exams: Sequence[str], metric: str, shots: int = 0) -> pd.Series:
    """Scores of a run at its last step, indexed by (seed, facts, id); over several orders of the choices, their mean."""
    frame = study.outcomes
    own = frame[(frame["run"] == run) & (frame["shots"] == shots) & frame["exam"].isin(exams)]
    own = own[own["steps"] == own["steps"].max()]
    if own.empty:
        raise NotMeasuredError(f"{run}: no answers to {', '.join(exams)}; run the preset to its end")
    facts = own["facts"].astype(str).str.split("_").str[0]  # both wordings of taught facts are `taught` here
    return own.assign(facts=facts, id=own["id"].astype(str)).groupby(["seed", "facts", "id"], observed=True)[metric].mean().sort_index()


def taught_minus_untaught(values: pd.Series, level: float) -> Interval:
    """The mean over taught questions minus that over untaught ones, with its interval over questions and seeds.

    Each question is weighted so that the mean over all of a seed is that difference; then `statistics.mean_interval` serves.
    """
    found = []
    for _, own in values.groupby(level="seed"):
        taught = own.index.get_level_values("facts") == "taught"
        if taught.all() or not taught.any():
            raise NotMeasuredError("a comparison of taught with untaught questions needs both")
        found.append(own.to_numpy(float) * np.where(taught, len(own) / taught.sum(), -len(own) / (~taught).sum()))
    return statistics.mean_interval(found, level)


def verdict(found: Interval, seeds: int) -> str:
    """The verdict of the rule on a gain."""
    rule = small_models_rule.read_rule()
    if seeds < rule.fewest_seeds:
        return TOO_FEW
    return decide(found, rule.margin)


def claim_1(study: Study, bases: Sequence[str]) -> pd.DataFrame:
    """Taught minus untaught, true minus placebo: one row per base and kind of questions.

    Returns:
        `base`, `questions`, `value`, `low`, `high` (shares), `true_only` (the same without the placebo, true minus base) and `verdict`.
    """
    rule, rows = small_models_rule.read_rule(), []
    for base in bases:
        for name, exams in QUESTIONS.items():
            material = "examination" if name == MEMORISED else "facts"
            true, placebo, untuned = (
                answered(study, find_run(study, base, *arm), exams, rule.scorer)
                for arm in (("lora", material, "japanese"), ("placebo", material, "japanese"), ("base",))
            )
            found = taught_minus_untaught(true - placebo, rule.level)
            alone = taught_minus_untaught(true - untuned, rule.level)
            row = {"base": base, "questions": name, **found._asdict(), "true_only": alone.value}
            rows.append(row | {"verdict": verdict(found, len(study.seeds))})
    return pd.DataFrame(rows)


def without_one_seed(study: Study, bases: Sequence[str]) -> list[str]:
    """How often each verdict of `claim_1` stays where one seed is left out, each in turn: `3 of 4`; empty where too few would be left."""
    frame, whole = study.outcomes, claim_1(study, bases)["verdict"]
    if len(study.seeds) <= small_models_rule.read_rule().fewest_seeds:
        return [""] * len(whole)
    fewer = [claim_1(replace(study, outcomes=frame[frame["seed"] != seed]), bases)["verdict"] for seed in study.seeds]
    return [f"{sum(words)} of {len(words)}" for words in zip(*(words == whole for words in fewer), strict=True)]


def transfer(study: Study, bases: Sequence[str]) -> pd.DataFrame:
    """What tuning on real questions changes on others: untaught years, and another examination; an equivalence test.

    Returns:
        `base`, `questions`, `n` (different questions), `answers`, `value`, `low`, `high` (the interval of two one-sided tests), `placebo`
        (the change that the placebo makes: practice with the form), and `verdict`.
    """
    rule, rows = small_models_rule.read_rule(), []
    for base in bases:
        arms_of = (("lora", "examination", "japanese"), ("placebo", "examination", "japanese"), ("base",))
        runs = [find_run(study, base, *arm) for arm in arms_of]
        for name, exams in (("untaught years", TAUGHT_EXAMS), ("JJSIMQA", ("small_transfer",))):
            tuned, placebo, untuned = (answered(study, run, exams, rule.scorer) for run in runs)
            change, form = ((s - untuned)[lambda s: s.index.get_level_values("facts") != "taught"] for s in (tuned, placebo))
            by_seed = [own.to_numpy(float) for _, own in change.groupby(level="seed")]
            level = 1 - 2 * rule.equivalence_level
            found = statistics.mean_interval(by_seed, level)
            # Seeds share questions: each is drawn once more with all its answers, and the wider interval counts.
            different = change.groupby(level="id").mean().to_numpy(float)
            shared = statistics.bootstrap_mean([different], level)
            low, high = (found.value + end - shared.value for end in shared[1:])
            found = Interval(found.value, min(found.low, low), max(found.high, high))
            small = -rule.margin < found.low and found.high < rule.margin
            word = "shown to be small" if small else "not shown to be small"
            row = {"base": base, "questions": name, "n": len(different), "answers": len(change), **found._asdict(), "placebo": form.mean()}
            rows.append(row | {"verdict": word if len(by_seed) >= rule.fewest_seeds else TOO_FEW})
    return pd.DataFrame(rows)


def interaction(study: Study, first: str, second: str) -> Interval:
    """How much more the second base gains from records in Japanese than in English, than the first does; taught minus untaught facts.

    Claim 3 as this study can ask it. The two bases differ in more than language: instruction tuning, vocabulary, size.
    """
    rule, differences = small_models_rule.read_rule(), []
    for base in (first, second):
        runs = [find_run(study, base, "lora", "facts", language) for language in ("japanese", "english")]
        japanese, english = (answered(study, run, ("mini_trained",), rule.scorer) for run in runs)
        differences.append(japanese - english)
    return taught_minus_untaught(differences[1] - differences[0], rule.level)


def whole_examinations() -> pd.DataFrame:
    """What the untuned models score on whole examinations, from the committed evidence of `UNTUNED`.

    Returns:
        `base`, `exam`, `shots`, `reading` (a key of `READINGS`), `value`, `low`, `high` (Wilson's interval), `chance` (shares) and `n`;
        no rows where nothing is committed.
    """
    columns = ["base", "exam", "shots", "reading", "value", "low", "high", "chance", "n"]
    if not evidence.has_evidence(UNTUNED):
        return pd.DataFrame(columns=columns)
    study, rows = evidence.read_evidence(evidence.evidence_folder(UNTUNED)), []
    likely = scores.likelihood_rows(study).set_index(["run", "exam", "shots"])
    for (base, exam, shots, run), own in study.outcomes.groupby(["base", "exam", "shots", "run"], observed=True):
        for reading, column in READINGS.items():
            share = likely.loc[(run, exam, shots), column] if reading == LIKELIEST else own[column].mean()
            found = statistics.wilson(round(len(own) * share), len(own))
            rows.append((base, EXAM_LABELS.get(exam, exam), shots, reading, *found, own["chance"].mean(), len(own)))
    return pd.DataFrame(rows, columns=columns)


def glance(study: Study, answers: pd.DataFrame) -> dict[int, str]:
    """For a table of claims: what the small models say of each claim, by its number; effects in points.

    `answers` is what `answer_counts` returns.
    """
    bases, said = bases_of(study), []
    for (base, word), own in claim_1(study, bases).groupby(["base", "verdict"], sort=False):
        effects = [f"{row.questions} {percent(row.value, row.low, row.high, signed=True)}" for row in own.itertuples()]
        said.append(f"{base}, **{word}**: {' / '.join(effects)}")
    found = {
        1: f"{'; '.join(said)}; {study.seeds_text()}. Memorised means memory, not knowledge",
        2: f"**{NOT_MEASURED}**; one size of each model",
        3: f"**{NOT_MEASURED}**; one model was run",
    }
    if len(bases) > 1:
        more = percent(*interaction(study, *bases[:2]), signed=True)
        found[3] = f"**described**; Japanese over English records, {bases[1]} minus {bases[0]}: {more}"
    counts = answers[["n", "denying", "other"]].sum()
    found[4] = (
        f"**described**; {counts['denying']:,} of {counts['n']:,} kept answers, those of bases and placebos included, deny a choice, the "
        "form that Accuracy credits wrongly"
    )
    return found


# --- what the outcomes do not hold -------------------------------------------------------------------------------------


def answer_counts(study: Study) -> pd.DataFrame:
    """Of the answers kept for reading (no worked example): unreadable ones, ones that deny, ones that name another choice.

    Returns:
        The columns `ANSWERS`; `other` are answers that the strict scorer reads as a choice that is not right.
    """
    rows = []
    for row in study.examples.merge(study.questions.dropna(subset="text"), on=["seed", "exam", "id"]).to_dict("records"):
        scored = metrics.score(question_of(row), row["response"], "strict")
        rows.append(
            {key: row[key] for key in ANSWERS[:5]}
            | {"n": 1, "unreadable": int(not scored.readable), "denying": int(bool(DENIAL.search(row["response"])))}
            | {"other": int(scored.readable and not scored.accuracy)}
        )
    return pd.DataFrame(rows, columns=ANSWERS).groupby(ANSWERS[:5], as_index=False, observed=True).sum()


def measures(preset: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Likelihood, loss per byte, time, memory and tokens of every run, from its records below `runs/`; the columns `MEASURES`."""
    rows: list[tuple[Any, ...]] = []
    for seed in seeds:
        for record in load_records(paths.Workspace(preset, seed).root, allow_smoke=True):
            about = record.config.get("run_name", ""), seed
            if record.kind == "tune":
                tokens = record.counts["tokens"] * record.metrics["epochs"]
                found = {"tuning seconds": record.wall_seconds, "peak GiB": record.peak_memory_bytes / 2**30, "tokens read": tokens}
                rows += [(*about, what, "", float(value)) for what, value in found.items()]
            elif record.kind == "texts":
                rows += [(*about, "nats per byte", name, found["nats_per_byte"]) for name, found in record.metrics.items()]
            elif record.kind == "evaluate":
                exam = f"{record.config['exam']}, {record.config['shots']}-shot"
                rows.append((*about, "asking seconds", exam, record.wall_seconds))
                by = record.metrics.get("likelihood", {}).get("per_character", {})
                rows += [(*about, "likelihood", f"{exam}, {group}", score["accuracy"]["value"]) for group, score in by.items()]
    return pd.DataFrame(rows, columns=MEASURES)


def shown_answers(study: Study) -> pd.DataFrame:
    """What base, tuned model and placebo chose in one real question: the taught one of the first seed with the longest stem.

    Returns:
        The columns `SHOWN`; `picked` is the letter that the strict scorer reads, in the order in which the question was asked (that of
        `shuffling.other_order(question, 1)`), or empty. Letters stand for the answers, because texts of real examinations are not kept.
    """
    first, exam = study.seeds[0], TAUGHT_EXAMS[0]
    asked = study.questions[(study.questions["seed"] == first) & (study.questions["exam"] == exam) & (study.questions["facts"] == "taught")]
    if asked.empty:
        return pd.DataFrame(columns=SHOWN)
    q = max(asked.to_dict("records"), key=lambda row: len(row["text"]))
    said = study.examples[(study.examples["seed"] == first) & (study.examples["exam"] == exam) & (study.examples["id"] == q["id"])]
    table, rows = arms(study).merge(study.outcomes[["run", "base"]].astype(str).drop_duplicates(), on="run"), []
    for row in said.merge(table[table["material"].isin(["", "examination"])], on="run").to_dict("records"):
        picked = metrics.score(question_of(q), row["response"], "strict").picked
        rows.append((first, row["base"], row["arm"], q["id"], "".join(sorted(picked))))
    return pd.DataFrame(rows, columns=SHOWN)


TABLES = ("answers.csv", "measures.csv", "example.csv")


def tables(study: Study) -> dict[str, pd.DataFrame]:
    """`answers.csv`, `measures.csv` and `example.csv`: as committed, or counted from the run."""
    if study.folder is not None:
        return {name: pd.read_csv(study.folder / name) for name in TABLES}
    made = answer_counts(study), measures(study.preset, study.seeds), shown_answers(study)
    return dict(zip(TABLES, made, strict=True))


def freeze(preset: str, folder: Path | None = None, seeds: Sequence[int] = (), add: bool = False) -> list[Path]:
    """Commits the evidence of a finished run as `evidence.freeze` does, with the arms in `summary.csv` and the tables beside it."""
    written, study = evidence.freeze(preset, folder, seeds, add), read_runs(preset, seeds)
    written = evidence.add_tables(written, tables(study), study.seeds, add)
    return evidence.add_tables(written, {"summary.csv": summary(evidence.read_evidence(written[-1].parent))})
