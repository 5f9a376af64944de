"""Evaluation: one model, with and without its adapter, over steps, exams and shots; answers and a record of each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils import exams, fetch, generation, metrics, models, paths, prompts, statistics, tables, tuning
from jmedlora_utils.exams import Question
from jmedlora_utils.notebook import progress
from jmedlora_utils.records import Meter, Record, read_jsonl, read_record, sha256_file, sha256_text, write_record
from jmedlora_utils.registry import ModelEntry

if TYPE_CHECKING:
    import pandas as pd

SHARES = ("exact_match", "accuracy")


class EvaluationError(ValueError):
    """An evaluation that cannot be run or cannot be right; names the parameter or the model and the mend."""


@dataclass(frozen=True)
class EvalSettings:
    """Everything that shapes the answers.

    Attributes:
        base: Base model: base of the workspace, folder, registry name or hub id.
        adapter: Name of a tuning run of the workspace, adapter folder, registry name or hub id; empty for the base alone.
        steps: Checkpoints to evaluate; 0 is the base without its adapter. An adapter that is no run of the workspace has
            one step, whatever number it is given.
        exams: Names of exams, see `load_exam`.
        shots: Numbers of worked examples.
        template: Prompt template, see `prompts.TEMPLATES`.
        quantisation: `none`, `nf4`, or `auto`: as the run was tuned, since an adapter fits the base it was trained on.
        dtype: Of the weights that are not quantised.
        batch_size: Questions at once.
        limit: Questions of each exam, from its start; 0 for all.
        max_new_tokens: Answer budget; 0 for the longest gold answer in tokens and `margin`.
        margin: Tokens beyond the longest gold answer.
        too_long: `error` or `exclude` for prompts beyond the model's context; nothing is cut.
        shot_seed: Seed of the draw of worked examples.
        device: `auto` or `cpu`.
    """

    base: str
    adapter: str = ""
    steps: tuple[int, ...] = (0,)
    exams: tuple[str, ...] = ("mini_trained",)
    shots: tuple[int, ...] = (0,)
    template: str = "alpaca_ja"
    quantisation: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    limit: int = 0
    max_new_tokens: int = 0
    margin: int = 8
    too_long: str = "error"
    shot_seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "exams", "shots"):
            value = tuple(getattr(self, name))
            if not value or len(set(value)) != len(value):
                raise EvaluationError(f"{name} is {list(value)}; it must name at least one, each once")
            object.__setattr__(self, name, tuple(sorted(value)) if name == "steps" else value)
        for name in ("steps", "shots"):
            if min(getattr(self, name)) < 0:
                raise EvaluationError(f"{name} is {list(getattr(self, name))}; none may be below 0")
        if self.quantisation not in ("auto", *models.QUANTISATIONS):
            raise EvaluationError(f"quantisation is {self.quantisation!r}; it takes auto, {', '.join(models.QUANTISATIONS)}")
        for name in ("limit", "max_new_tokens", "margin"):
            if getattr(self, name) < 0:
                raise EvaluationError(f"{name} is {getattr(self, name)}; it must not be below 0")
        if self.batch_size < 1:
            raise EvaluationError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.too_long not in prompts.TOO_LONG:
            raise EvaluationError(f"too_long is {self.too_long!r}; it takes {' or '.join(prompts.TOO_LONG)}")
        prompts.get_template(self.template)
        if not self.adapter and self.steps != (0,):
            raise EvaluationError(f"steps is {list(self.steps)} without an adapter; a base alone has step 0 only")


@dataclass(frozen=True)
class Asked:
    """One question as the model reads it.

    Attributes:
        question: The question.
        prompt: The exact text.
        ids: Its token ids.
    """

    question: Question
    prompt: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Paper:
    """One exam with one number of shots, ready to be asked.

    Attributes:
        exam: Name of the exam.
        shots: Ids of the worked examples.
        asked: The questions, in exam order.
        excluded: Questions left out, by reason.
        max_new_tokens: Answer budget.
    """

    exam: str
    shots: tuple[str, ...]
    asked: tuple[Asked, ...]
    excluded: dict[str, int]
    max_new_tokens: int


def load_exam(name: str, workspace: paths.Workspace) -> tuple[list[Question], dict[str, int]]:
    """The questions of an exam that a text model can be asked, and how many were left out for which reason.

    Args:
        name: A file `data/exams/<name>.jsonl` of the workspace; else `jjsimqa`, or `igakuqa_<year>` for one year or
            `igakuqa_<first>_<last>` for several, read from the exam data of `paths.exam_data_dir()`.
        workspace: Where prepared exams lie.

    Raises:
        EvaluationError: There is no such exam.
        exams.ExamError: Its file is missing or malformed.
        fetch.FetchError: A published file is missing or was changed.
    """
    file = workspace.data / "exams" / f"{name}.jsonl"
    if file.is_file():
        return exams.select_text_five(exams.read_exam(file))
    if name == "jjsimqa":
        return exams.select_text_five(exams.load_jjsimqa(fetch.verified(["JJSIMQA/"])))
    years = name.removeprefix("igakuqa_").split("_")
    if name.startswith("igakuqa_") and all(y.isdigit() for y in years) and len(years) <= 2:
        asked = range(int(years[0]), int(years[-1]) + 1)
        return exams.select_text_five(exams.load_igakuqa(fetch.verified(f"IgakuQA/data/{year}/" for year in asked), asked))
    there = ", ".join(sorted(p.stem for p in (workspace.data / "exams").glob("*.jsonl"))) or "none; run notebook 10 or 11 first"
    raise EvaluationError(f"no exam {name!r}; prepared: {there}; always: jjsimqa, igakuqa_<year>, igakuqa_<first>_<last>")


def shot_pool(exam: str, workspace: paths.Workspace, language: str = "ja") -> list[Question]:
    """Where worked examples come from.

    `data/exams/<exam>_shots.jsonl` of the workspace, as notebook 11 writes it; without it the mini world's own pool, or
    the three of the 100th examination in IgakuQA, in the exam's language.

    Raises:
        exams.ExamError: The pool is malformed, or the mini world has none.
        fetch.FetchError: A published file is missing or was changed.
    """
    folder = workspace.data / "exams"
    own = folder / f"{exam}_shots.jsonl"
    if own.is_file():
        return exams.read_exam(own)
    if exam.startswith("mini_"):
        return exams.read_exam(folder / "mini_shots.jsonl")
    return exams.load_worked_examples(fetch.verified(["IgakuQA/scripts/prompts/"]), language)


def prepare(
    settings: EvalSettings, exam: str, n_shots: int, tokenizer: Any, context: int, workspace: paths.Workspace, pool: Sequence[Question] = ()
) -> Paper:
    """Builds and encodes every prompt of an exam.

    Args:
        settings: Template, limit and what to do with long prompts.
        exam: Name of the exam.
        n_shots: Worked examples in each prompt.
        tokenizer: Tokenizer of the model.
        context: Tokens the model can read and write in all.
        workspace: Where exams lie.
        pool: Worked examples to draw from; `shot_pool` by default.

    Raises:
        prompts.PromptError: A prompt does not fit, or the pool has too few examples.
    """
    questions, excluded = load_exam(exam, workspace)
    questions = questions[: settings.limit or None]
    if not questions:
        raise EvaluationError(f"exam {exam!r} has no question that a text model can be asked")
    shots: list[Question] = []
    if n_shots:
        pool = pool or shot_pool(exam, workspace, questions[0].language)
        shots = prompts.pick_shots(pool, n_shots, questions, settings.shot_seed)
    budget = settings.max_new_tokens or answer_budget(tokenizer, questions, settings.margin)
    texts = {q.id: prompts.build_exam_prompt(q, settings.template, shots, tokenizer) for q in questions}
    encoded, long = prompts.encode_prompts(tokenizer, texts, context - budget, settings.too_long)
    asked = tuple(Asked(q, texts[q.id], tuple(encoded[q.id])) for q in questions if q.id in encoded)
    if not asked:
        raise EvaluationError(f"exam {exam!r}: no prompt fits into {context} tokens; use fewer shots or a model with a longer context")
    return Paper(exam, tuple(s.id for s in shots), asked, excluded | {"prompt too long": len(long)}, budget)


def answer_budget(tokenizer: Any, questions: Sequence[Question], margin: int) -> int:
    """Tokens of the longest gold answer, and a margin for its end."""
    longest = max(len(tokenizer(prompts.answer_text(q), add_special_tokens=False).input_ids) for q in questions)
    return longest + margin


def generate_answers(
    model: Any, tokenizer: Any, paper: Paper, settings: EvalSettings, step: int, model_key: str, path: Path
) -> list[dict[str, Any]]:
    """Answers of a model to an exam, one row a question in exam order; what is on disk already is not asked again.

    Args:
        model: The model, with its adapter where `step` is not 0.
        tokenizer: Its tokenizer.
        paper: The exam, ready to be asked.
        settings: Batch size, and what else shapes the answers.
        step: Step of the adapter, for the rows.
        model_key: What identifies base, adapter and quantisation.
        path: The answers file, JSON lines.
    """
    keys = answer_keys(paper, settings, model_key)
    log = generation.AnswerLog(path, keys)
    if (rows := log.complete()) is not None:
        return rows
    batches = generation.sorted_batches([len(a.ids) for a in paper.asked], settings.batch_size)
    done = log.resume(batches)
    prefix = generation.read_prefix(model, [a.ids for a in paper.asked])
    for batch in progress(batches[done:], f"{paper.exam} {len(paper.shots)}-shot step {step}"):
        answers = generation.generate(model, tokenizer, [paper.asked[i].ids for i in batch], paper.max_new_tokens, prefix)
        log.append([_row(paper, i, keys[i], step, answer) for i, answer in zip(batch, answers, strict=True)])
    return log.finish()


def answer_keys(paper: Paper, settings: EvalSettings, model_key: str) -> list[str]:
    """One key per question: the hash of everything that can change its answer."""
    how = [model_key, settings.quantisation, settings.dtype, settings.batch_size, paper.max_new_tokens, paper.exam]
    # The other questions of a batch can move logits by rounding, so the whole set of prompts is part of each key.
    whole = sha256_text("".join(sha256_text(a.prompt) for a in paper.asked))
    return [sha256_text(json.dumps([*how, whole, a.question.id, sha256_text(a.prompt)]))[:32] for a in paper.asked]


def evaluate(settings: EvalSettings, run_name: str, workspace: paths.Workspace) -> list[Record]:
    """Asks every exam, with every number of shots, at every step; one answers file and one record each.

    The base is loaded once and adapters are exchanged in it; nothing is loaded where every answer is on disk. Answers are
    scored every time, so that a corrected exam or scorer counts; a record that stays the same is left as it is.
    Writes `answers/<run>__step<k>__<exam>__<s>shot.jsonl` and the record `30_evaluate__<the same>`.

    Args:
        settings: What to ask, and how.
        run_name: Name of the run.
        workspace: Where bases, adapters, exams, answers and records lie.

    Raises:
        EvaluationError: A step has no checkpoint, or the adapter changes nothing.
        models.ModelError, prompts.PromptError, exams.ExamError: Base, prompt or exam cannot be used.
    """
    subject = Subject.find(settings, workspace)
    if settings.quantisation == "auto":
        settings = replace(settings, quantisation="nf4" if subject.method == "qlora" else "none")
    tokenizer = models.load_tokenizer(subject.base)
    context = subject.context(tokenizer)
    papers = [prepare(settings, exam, shots, tokenizer, context, workspace) for exam in settings.exams for shots in settings.shots]
    records = []
    with Loader(subject, settings) as loader:
        for step in settings.steps:
            for paper in papers:
                records.append(_evaluate_one(loader, paper, settings, step, run_name, workspace, tokenizer))
    return records


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        base: The base model; of a run with continued pretraining, the base that it made.
        base_key: Fingerprint of the base.
        method: `lora`, `qlora` or `full`; empty for a base alone.
        weights: Step to adapter (or whole model for `full`).
        keys: Step to what identifies base and weights.
    """

    base: ModelEntry
    base_key: str
    method: str
    weights: dict[int, str]
    keys: dict[int, str]

    @classmethod
    def find(cls, settings: EvalSettings, workspace: paths.Workspace) -> Subject:
        """Finds base and checkpoints, without loading anything.

        Raises:
            EvaluationError: A step has no checkpoint, or the run was tuned on another base.
        """
        base = models.find_base(settings.base, workspace)
        method, weights = "", {}
        run = workspace.adapters / settings.adapter
        steps = [s for s in settings.steps if s]
        if settings.adapter and (run / "run.json").is_file():
            tuned = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
            if tuned["base"] != settings.base:
                raise EvaluationError(
                    f"run {settings.adapter!r} was tuned on base {tuned['base']!r}, not on {settings.base!r}; set base to it"
                )
            method = tuned["method"]
            there = tuning.kept_checkpoints(run)
            if missing := [s for s in steps if s not in there]:
                raise EvaluationError(
                    f"run {settings.adapter!r} has no checkpoint for step {missing[0]}; it has {', '.join(map(str, there))}"
                )
            weights = {s: str(there[s]) for s in steps}
            if (run / "base" / "config.json").is_file():
                base = models.find_base(str(run / "base"))
        elif settings.adapter:
            if len(steps) > 1:
                raise EvaluationError(
                    f"{settings.adapter!r} is one adapter, not a run of this workspace: steps {steps} must name one step and 0"
                )
            entry = models.find_adapter(settings.adapter)
            method, weights = "lora", {s: entry.location for s in steps}
        base_key = models.fingerprint(base)
        keys = {0: base_key} | {s: f"{base_key}+{_weights_key(w)}" for s, w in weights.items()}
        return cls(base, base_key, method, weights, keys)

    def context(self, tokenizer: Any) -> int:
        """Tokens the base can read and write in all."""
        return self.base.context_length or tokenizer.model_max_length


class Loader:
    """Loads a subject's models when first needed: the base once, adapters exchanged in it."""

    def __init__(self, subject: Subject, settings: EvalSettings) -> None:
        self.subject, self.settings = subject, settings
        self._base: Any = None
        self._adapted: Any = None
        self._whole: dict[int, Any] = {}
        self._step = 0

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *args: Any) -> None:
        self._base = self._adapted = None
        self._whole.clear()

    def at(self, step: int) -> Any:
        """The model at a step; 0 is the base."""
        if step and self.subject.method == "full":
            if step not in self._whole:
                self._whole = {step: self._load(models.find_base(self.subject.weights[step]))}
            return self._whole[step]
        if self._base is None:
            self._base = self._load(self.subject.base)
        if not step:
            if self._adapted is not None:
                raise EvaluationError("step 0 is asked after an adapter was put into the base; ask steps in rising order")
            return self._base
        if self._adapted is None:
            self._adapted = models.load_adapter(self._base, self.subject.weights[step])
        elif step != self._step:
            models.exchange_adapter(self._adapted, self.subject.weights[step])
        self._step = step
        return self._adapted

    def check_differs(self, step: int, paper: Paper) -> float:
        """Largest difference between the logits of the model at a step and of its base on one prompt.

        Raises:
            EvaluationError: There is none: the adapter is not applied, or it was never trained.
        """
        import torch

        model = self.at(step)
        row = torch.tensor([paper.asked[0].ids], device=model.device)
        with torch.inference_mode():
            tuned = model(input_ids=row).logits.float()
            if self.subject.method == "full":
                plain = self.at(0)(input_ids=row).logits.float()
            else:
                with model.disable_adapter():
                    plain = model(input_ids=row).logits.float()
        difference = float((tuned - plain).abs().max())
        if difference == 0.0:
            raise EvaluationError(f"step {step}: its outputs equal the base's exactly, so the adapter is not applied or was never trained")
        return difference

    def _load(self, entry: ModelEntry) -> Any:
        s = self.settings
        return models.load_base(entry, quantisation=s.quantisation, dtype=s.dtype, device=s.device)[0]


def score_groups(questions: Sequence[Question], responses: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores by scorer, group and metric, each with its n; shares with their Wilson interval.

    Groups are `all` and, where an exam has them, its sections.
    """
    frame = metrics.score_frame(questions, responses)
    frame["section"] = frame["section"].fillna("")
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for scorer, scored in frame.groupby("scorer", sort=False):
        groups = {"all": scored} | {str(s): g for s, g in scored.groupby("section") if s}
        found[str(scorer)] = {name: _metrics(group) for name, group in groups.items()}
    return found


def results_frame(records: Sequence[Record]) -> pd.DataFrame:
    """The scores of evaluation records, long: run, step, exam, shots, group, scorer, metric, value, n, low, high."""
    import pandas as pd

    rows = []
    for record in records:
        where = {k: record.config[k] for k in ("run_name", "step", "exam", "shots")}
        for scorer in metrics.SCORERS:
            for group, found in record.metrics[scorer].items():
                rows += [{**where, "group": group, "scorer": scorer, "metric": metric, **score} for metric, score in found.items()]
    return pd.DataFrame(rows)


def asked_questions(record: Record, workspace: paths.Workspace) -> tuple[list[Question], list[str]]:
    """The questions of an evaluation and what was answered to each, in the order of its answers file."""
    where = (record.config[k] for k in ("run_name", "step", "exam", "shots"))
    rows = read_jsonl(workspace.answers / f"{run_file(*where)}.jsonl")
    by_id = {q.id: q for q in load_exam(record.config["exam"], workspace)[0]}
    return [by_id[r["id"]] for r in rows], [r["response"] for r in rows]


def baseline_frame(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """What no skill and full knowledge earn on the questions asked: the rows of `metrics.baselines` by exam and group."""
    import pandas as pd

    papers: dict[tuple[str, ...], list[Question]] = {}
    for record in records:
        questions, _ = asked_questions(record, workspace)
        papers[record.config["exam"], *(q.id for q in questions)] = questions
    frames = []
    for (exam, *_), questions in papers.items():
        groups = {"all": questions} | {s: [q for q in questions if q.section == s] for q in questions if (s := q.section)}
        frames += [metrics.baselines(group).assign(exam=exam, group=name) for name, group in groups.items()]
    return pd.concat(frames, ignore_index=True).rename(columns={"baseline": "answers"})


def accuracy_table(records: Sequence[Record], workspace: paths.Workspace, scorer: str = "journal") -> pd.DataFrame:
    """Accuracy in percent, one column a step: for each exam and group the model by shots, with its 95 % interval, and the baselines."""
    import pandas as pd

    frame = results_frame(records)
    frame = frame[(frame["scorer"] == scorer) & (frame["metric"] == "accuracy")].sort_values("shots", kind="stable")
    names = list(dict.fromkeys(r.config["exam"] for r in records))
    shown = [tables.percent(*row) for row in frame[["value", "low", "high"]].itertuples(index=False)]
    frame = frame.assign(shown=shown, answers=[f"model, {n}-shot" for n in frame["shots"]])
    known = baseline_frame(records, workspace)
    known = known[known["scorer"] == scorer].assign(shown=lambda found: found["accuracy"].map(tables.percent))
    frame = pd.concat([frame, known.merge(frame[["step"]].drop_duplicates(), how="cross")])
    # Where an exam has sections, the whole of it mixes what must be told apart.
    frame = frame[(frame["group"] != "all") | (frame.groupby("exam")["group"].transform("nunique") == 1)]
    keys = ["exam", "group", "answers", "n"]
    wide = frame.pivot(index=keys, columns="step", values="shown").rename(columns=lambda step: f"step {step}")
    order = list(dict.fromkeys(frame[keys].itertuples(index=False, name=None)))
    order.sort(key=lambda row: (names.index(row[0]), row[1]))
    return wide.loc[order].rename_axis(columns=None).reset_index()


def scorer_table(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """The three scorers side by side over whole exams, in percent, with the answers nobody could read; then the baselines."""
    import pandas as pd

    known = baseline_frame(records, workspace)
    known = known[known["group"] == "all"]
    rows = []
    for exam in dict.fromkeys(r.config["exam"] for r in records):
        of_exam = [r for r in records if r.config["exam"] == exam]
        for r in sorted(of_exam, key=lambda r: (r.config["shots"], r.config["step"])):
            scores = {(s, m): r.metrics[s]["all"][m]["value"] for s in metrics.SCORERS for m in ("exact_match", "gestalt", "accuracy")}
            about = {"exam": exam, "answers": f"model, {r.config['shots']}-shot", "step": str(r.config["step"])}
            rows.append(_scorer_row(about, r.counts["questions"], scores, r.counts["unreadable"]))
        for (answers, n), found in known[known["exam"] == exam].groupby(["answers", "n"], sort=False):
            by = found.set_index("scorer")
            scores = {(s, m): by.loc[s, m] for s in metrics.SCORERS for m in ("exact_match", "gestalt", "accuracy")}
            about = {"exam": exam, "answers": answers, "step": ""}
            rows.append(_scorer_row(about, n, scores, round((1 - by.loc["strict", "readable"]) * n)))
    return pd.DataFrame(rows)


def _scorer_row(about: dict[str, Any], n: int, scores: dict[tuple[str, str], float], unreadable: int) -> dict[str, Any]:
    shown = {f"{s} {m.replace('_', ' ')}": "" if math.isnan(v) else tables.percent(v) for (s, m), v in scores.items()}
    return {**about, "n": n, **shown, "unreadable": unreadable}


def difference_table(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """Every answer on whose accuracy the scorers disagree: exam, shots, step, id, gold, response, and 0 or 1 by scorer."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for record in records:
        questions, responses = asked_questions(record, workspace)
        said = {q.id: {"gold": prompts.answer_text(q), "response": r} for q, r in zip(questions, responses, strict=True)}
        where = {k: record.config[k] for k in ("exam", "shots", "step")}
        for name, verdicts in metrics.scorer_differences(metrics.score_frame(questions, responses)).iterrows():
            rows.append({**where, "id": name, **said[str(name)], **{s: int(verdicts[s]) for s in metrics.SCORERS}})
    return pd.DataFrame(rows, columns=["exam", "shots", "step", "id", "gold", "response", *metrics.SCORERS])


def exclusion_table(records: Sequence[Record]) -> pd.DataFrame:
    """How many questions each evaluation asked, and how many it left out for which reason."""
    import pandas as pd

    rows = []
    for r in records:
        left_out = "; ".join(f"{n} {why}" for why, n in r.counts["excluded"].items() if n) or "none"
        rows.append({**{k: r.config[k] for k in ("exam", "shots", "step")}, "asked": r.counts["questions"], "left out": left_out})
    return pd.DataFrame(rows)


def example_table(records: Sequence[Record], workspace: paths.Workspace, n: int = 3) -> pd.DataFrame:
    """The first `n` questions of the first exam with the gold answer and what each step wrote, at the fewest shots."""
    import pandas as pd

    first = min(records, key=lambda r: r.config["shots"] != min(x.config["shots"] for x in records))
    exam, shots = first.config["exam"], first.config["shots"]
    steps = sorted({r.config["step"] for r in records})
    name = first.config["run_name"]
    answers = {
        s: {r["id"]: r["response"] for r in read_jsonl(workspace.answers / f"{run_file(name, s, exam, shots)}.jsonl")} for s in steps
    }
    asked = [q for q in load_exam(exam, workspace)[0] if q.id in answers[steps[0]]][:n]
    rows = [{"question": q.text, "gold": prompts.answer_text(q)} | {f"step {s}": answers[s][q.id] for s in steps} for q in asked]
    return pd.DataFrame(rows)


def run_file(run_name: str, step: int, exam: str, shots: int) -> str:
    """Stem of the answers file; the record's name is this after `30_evaluate__`."""
    return f"{run_name}__step{step}__{exam}__{shots}shot"


def _evaluate_one(
    loader: Loader, paper: Paper, settings: EvalSettings, step: int, run_name: str, workspace: paths.Workspace, tokenizer: Any
) -> Record:
    stem = run_file(run_name, step, paper.exam, len(paper.shots))
    path = workspace.answers / f"{stem}.jsonl"
    subject = loader.subject
    log = generation.AnswerLog(path, answer_keys(paper, settings, subject.keys[step]))
    record_path = workspace.records / f"30_evaluate__{stem}.json"
    meter = Meter()
    if log.complete() is None:
        with meter.stage("load"):
            model = loader.at(step)
        if step:
            loader.check_differs(step, paper)
        with meter.stage("generate"):
            rows = generate_answers(model, tokenizer, paper, settings, step, subject.keys[step], path)
    else:
        rows = log.complete() or []
    # Where the answers are of an earlier run, so is what they cost.
    earlier = read_record(record_path) if record_path.is_file() else None
    if earlier and earlier.data.get(path.name) != sha256_file(path):
        earlier = None
    questions = [a.question for a in paper.asked]
    with meter.stage("score"):
        scores = score_groups(questions, [r["response"] for r in rows])
    readable = scores["strict"]["all"]["readable"]["value"]
    record = Record(
        kind="evaluate",
        name=f"30_evaluate__{stem}",
        preset=workspace.preset,
        seed=workspace.seed,
        config={
            "run_name": run_name,
            "base": settings.base,
            "adapter": settings.adapter,
            "method": subject.method,
            "step": step,
            "exam": paper.exam,
            "shots": len(paper.shots),
            "shot_ids": list(paper.shots),
            "template": settings.template,
            "template_text": prompts.template_facts(settings.template, tokenizer),
            "quantisation": settings.quantisation,
            "max_new_tokens": paper.max_new_tokens,
            "settings": _config(settings),
        },
        metrics=scores,
        counts={
            "questions": len(rows),
            "excluded": paper.excluded,
            "unreadable": round((1 - readable) * len(rows)),
            "empty": sum(not r["response"] for r in rows),
            "ended_by_length": sum(r["finish"] == "length" for r in rows),
            "prompt_tokens": sum(len(a.ids) for a in paper.asked),
            "new_tokens": sum(r["n_new_tokens"] for r in rows),
        },
        data={path.name: sha256_file(path), f"questions of {paper.exam}": questions_sha256(questions)},
        model={
            "base": settings.base,
            "fingerprint": subject.base_key,
            "weights": subject.keys[step],
            "revision": subject.base.revision or "",
            # No answer is generated at a later step before `check_differs` has passed.
            "differs_from_base": step > 0,
        },
        **({k: getattr(earlier, k) for k in meter.fields()} if earlier else meter.fields()),
    )
    if earlier and earlier.comparable() == record.comparable():
        return earlier
    write_record(workspace.records, record)
    return record


def questions_sha256(questions: Sequence[Question]) -> str:
    """SHA-256 of questions with everything that scores them: gold, rule, choices."""
    return sha256_text("".join(json.dumps(asdict(q), ensure_ascii=False, sort_keys=True, default=sorted) + "\n" for q in questions))


def _config(settings: EvalSettings) -> dict[str, Any]:
    return {k: v for k, v in json.loads(json.dumps(asdict(settings))).items() if k not in ("steps", "exams", "shots", "device")}


def _row(paper: Paper, i: int, key: str, step: int, answer: generation.Answer) -> dict[str, Any]:
    asked = paper.asked[i]
    return {
        "key": key,
        "id": asked.question.id,
        "exam": paper.exam,
        "section": asked.question.section,
        "shots": len(paper.shots),
        "step": step,
        "prompt_sha256": sha256_text(asked.prompt),
        "response": answer.text,
        "finish": answer.finish,
        "n_new_tokens": answer.n_new_tokens,
    }


def _metrics(group: Any) -> dict[str, dict[str, float]]:
    n = len(group)
    found = {}
    for name in SHARES:
        interval = statistics.wilson(float(group[name].sum()), n)
        found[name] = {"value": interval.value, "n": n, "low": interval.low, "high": interval.high}
    found["gestalt"] = {"value": float(group["gestalt"].mean()), "n": n}
    found["readable"] = {"value": float(group["readable"].astype(float).mean()), "n": n}
    return found


def _weights_key(location: str) -> str:
    """What identifies an adapter or a whole model: a hash of its files, or the hub id."""
    folder = Path(location)
    return tuning.weights_sha256(folder) if folder.is_dir() else location
