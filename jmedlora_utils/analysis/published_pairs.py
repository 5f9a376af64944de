"""Published models in pairs on the same questions, and what the pairs say of the paper's claims, by a rule written before this code.

The rule, stated on 2026-11-24 and committed before any code here computed a pair. It is descriptive and **not blind**: seven of the
pairs, with their counts, had been read before. So that nothing could be chosen to suit them, margin, level and the words of the
verdicts are those of the miniature's second study (`analysis.verdicts`).

* A **pair** is a published run of a base and a published run of a model made from it, on one whole examination. Both run with
  thinking or both without, and the base with the same effort or more: less would credit the adaptation with the base's shorter thought.
  Every run that fits is paired; none is chosen.
* The **effect** is the share right of the adapted model minus that of the base, over all questions of the examination. An answer that
  is missing or names no choice is wrong. Its 95 % interval is that of the miniature over questions (`statistics.mean_interval`).
* The **test** is McNemar's, exact, with Holm's correction over all pairs of the page, whatever their claim.
* **Margin**: 5 points. *supported*: the interval lies above zero, the effect reaches the margin, and Holm's p is below 0.01. *not
  supported*: the whole interval lies below the margin. *undecided at this size*: anything else.
* **Equivalence** is a question of its own, because no difference found is not a difference shown to be small: two one-sided t tests
  on the paired differences against minus and plus the margin, at 5 %, each pair for itself. Where both reject, the difference is
  *shown to be small*.
* Only a pair whose runs share decoding, effort, quantisation, serving and vision, as far as their source states them, **decides**.
  The others are shown beside it.
* **Claim 1**: the deciding pairs whose adaptation is a medical LoRA, combined as in the miniature. Continued pretraining and
  fine-tuning on medical texts are shown beside them. No pair measures *partially*.
* **Claim 2** speaks of the effect of tuning at two sizes of one family. Where no adaptation has been published at two sizes of one
  family, it is *not measured*. What size itself buys stands beside it, paired step by step along the ladder.
* **Claim 3**: the effect is the base's lead over its sibling trained further on Japanese, base minus sibling. *supported* means that
  the sibling is the weaker start, by this rule. It compares levels, since none of the siblings was tuned on medicine afterwards.
* **Claim 4**: Accuracy minus Exact match (scorer `journal`) of the published texts on the text-only five-choice questions, one mean
  per question over the runs with texts; margin and words as above, without a test.

A verdict speaks of these runs, one of each, on one examination. It says nothing of another seed, prompt or decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jmedlora_utils.analysis.exam_card import Marked, card
from jmedlora_utils.analysis.verdicts import NOT_MEASURED, SUPPORTED, UNDECIDED, combine, decide
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc, p_value, percent
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.records import write_text
from jmedlora_utils.core.statistics import Interval, holm, mcnemar_exact, mean_interval
from jmedlora_utils.data import exam_files, fetch
from jmedlora_utils.data.published_answers import NOT_STATED, Answer, PublishedRun, known_models, read_runs
from jmedlora_utils.data.questions import Question, exclusion
from jmedlora_utils.evaluation import metrics, reading

MARGIN, ALPHA = 0.05, 0.01
EQUIVALENCE_LEVEL = 0.05
FOLDER = paths.RESULTS / "published_pairs"
EDITIONS = {"igakuqa119": 119, "jmle2026": 120}
EFFORTS = ("low", "medium", "high")
RUNG = "published models"
PARTS = {
    1: "gain by a medical LoRA",
    3: "lead of the base over its Japanese sibling (negative: the sibling leads)",
    4: "Accuracy minus Exact match, where the prompt asked for letters and neither metric reads them",
}
"""What the effect of a claim's deciding rows is."""
SETTINGS = ("decoding", "effort", "quantisation", "serving", "vision", "prompt")
"""What the two runs of a pair should share, as far as their sources state it."""
PAIR_COLUMNS = ("exam", "base", "adapted", "adaptation", "n", "right_base", "right_adapted", "only_base", "only_adapted")
PAIR_COLUMNS += ("difference", "low", "high", "p", "p_holm", "confounds")
SYSTEM_COLUMNS = ("exam", "system", "parameters", "right", "items", "points", "max_points", "required", "general", "passed")
SYSTEM_COLUMNS += ("text_right", "text_items")
READINGS = tuple(f"{form}_{name}" for form in ("text", "line") for name in ("exact_match", "accuracy", "strict"))
READING_COLUMNS = ("exam", "system", "items", "right", "read_differently", "right_reread", "no_choice", "asked", "letters", "characters")
READING_COLUMNS += READINGS


@dataclass(frozen=True)
class Material:
    """Published runs and the questions that they answered, by exam."""

    questions: Mapping[str, Sequence[Question]]
    runs: Mapping[str, Sequence[PublishedRun]]
    notices: tuple[str, ...]

    def outcomes(self, exam: str) -> pd.DataFrame:
        """1 or 0 for every question (row) and system (column), as its publisher read the answers."""
        return pd.DataFrame(
            {run.system: [float(is_right(q, run.answers.get(q.id))) for q in self.questions[exam]] for run in self.runs[exam]},
            index=[q.id for q in self.questions[exam]],
        )


@dataclass(frozen=True)
class Tables:
    """Everything that the page shows; each table is a CSV of its name."""

    pairs: pd.DataFrame  #: `PAIR_COLUMNS`, one row per pair; differences are shares
    systems: pd.DataFrame  #: `SYSTEM_COLUMNS`, one row per run
    verdicts: pd.DataFrame  #: What the rule says of every pair, and of claim 4
    cuts: pd.DataFrame  #: Every pair by block, by must-pass or general, by text or image
    steps: pd.DataFrame  #: From each size of a family to the next, the same settings
    readings: pd.DataFrame  #: What the published texts score under each reading
    runs: pd.DataFrame  #: What is known of each run and its model
    notices: tuple[str, ...] = ()


def is_right(question: Question, answer: Answer | None) -> bool:
    """Whether a published answer is right: letters as sets; a free number by its digits, as both repositories compare it."""
    if question.rule == "always":
        return True
    if answer is None:
        return False
    if question.rule == "number":
        return answer.number == question.number
    if question.rule == "any":
        return len(answer.letters) == 1 and answer.letters <= question.gold
    return answer.letters == question.gold


def answer_line(text: str) -> str:
    """What stands on the line after the last 【回答】, without marks of emphasis; the first line of a text that has none."""
    return re.sub(r"[*_`#]", "", nfkc(text)).rpartition("【回答】")[2].strip().split("\n")[0]


def reread(question: Question, answer: Answer) -> Answer:
    """The answer as this project reads its text: the choices that its `answer_line` names, or the one number."""
    text = answer_line(answer.text or "")
    if question.rule == "number":
        found = reading.read_number(question, text)
        same = found is not None and found == reading.read_number(question, question.number or "")
        return Answer(frozenset(), question.number or "" if same else text, text, None)
    return Answer(reading.read_choices(question, text), "", text, None)


# --- reading ------------------------------------------------------------------------------------------------------


def read_material(data_dir: str, exams: Sequence[str], corrections: str = "") -> Material:
    """The questions and every published run of the exams, from files that are fetched and verified first.

    Args:
        data_dir: Folder that holds the folders of the sources, used as it is; empty takes `paths.exam_data_dir()` and downloads.
        exams: Of `EDITIONS`.
        corrections: File of key corrections for the one exam asked for; see `answer_keys.corrected`.
    """
    if unknown := sorted(set(exams) - set(EDITIONS)) or ([] if exams else ["none"]):
        raise JmedloraError(f"parameter exams: no exam {unknown[0]!r} with published pairs; known: {', '.join(EDITIONS)}")
    if corrections and len(exams) != 1:
        raise JmedloraError("parameter corrections: a file of corrections belongs to one exam; name one in exams")
    folder = Path(data_dir).expanduser() if data_dir else paths.exam_data_dir()
    notices = [fetch.ensure(exams, data_dir=folder, download=not data_dir).notice()]
    questions = {exam: exam_files.load_published_exam(exam, folder, corrections=corrections) for exam in exams}
    runs = {exam: read_runs(folder, exam, questions[exam]) for exam in exams}
    for exam in exams:
        notices += [exam_files.key_notice(exam, corrections), *(said for run in runs[exam] for said in _said_of(run, questions[exam]))]
    return Material(questions, runs, tuple(notices))


def _said_of(run: PublishedRun, questions: Sequence[Question]) -> list[str]:
    """What a reader must know of a run: unknown file, model without facts, questions without an answer, letters of no choice, marks."""
    by_id = {q.id: q for q in questions}
    marks = sum(answer.right is not None and answer.right != is_right(by_id[name], answer) for name, answer in run.answers.items())
    odd = sum(bool(answer.letters - set(by_id[name].letters)) for name, answer in run.answers.items())
    said = {
        "its file is not part of the pinned commit and is used as it is": run.commit == NOT_STATED,
        "nothing is known of its model, so it is in no pair": not run.facts.sources,
        f"questions without an answer, counted as wrong: {len(questions) - len(run.answers)}": len(run.answers) < len(questions),
        f"answers that name a letter of no choice, counted as wrong: {odd}": odd,
        f"marks that differ from the publisher's by the key used here: {marks}": marks,
    }
    return [f"{run.system}: {what}." for what, holds in said.items() if holds]


def examine(material: Material) -> Tables:
    """Every table of the page."""
    pairs, details, cuts = _pairs(material)
    readings, lenient = _readings(material)
    return Tables(
        pairs=pairs,
        systems=_systems(material),
        verdicts=_verdicts(pairs, details, lenient, readings["text_exact_match"].max() if lenient else 0.0),
        cuts=cuts,
        steps=_steps(material),
        readings=readings,
        runs=pd.DataFrame([run.about() | {"exam": EDITIONS[exam]} for exam, runs in material.runs.items() for run in runs]),
        notices=material.notices,
    )


def tables(data_dir: str, exams: Sequence[str], corrections: str, on_missing: str) -> Tables:
    """`examine` of what is here; with `committed` and no `corrections`, the committed tables where the examinations are missing."""
    if on_missing not in ("error", "committed"):
        raise JmedloraError(f"parameter on_missing is {on_missing!r}; it takes 'error' or 'committed'")
    if on_missing == "committed" and not (data_dir or corrections or fetch.available(exams)):
        return read_tables(exams)
    return examine(read_material(data_dir, exams, corrections))


# --- systems and pairs --------------------------------------------------------------------------------------------


def _systems(material: Material) -> pd.DataFrame:
    rows = []
    for exam, questions in material.questions.items():
        right, text = material.outcomes(exam), [q.id for q in questions if q.text_only]
        for run in material.runs[exam]:
            marked = {q.id: Marked(bool(right.loc[q.id, run.system]), frozenset()) for q in questions}
            row = card(questions, marked, run.system).iloc[0].to_dict()
            row |= {"exam": EDITIONS[exam], "right": row["items_correct"], "parameters": run.facts.parameters}
            rows.append(row | {"text_right": int(right.loc[text, run.system].sum()), "text_items": len(text)})
    found = pd.DataFrame(rows)[list(SYSTEM_COLUMNS)].astype({"passed": "boolean"})
    return found.sort_values(["exam", "points"], ascending=[True, False], ignore_index=True, kind="stable")


def _partners(runs: Sequence[PublishedRun]) -> list[tuple[PublishedRun, PublishedRun]]:
    """Base and adapted run of every pair: both with thinking or both without, the base with the same effort or more."""
    return [
        (base, adapted)
        for adapted in runs
        for base in runs
        if adapted.facts.base == base.model and base.thinking == adapted.thinking and _effort(base) >= _effort(adapted)
    ]


def _effort(run: PublishedRun) -> int:
    return EFFORTS.index(run.effort) if run.effort in EFFORTS else -1


def _differences(base: PublishedRun, adapted: PublishedRun) -> tuple[list[str], list[str]]:
    """What the sources state differently of the two runs, and what they leave open."""
    both = {name: (base.about()[name], adapted.about()[name]) for name in SETTINGS}
    unknown = sorted(name for name, values in both.items() if NOT_STATED in values)
    return [f"{name}: {a} / {b}" for name, (a, b) in both.items() if a != b and name not in unknown], unknown


def _pairs(material: Material) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rows, details, cuts = [], [], []
    for exam, questions in material.questions.items():
        outcomes = material.outcomes(exam)
        for base, adapted in _partners(material.runs[exam]):
            first, second = outcomes[base.system], outcomes[adapted.system]
            differ, unknown = _differences(base, adapted)
            said = [*differ, f"not stated: {', '.join(unknown)}" if unknown else "", adapted.facts.note, "one run each"]
            row = {"exam": EDITIONS[exam], "base": base.system, "adapted": adapted.system, "adaptation": adapted.facts.adaptation}
            rows.append(row | _compared(first, second) | {"confounds": "; ".join(filter(None, said))})
            detail = {"domain": adapted.facts.domain, "decides": not differ, "caveat": adapted.facts.caveat}
            details.append(detail | {"equivalence_p": equivalence(second - first)})
            for cut, group, names in _groups(questions):
                cuts.append(row | {"cut": cut, "group": group} | _compared(first[names], second[names]))
    table = pd.DataFrame(rows, columns=[c for c in PAIR_COLUMNS if c != "p_holm"])
    table["p_holm"] = list(holm(dict(enumerate(table["p"]))).values())
    return table[list(PAIR_COLUMNS)], pd.DataFrame(details), pd.DataFrame(cuts, columns=[*PAIR_COLUMNS[:13], "cut", "group"])


def _compared(first: pd.Series, second: pd.Series) -> dict[str, Any]:
    test, effect = mcnemar_exact(first, second), mean_interval([(second - first).to_numpy()])
    counts = {"right_base": int(first.sum()), "right_adapted": int(second.sum()), "only_base": test.lost, "only_adapted": test.gained}
    return {"n": test.n, **counts, "difference": effect.value, "low": effect.low, "high": effect.high, "p": test.p}


def equivalence(differences: Iterable[float], margin: float = MARGIN) -> float:
    """The larger p of two one-sided paired t tests against minus and plus the margin (Schuirmann 1987, through statsmodels)."""
    from statsmodels.stats.weightstats import DescrStatsW

    values = np.asarray(list(differences), float)
    if not values.std():
        return 0.0 if abs(values.mean()) < margin else 1.0
    return float(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def _groups(questions: Sequence[Question]) -> list[tuple[str, str, list[str]]]:
    kinds = {
        "block": lambda q: q.section,
        "part": lambda q: "must-pass" if q.required else "general",
        "question": lambda q: "text" if q.text_only else "image",
    }
    found = []
    for cut, of in kinds.items():
        for group in sorted({of(q) for q in questions}):
            found.append((cut, group, [q.id for q in questions if of(q) == group]))
    return found


def _steps(material: Material) -> pd.DataFrame:
    """From each size to the next of the models that nobody adapted, within a family and settings; and from the smallest to the largest."""
    rows = []
    for exam, runs in material.runs.items():
        outcomes, ladders = material.outcomes(exam), {}
        for run in sorted((r for r in runs if not r.facts.base and r.facts.parameters), key=lambda r: r.facts.parameters):
            ladders.setdefault((run.facts.family, run.thinking, run.effort, run.decoding, run.vision), []).append(run)
        for (family, thinking, effort, *_), ladder in ladders.items():
            setting = f"effort {effort}" if effort else {True: "thinking", False: "no thinking"}.get(thinking, "")
            ends = [(ladder[0], ladder[-1])] if len(ladder) > 2 else []
            for small, large in [*pairwise(ladder), *ends]:
                row = {"exam": EDITIONS[exam], "family": family, "setting": setting, "base": small.system, "adapted": large.system}
                row |= {"parameters_base": small.facts.parameters, "parameters_adapted": large.facts.parameters}
                rows.append(row | _compared(outcomes[small.system], outcomes[large.system]))
    columns = ["exam", "family", "setting", "base", "adapted", "parameters_base", "parameters_adapted", "n", *PAIR_COLUMNS[5:13]]
    return pd.DataFrame(rows, columns=columns).rename(columns={"base": "smaller", "adapted": "larger"})


# --- claims -------------------------------------------------------------------------------------------------------


def _readings(material: Material) -> tuple[pd.DataFrame, Interval | None]:
    """Each run by reading; and Accuracy minus Exact match, one mean per question over the runs whose whole texts are published."""
    rows, lenient = [], {}
    for exam, questions in material.questions.items():
        asked = [q for q in questions if exclusion(q) is None]
        for run in material.runs[exam]:
            again = {q.id: reread(q, a) for q in questions if (a := run.answers.get(q.id)) is not None}
            changed = [q for q in questions if q.id in again and not _same(q, run.answers[q.id], again[q.id])]
            row = {"exam": EDITIONS[exam], "system": run.system, "items": len(questions)}
            row |= {"right": sum(is_right(q, run.answers.get(q.id)) for q in questions), "read_differently": len(changed)}
            row |= {"right_reread": sum(is_right(q, again.get(q.id)) for q in questions)}
            row |= {"no_choice": sum(not run.answers[q.id].letters for q in questions if q.id in again and q.rule != "number")}
            if run.whole_text:
                whole = [run.answers[q.id].text or "" if q.id in run.answers else "" for q in asked]
                row |= {"asked": len(asked), "letters": np.mean([is_right(q, run.answers.get(q.id)) for q in asked])}
                row |= {"characters": int(np.median([len(text.strip()) for text in whole]))}
                for form, texts in (("text", whole), ("line", [answer_line(text) for text in whole])):
                    scores = {
                        name: [metrics.score(q, t, name) for q, t in zip(asked, texts, strict=True)] for name in ("journal", "strict")
                    }
                    row |= {f"{form}_exact_match": np.mean([s.exact_match for s in scores["journal"]])}
                    row |= {f"{form}_accuracy": np.mean([s.accuracy for s in scores["journal"]])}
                    row |= {f"{form}_strict": np.mean([s.accuracy for s in scores["strict"]])}
                    if form == "text":
                        for q, score in zip(asked, scores["journal"], strict=True):
                            lenient.setdefault((exam, q.id), []).append(score.accuracy - score.exact_match)
            rows.append(row)
    effect = mean_interval([np.array([np.mean(each) for each in lenient.values()])]) if lenient else None
    return pd.DataFrame(rows, columns=list(READING_COLUMNS)).astype({"asked": "Int64", "characters": "Int64"}), effect


def _same(question: Question, first: Answer, second: Answer) -> bool:
    return first.number == second.number if question.rule == "number" else first.letters == second.letters


def _verdicts(pairs: pd.DataFrame, details: pd.DataFrame, lenient: Interval | None, exact: float = 0.0) -> pd.DataFrame:
    """One row per pair and claim: the effect as the claim counts it, equivalence, whether the pair decides, and the verdict."""
    rows = []
    for pair, detail in zip(pairs.itertuples(), details.itertuples(), strict=True):
        effect = Interval(pair.difference, pair.low, pair.high)
        claim = {"medicine": 1, "Japanese": 3}.get(detail.domain)
        if claim is None:
            continue
        if claim == 3:
            effect = Interval(-effect.value, -effect.high, -effect.low)
        verdict = decide(effect, MARGIN)
        if verdict == SUPPORTED and pair.p_holm >= ALPHA:
            verdict = UNDECIDED
        counts = detail.decides and (claim == 3 or pair.adaptation == "LoRA")
        row = {"claim": claim, "exam": pair.exam, "base": pair.base, "adapted": pair.adapted, **effect._asdict()}
        row |= {"equivalence_p": detail.equivalence_p, "small": detail.equivalence_p < EQUIVALENCE_LEVEL}
        rows.append(row | {"decides": counts, "verdict": verdict, "caveat": detail.caveat})
    if lenient is not None:
        caveat = f"Exact match at most {percent(exact)} %"
        rows.append({"claim": 4, **lenient._asdict(), "decides": True, "verdict": decide(lenient, MARGIN), "caveat": caveat})
    columns = ["claim", "exam", "base", "adapted", "value", "low", "high", "equivalence_p", "small", "decides", "verdict", "caveat"]
    found = pd.DataFrame(rows, columns=columns).astype({"exam": "Int64", "small": "boolean"})
    return found.sort_values("claim", kind="stable", ignore_index=True)


def claim_verdicts(verdicts: pd.DataFrame) -> dict[int, str]:
    """The verdict of each claim: of its deciding rows, combined as in the miniature; `not measured` where there is none."""
    found = {}
    for number in (1, 2, 3, 4):
        own = verdicts[(verdicts["claim"] == number) & verdicts["decides"]]
        found[number] = combine(list(own["verdict"])) if len(own) else NOT_MEASURED
    return found


def glance(verdicts: pd.DataFrame | None = None) -> dict[int, str]:
    """For a table of claims: what the pairs, by default the committed ones, say of each claim, by its number; effects in points."""
    verdicts = read_tables().verdicts if verdicts is None else verdicts
    found = {}
    for number, verdict in claim_verdicts(verdicts).items():
        own = verdicts[(verdicts["claim"] == number) & verdicts["decides"]]
        said = [f"{percent(row.value, row.low, row.high, signed=True)}{_beside(row)}" for row in own.itertuples()]
        found[number] = f"**{verdict}**" + (f"; {PARTS[number]}: {', '.join(said)}" if said else "")
    return found


def _beside(row: Any) -> str:
    names = "" if pd.isna(row.base) else f"{row.base} → {row.adapted}"
    said = "; ".join(filter(None, (names, "" if pd.isna(row.caveat) else row.caveat)))
    return f" ({said})" if said else ""


def ladder(found: Tables) -> pd.DataFrame:
    """Points of every size of the families that have several: runs with answers by question, and totals that are reported without.

    Returns:
        Columns `exam, family, setting, system, parameters, points, answers` (whether there are answers by question).
    """
    runs = found.systems.merge(found.runs[["exam", "system", "family", "base", "thinking", "effort"]], on=["exam", "system"])
    runs = runs[runs["base"].fillna("") == ""]
    thinking = runs["thinking"].map({"yes": "thinking", "no": "no thinking"}).fillna("")
    runs = runs.assign(setting=("effort " + runs["effort"].fillna("")).where(runs["effort"].fillna("") != "", thinking), answers=True)
    totals = pd.DataFrame([{**t.model_dump(), "system": t.model, "setting": "no thinking", "answers": False} for t in known_models()[1]])
    rows = pd.concat([runs, totals[totals["exam"].isin(set(runs["exam"]))]])
    rows = rows[rows.groupby(["exam", "family", "setting"])["parameters"].transform("nunique") > 1]
    order = ["exam", "family", "setting", "parameters"]
    return rows.sort_values(order, ignore_index=True)[["exam", "family", "setting", "system", "parameters", "points", "answers"]]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of pairs or steps with the columns that a page shows: the pair, who alone was right, right of all, points [95 %], p."""
    table = table.rename(columns={"smaller": "base", "larger": "adapted"})
    rows = list(table.itertuples())
    shown = {
        "pair": [f"{r.base} → {r.adapted}" for r in rows],
        "only first / only second right": [f"{r.only_base} / {r.only_adapted}" for r in rows],
        "right": [f"{r.right_base} → {r.right_adapted} of {r.n}" for r in rows],
        "points [95 %]": [percent(r.difference, r.low, r.high, signed=True) for r in rows],
        "p": table["p"].map(p_value),
    }
    return table.assign(**shown, **({"Holm's p": table["p_holm"].map(p_value)} if "p_holm" in table else {}))


# --- files --------------------------------------------------------------------------------------------------------


def write_tables(folder: Path, found: Tables) -> list[Path]:
    """Writes every table as `<name>.csv`."""
    return [
        write_text(folder / f"{f.name}.csv", getattr(found, f.name).to_csv(index=False, lineterminator="\n", float_format="%.6g"))
        for f in fields(Tables)
        if f.name != "notices"
    ]


def read_tables(exams: Sequence[str] = tuple(EDITIONS)) -> Tables:
    """The committed tables of these exams, after their sums were checked."""
    check_manifest(FOLDER)
    editions, found = [EDITIONS[exam] for exam in exams], {}
    types = {"systems": {"passed": "boolean"}, "verdicts": {"exam": "Int64", "small": "boolean"}}
    types["readings"] = {"asked": "Int64", "characters": "Int64"}
    for f in fields(Tables):
        if f.name != "notices":
            table = pd.read_csv(FOLDER / f"{f.name}.csv", dtype=types.get(f.name))
            found[f.name] = table[table["exam"].isin(editions) | table["exam"].isna()].reset_index(drop=True)
    note = f"These are the committed tables ({paths.relative(FOLDER)}), not computed now."
    return Tables(**found, notices=(note, *(exam_files.key_notice(exam) for exam in exams)))
