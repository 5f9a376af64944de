"""A study: what every model of a preset answered, question by question, beside the records of how each was made."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import Preset, load_preset
from jmedlora_utils.core.records import Record, load_records, read_jsonl
from jmedlora_utils.data.exam_files import INVENTED_EXAMS, QUIZ_EXAMS, TAUGHT_EXAMS
from jmedlora_utils.data.questions import Question

METRICS = {
    "exact_match": ("journal", "exact_match"),
    "gestalt": ("journal", "gestalt"),
    "accuracy": ("journal", "accuracy"),
    "strict_exact_match": ("strict", "exact_match"),
    "strict_accuracy": ("strict", "accuracy"),
}
METHODS = {
    "none": "base",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "cpt-lora": "articles, then LoRA",
    "lora-emb": "LoRA, embeddings too",
    "full": "full tuning",
}
CONDITION = ["seed", "run", "base", "size_params", "centric", "method", "quantisation", "template", "steps", "shots"]
QUESTION = ["exam", "facts", "id", "category", "n_select", "chance"]
MEANS_OF = ["seed", "run", "base", "size_params", "steps", "shots", "exam", "facts"]
FORMS = ["seed", "run", "steps", "shots", "exam", "n_select", "n", "as_asked", "right"]
LIKELIHOOD = ["seed", "run", "exam", "steps", "shots"]
TAUGHT, TAUGHT_HELD_OUT, UNTAUGHT, UNTAUGHT_HELD_OUT = "taught", "taught_held_out_phrasing", "untaught", "untaught_held_out_phrasing"
GROUPS = (TAUGHT, TAUGHT_HELD_OUT, UNTAUGHT, UNTAUGHT_HELD_OUT, "general")
EVIDENCE_KINDS = ("prepare", "pretrain", "tune")
SMOKE = "smoke: a test of the code with a toy of a toy. Nothing on this page is evidence."


@dataclass(frozen=True)
class Study:
    """Everything an analysis page reads."""

    preset: str  #: Preset that the answers come from
    origin: str  #: `committed` or `run`
    outcomes: pd.DataFrame  #: One row per question, model and condition: the columns `CONDITION`, `QUESTION` and the keys of `METRICS`
    records: list[Record]  #: Records of preparing, pretraining and tuning
    examples: pd.DataFrame  #: Answers kept for reading: seed, run, steps, exam, id, response
    questions: pd.DataFrame  #: Exam questions, one row per seed, exam and id: `seed`, `QUESTION`, `text`, `choices`, `gold` (letters)
    forms: pd.DataFrame  #: Answers on untaught facts by whether they have the form asked for: the columns `FORMS`
    #: Device, dates and commit of the run; `evaluate_seconds`: run name to seconds, mean over seeds; `left_out`: records found beside
    #: the run that the preset does not name
    about: dict[str, Any]
    #: Accuracy of the likeliest choice where it was asked for, one row per seed, run, exam, step and shots (`LIKELIHOOD`): a share for
    #: each normaliser, and the number of questions `n`
    likelihood: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LIKELIHOOD))
    folder: Path | None = None  #: Where committed evidence was read

    @property
    def seeds(self) -> list[int]:
        return sorted(int(s) for s in self.outcomes["seed"].unique())

    @cached_property
    def means(self) -> pd.DataFrame:
        """Mean of every metric, and the number of questions `n`, by seed, run, base, size, step, shots, exam and group of facts.

        A group is told without its wording, which the exam tells: `taught` or `untaught`.
        """
        facts = self.outcomes["facts"].astype(str).str.removesuffix("_held_out_phrasing")
        rows = self.outcomes.assign(facts=facts).groupby(MEANS_OF, observed=True)
        return rows[list(METRICS)].mean().assign(n=rows.size()).reset_index()

    def seeds_text(self) -> str:
        """`1 seed` or `5 seeds`."""
        return f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"

    def source_line(self) -> str:
        """Where the numbers come from, for the foot of a table: preset, seeds, device, day."""
        kind = "committed evidence" if self.origin == "committed" else "this run"
        return f"Preset {self.preset}, {self.seeds_text()}, {self.about['device']}, {self.about['created'][:10]} ({kind})"

    def banner(self) -> str:
        """Markdown warnings: the numbers are no evidence, rest on one seed, or leave records or a base out; empty otherwise."""
        said = []
        if self.preset == "smoke":
            said.append(smoke_warning())
        elif len(self.seeds) == 1:
            said.append(_note("One seed: the intervals describe other questions, not another training run."))
        if left := self.about.get("left_out"):
            said.append(_note(f"Records left out, because the preset does not name their run, step, exam or shots: {left}."))
        centred = self.outcomes[["base", "centric"]].astype(str).drop_duplicates()
        if unknown := sorted(centred.loc[centred["centric"] == "unknown", "base"]):
            names = ", ".join(f"`{Path(base).name}`" for base in unknown)
            said.append(
                _note(
                    f"The language that {names} is centred on is not known, so comparisons by language leave it out. "
                    "A registry of your own (`JMEDLORA_MODELS`) can state it."
                )
            )
        return "".join(said)


def smoke_warning() -> str:
    """The Markdown warning above every result of the smoke preset."""
    return f":::{{warning}}\n{SMOKE}\n:::\n"


def _note(text: str) -> str:
    return f":::{{note}}\n{text}\n:::\n"


def read_runs(preset: str, seeds: Sequence[int] = ()) -> Study:
    """Scores the answers of a preset below `runs/`.

    Only what the preset names now is read: records of a run, step, exam or number of shots that it no longer has, or
    never had, are counted in `Study.about["left_out"]`.

    Args:
        preset: A preset that has run.
        seeds: Seeds to read; all of the preset's by default.

    Raises:
        JmedloraError: A seed has no evaluation, or an answers file is missing or does not match its exam.
    """
    settings = load_preset(preset)
    wanted, planned, left_out = tuple(seeds) or settings.seeds, evaluations(settings), 0
    records: list[Record] = []
    scored: list[pd.DataFrame] = []
    questions: list[pd.DataFrame] = []
    for seed in wanted:
        workspace = paths.Workspace(preset, seed)
        try:
            found = load_records(workspace.root, allow_smoke=True)
        except JmedloraError as error:
            raise JmedloraError(f"preset {preset!r}, seed {seed}: {error}") from error
        # The same weights loaded in another way are compared on notebook 30's own page; here they would count twice.
        found = [r for r in found if not r.config.get("variant_of")]
        named = [r for r in found if _is_named(r, settings, planned)]
        left_out += len(found) - len(named)
        exams: dict[str, pd.DataFrame] = {}
        own = [_score(workspace, record, named, exams) for record in named if record.kind == "evaluate"]
        if not own:
            raise JmedloraError(f"preset {preset!r}: no evaluation record below {paths.relative(workspace.root)}; run the seed first")
        scored += own
        records += named
        questions += exams.values()
    evaluated = [r for r in records if r.kind == "evaluate"]
    about = {
        "device": evaluated[0].device,
        "created": max(r.created for r in evaluated),
        "git_commit": evaluated[0].git_commit,
        "evaluate_seconds": _seconds_by_run(evaluated, len(wanted)),
        "left_out": left_out,
    }
    answers = pd.concat(scored, ignore_index=True)
    return Study(
        preset,
        "run",
        compact(answers[[*CONDITION, *QUESTION, *METRICS]]),
        [r for r in records if r.kind in EVIDENCE_KINDS],
        answers.loc[answers["shots"] == 0, ["seed", "run", "steps", "exam", "id", "response"]],
        pd.concat(questions, ignore_index=True),
        _forms(answers),
        about,
        _likelihood(evaluated),
    )


def _likelihood(records: Iterable[Record]) -> pd.DataFrame:
    rows = []
    for record in records:
        if found := {name: groups["all"]["accuracy"] for name, groups in record.metrics.get("likelihood", {}).items()}:
            run, step, exam, shots = evaluation_of(record)
            shares = {name: score["value"] for name, score in found.items()}
            rows.append(dict(zip(LIKELIHOOD, (record.seed, run, exam, step, shots), strict=True)) | shares)
            rows[-1]["n"] = min(score["n"] for score in found.values())
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=LIKELIHOOD)


def evaluations(preset: Preset) -> set[tuple[str, int, str, int]]:
    """Every evaluation that a preset asks for: run, step, exam, shots; notebook 30's defaults where the preset is silent."""
    found: set[tuple[str, int, str, int]] = set()
    for run in preset.runs:
        asked = run.all_evaluation()
        found |= set(itertools.product([run.name], asked["steps"], asked["exams"], asked["shots"]))
    return found


def evaluation_of(record: Record) -> tuple[str, int, str, int]:
    """Run, step, exam and shots of an evaluation record."""
    return record.config["run_name"], int(record.config["step"]), record.config["exam"], int(record.config["shots"])


def _is_named(record: Record, preset: Preset, planned: set[tuple[str, int, str, int]]) -> bool:
    if record.kind == "evaluate":
        return evaluation_of(record) in planned
    return record.kind != "tune" or record.config["run_name"] in {run.name for run in preset.runs}


def _seconds_by_run(records: Sequence[Record], seeds: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for record in records:
        seconds[record.config["run_name"]] = seconds.get(record.config["run_name"], 0.0) + record.wall_seconds
    return {run: round(total / seeds, 1) for run, total in seconds.items()}


def _score(workspace: paths.Workspace, record: Record, records: Sequence[Record], exams: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The answers of one evaluation, scored, one row per question; adds the exam's questions to `exams`."""
    from jmedlora_utils.evaluation import exam_prompts, metrics, results

    run, step, exam, shots = evaluation_of(record)
    questions = results.exam_of(record, workspace)
    answers_file = workspace.answers / f"{record.name.removeprefix('30_evaluate__')}.jsonl"
    answers = {row["id"]: row["response"] for row in read_jsonl(answers_file)}
    asked = [q for q in questions if q.id in answers]
    if len(asked) != len(answers):
        where = paths.relative(answers_file)
        raise JmedloraError(f"{where}: {len(answers) - len(asked)} answers to questions that {exam} does not have; evaluate the run again")
    responses = [answers[q.id] for q in asked]
    scores = metrics.score_frame(asked, responses, scorers=("journal", "strict")).set_index(["scorer", "id"])
    table = question_frame(asked)
    if exam not in exams:
        # For reading, the choices stand as printed, whatever order a run asked them in.
        exams[exam] = question_frame(exam_prompts.load_exam(exam, workspace)[0], texts=True).assign(seed=record.seed)
    for column, (scorer, name) in METRICS.items():
        table[column] = scores.loc[scorer][name].reindex(table["id"]).to_numpy(float)
    read = scores.loc["strict"].reindex(table["id"])
    picked = read["picked"].map(lambda letters: len(letters.split(",")) if letters else 0)
    base = record.config["base"]
    size, centric = base_facts(records, base)
    loaded = record.config.get("quantisation") or "none", record.config.get("template") or ""
    condition = (record.seed, run, base, size, centric, method_of(records, run), *loaded, step, shots)
    as_asked = read["readable"].to_numpy(bool) & (picked.to_numpy() == table["n_select"].to_numpy())
    return table.assign(**dict(zip(CONDITION, condition, strict=True)), response=responses, as_asked=as_asked)


def _forms(answers: pd.DataFrame) -> pd.DataFrame:
    """Of the answers on untaught facts, those that name as many listed choices as asked, and the right ones among them (`FORMS`)."""
    untaught = answers[answers["facts"] == UNTAUGHT]
    given = untaught.assign(n=1, right=untaught["as_asked"] & (untaught["strict_accuracy"] == 1))
    return given.groupby(FORMS[:-3], as_index=False)[FORMS[-3:]].sum()


def question_frame(questions: Sequence[Any], texts: bool = False) -> pd.DataFrame:
    """Exam questions as a table, with their group and the chance of a blind pick; `texts` adds stem, choices, gold.

    The group, column `facts`, is the group of facts of an invented exam or a quiz; the questions of a published exam are one group, named
    after it.
    """
    rows = []
    for q, chance in zip(questions, statistics.chances(questions), strict=True):
        facts = q.section if q.exam in (*INVENTED_EXAMS, *TAUGHT_EXAMS, *QUIZ_EXAMS) else q.exam
        facts = TAUGHT_HELD_OUT if (q.exam, facts) == ("mini_heldout", TAUGHT) else facts
        row = {"exam": q.exam, "facts": facts, "id": q.id, "category": q.category, "n_select": q.n_select, "chance": float(chance)}
        if texts:
            row |= {"text": q.text, "choices": list(q.choices), "gold": "".join(sorted(q.gold))}
        rows.append(row)
    return pd.DataFrame(rows)


def question_of(row: Mapping[str, Any], **more: Any) -> Question:
    """The question of a row of `Study.questions` whose text is kept; `more` fields are those of `Question`."""
    about = {"n_select": int(row["n_select"]), **more}
    return Question(row["id"], row["exam"], "ja", row["text"], tuple(row["choices"]), frozenset(row["gold"]), **about)


def compact(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with their text columns as categories, which makes comparing a hundred thousand rows fast."""
    texts = [c for c in (*CONDITION, *QUESTION) if not pd.api.types.is_numeric_dtype(outcomes[c])]
    return outcomes.astype(dict.fromkeys(texts, "category"))


def phrasings_apart(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The outcomes with the untaught facts of each phrasing as a group of their own: together, each fact would count twice.

    Where further exams have groups of the same name, such as the taught half of real questions, each exam's is a group `<exam>_<group>`.
    """
    again = (outcomes["facts"] == UNTAUGHT) & (outcomes["exam"] == "mini_heldout")
    facts, exam = outcomes["facts"].astype(str).mask(again, UNTAUGHT_HELD_OUT), outcomes["exam"].astype(str)
    exams_of = pd.DataFrame({"facts": facts, "exam": exam}).drop_duplicates()["facts"].value_counts()
    shared = facts.map(exams_of).gt(1) & (exam != "mini_trained")
    return compact(outcomes.assign(facts=facts.mask(shared, exam + "_" + facts)))


def base_facts(records: Sequence[Record], base: str) -> tuple[int, str]:
    """Parameters of a base and the language it is centred on, one of `registry.LANGUAGES`.

    From its pretraining record where it was trained here, else from the model registry. The language of a local folder, or of a
    model that the registry does not list, is `unknown`; its size may then stand in the record of a tuning run.

    Raises:
        JmedloraError: Nothing knows its size.
    """
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


def method_of(records: Sequence[Record], run: str) -> str:
    """Method of a run, a key of `METHODS`, from its tuning record; `none` for a base that is only evaluated.

    An adapter that was tuned elsewhere has no such record: `lora`, or `qlora` where it was asked on the base in 4 bits.
    """
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


def loss_series(records: Iterable[Record]) -> pd.DataFrame:
    """Loss series of tuning records, long: columns `base`, `run`, `seed`, `step`, `loss`."""
    rows = [
        (r.model["base"], r.config["run_name"], r.seed, int(point["step"]), float(point["loss"]))
        for r in records
        if r.kind == "tune"
        for point in r.metrics["series"]
    ]
    return pd.DataFrame(rows, columns=["base", "run", "seed", "step", "loss"])
