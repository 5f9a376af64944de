"""Evaluation: one model, with and without its adapter, over steps, exams and shots; answers and a record of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmedlora_utils.core import formatting, paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.identity import produced_by
from jmedlora_utils.core.locks import alone
from jmedlora_utils.core.notebook import progress
from jmedlora_utils.core.records import Meter, Record, read_jsonl, read_record, sha256_file, sha256_text, write_record
from jmedlora_utils.data import fetch, igakuqa, jjsimqa, prompts
from jmedlora_utils.data.questions import Question, read_exam, select_text_five
from jmedlora_utils.evaluation import generation, likelihood, metrics, shards, shuffling
from jmedlora_utils.evaluation.checkpoints import Loader, Source, Subject
from jmedlora_utils.evaluation.costs import Ledger, sum_costs
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading

if TYPE_CHECKING:
    import pandas as pd

SHARES = ("exact_match", "accuracy")


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
        JmedloraError: There is no such exam.
        JmedloraError: Its file is missing or malformed.
        JmedloraError: A published file is missing or was changed.
    """
    file = workspace.data / "exams" / f"{name}.jsonl"
    if file.is_file():
        return select_text_five(read_exam(file))
    if name == "jjsimqa":
        return select_text_five(jjsimqa.load_jjsimqa(fetch.verified(["JJSIMQA/"])))
    years = name.removeprefix("igakuqa_").split("_")
    if name.startswith("igakuqa_") and all(y.isdigit() for y in years) and len(years) <= 2:
        asked = range(int(years[0]), int(years[-1]) + 1)
        return select_text_five(igakuqa.load_igakuqa(fetch.verified(f"IgakuQA/data/{year}/" for year in asked), asked))
    there = ", ".join(sorted(p.stem for p in (workspace.data / "exams").glob("*.jsonl"))) or "none; run notebook 10 or 11 first"
    raise JmedloraError(f"no exam {name!r}; prepared: {there}; always: jjsimqa, igakuqa_<year>, igakuqa_<first>_<last>")


def shot_pool(exam: str, workspace: paths.Workspace, language: str = "ja") -> list[Question]:
    """Where worked examples come from.

    `data/exams/<exam>_shots.jsonl` of the workspace, as notebook 11 writes it; without it the mini world's own pool, or
    the three of the 100th examination in IgakuQA, in the exam's language.

    Raises:
        JmedloraError: The pool is malformed, or the mini world has none.
        JmedloraError: A published file is missing or was changed.
    """
    folder = workspace.data / "exams"
    own = folder / f"{exam}_shots.jsonl"
    if own.is_file():
        return read_exam(own)
    if exam.startswith("mini_"):
        return read_exam(folder / "mini_shots.jsonl")
    return igakuqa.load_worked_examples(fetch.verified(["IgakuQA/scripts/prompts/"]), language)


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
        JmedloraError: A prompt does not fit, or the pool has too few examples.
    """
    questions, excluded = load_exam(exam, workspace)
    questions = [shuffling.shuffle_choices(q, settings.shuffle_choices) for q in questions[: settings.limit or None]]
    if not questions:
        raise JmedloraError(f"exam {exam!r} has no question that a text model can be asked")
    shots: list[Question] = []
    if n_shots:
        pool = pool or shot_pool(exam, workspace, questions[0].language)
        shots = prompts.pick_shots(pool, n_shots, questions, settings.shot_seed)
    budget = settings.max_new_tokens or answer_budget(tokenizer, questions, settings.margin)
    texts = {q.id: prompts.build_exam_prompt(q, settings.template, shots, tokenizer) for q in questions}
    encoded, long = prompts.encode_prompts(tokenizer, texts, context - budget, settings.too_long)
    asked = tuple(Asked(q, texts[q.id], tuple(encoded[q.id])) for q in questions if q.id in encoded)
    if not asked:
        raise JmedloraError(f"exam {exam!r}: no prompt fits into {context} tokens; use fewer shots or a model with a longer context")
    return Paper(exam, tuple(s.id for s in shots), asked, excluded | {"prompt too long": len(long)}, budget)


def answer_budget(tokenizer: Any, questions: Sequence[Question], margin: int) -> int:
    """Tokens of the longest gold answer, and a margin for its end."""
    longest = max(len(tokenizer(prompts.answer_text(q), add_special_tokens=False).input_ids) for q in questions)
    return longest + margin


@dataclass(frozen=True)
class Part:
    """What one run asks of a paper: all of it, or the batches of one shard.

    Attributes:
        paper: The paper, cut to the questions asked here.
        keys: Their keys.
        batches: Positions of the questions asked together.
        rows: Token ids of every prompt of the whole paper, whose common start is read once.
    """

    paper: Paper
    keys: tuple[str, ...]
    batches: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, ...], ...]


def part_of(paper: Paper, keys: Sequence[str], settings: EvalSettings) -> Part:
    """The part of a paper that `settings` asks for.

    Raises:
        JmedloraError: There are more shards than batches.
    """
    batches = generation.sorted_batches([len(a.ids) for a in paper.asked], settings.batch_size)
    if len(batches) < settings.num_shards:
        raise JmedloraError(
            f"num_shards is {settings.num_shards}, but {paper.exam!r} has only {len(batches)} batches of {settings.batch_size} "
            f"(a shard asks whole batches); lower num_shards or batch_size"
        )
    mine = batches[settings.shard_index :: settings.num_shards]
    own = sorted(i for batch in mine for i in batch)
    place = {i: n for n, i in enumerate(own)}
    cut = replace(paper, asked=tuple(paper.asked[i] for i in own))
    together = tuple(tuple(place[i] for i in batch) for batch in mine)
    return Part(cut, tuple(keys[i] for i in own), together, tuple(a.ids for a in paper.asked))


@dataclass(frozen=True)
class Sheet:
    """Where the rows of a part are written.

    Attributes:
        path: The answers or the likelihood file, JSON lines.
        ledger: Where its cost is booked.
        known: Rows by key that need not be asked, of finished shards.
    """

    path: Path
    ledger: Ledger
    known: dict[str, dict[str, Any]]


def generate_answers(source: Source, part: Part, step: int, sheet: Sheet) -> list[dict[str, Any]]:
    """Answers to a part, one row a question in exam order; what is on disk already is not asked again.

    Args:
        source: Where answers come from, loaded at `step`.
        part: What is asked.
        step: Step of the adapter, for the rows.
        sheet: Where they are written.
    """
    write = source.writer(part.rows)

    def ask(batch: Sequence[int]) -> list[dict[str, Any]]:
        answers = write([part.paper.asked[i].ids for i in batch], part.paper.max_new_tokens)
        said = [{"response": a.text, "finish": a.finish, "n_new_tokens": a.n_new_tokens} for a in answers]
        return [_row(part, i, step) | answer for i, answer in zip(batch, said, strict=True)]

    return _ask_all(part, ask, sheet, "generate", f"{part.paper.exam} {len(part.paper.shots)}-shot step {step}")


def score_choices(loader: Loader, part: Part, step: int, sheet: Sheet) -> list[dict[str, Any]]:
    """Log-probabilities of every choice of a part, one row a question in exam order, resumed as answers are.

    Args:
        loader: The model, loaded at `step`.
        part: What is asked.
        step: Step of the adapter, for the rows.
        sheet: Where they are written.
    """
    prefix = generation.read_prefix(loader.model, part.rows)

    def ask(batch: Sequence[int]) -> list[dict[str, Any]]:
        asked = [part.paper.asked[i] for i in batch]
        options = [likelihood.encode_options(loader.tokenizer, a.prompt, a.ids, a.question.choices) for a in asked]
        scores = likelihood.score_batch(loader.model, [a.ids for a in asked], [o.ids for o in options], prefix)
        return [
            _row(part, i, step) | {"logprobs": found, "tokens": [len(ids) for ids in o.ids], "boundary_merges": o.merges}
            for i, found, o in zip(batch, scores, options, strict=True)
        ]

    return _ask_all(part, ask, sheet, "likelihood", f"{part.paper.exam} {len(part.paper.shots)}-shot step {step}, likelihood")


def _ask_all(
    part: Part, ask: Callable[[Sequence[int]], list[dict[str, Any]]], sheet: Sheet, stage: str, title: str
) -> list[dict[str, Any]]:
    log = generation.AnswerLog(sheet.path, part.keys)
    done = log.resume(part.batches)
    for batch in progress(part.batches[done:], title):
        known = [row for i in batch if (row := sheet.known.get(part.keys[i]))]
        log.append(known if len(known) == len(batch) else ask(batch))
        sheet.ledger.lap(stage)
    return log.finish()


def answer_keys(paper: Paper, settings: EvalSettings, model_key: str, what: str = "") -> list[str]:
    """One key per question: the hash of everything that can change its answer, libraries and this package's own code included.

    Args:
        paper: The exam, ready to be asked.
        settings: How it is asked.
        model_key: What identifies base, adapter and quantisation.
        what: What is asked for, where it is not a written answer.
    """
    how: list[Any] = [model_key, settings.quantisation, settings.dtype, settings.batch_size, paper.max_new_tokens, paper.exam]
    how += [extra for extra in (settings.beyond_defaults(), what) if extra]
    how.append(produced_by("evaluation.evaluator"))
    # The other questions of a batch can move logits by rounding, so the whole set of prompts is part of each key.
    whole = sha256_text("".join(sha256_text(a.prompt) for a in paper.asked))
    return [sha256_text(json.dumps([*how, whole, a.question.id, sha256_text(a.prompt)]))[:32] for a in paper.asked]


def evaluate(settings: EvalSettings, run_name: str, workspace: paths.Workspace, variant_of: str = "") -> list[Record]:
    """Asks every exam, with every number of shots, at every step; one answers file and one record each.

    The base is loaded once and adapters are exchanged in it; nothing is loaded where every answer is on disk. Answers are
    scored every time, so that a corrected exam or scorer counts; a record that stays the same is left as it is.
    Writes `answers/<run>__step<k>__<exam>__<s>shot.jsonl` and the record `30_evaluate__<the same>`; with `likelihood`, also
    `answers/<the same>__likelihood.jsonl`.

    A shard writes its own answers, and the whole with its record once it finds all others done. Until then its records
    speak of its own questions alone, name the shard, and are not written. An unsplit run puts finished shards together, and
    asks only what no shard has answered.

    A record's cost is that of every run that worked on it, killed ones up to their last whole batch.

    Args:
        settings: What to ask, and how.
        run_name: Name of the run.
        workspace: Where bases, adapters, exams, answers and records lie.
        variant_of: Name of the run whose weights these are, loaded in another way; see `variants`.

    Raises:
        JmedloraError: A step has no checkpoint, or the adapter changes nothing.
        JmedloraError: Base, prompt or exam cannot be used, or another process evaluates this run.
    """
    paths.check_name(variant_of or run_name, "run_name")
    with alone(workspace.logs / f".30_evaluate__{run_name}__{settings.shard_index}.lock", f"the evaluation of {run_name}"):
        return _evaluate(settings, run_name, workspace, variant_of)


def _evaluate(settings: EvalSettings, run_name: str, workspace: paths.Workspace, variant_of: str) -> list[Record]:
    subject = Subject.find(settings, workspace)
    if settings.quantisation == "auto":
        settings = replace(settings, quantisation="nf4" if subject.method == "qlora" else "none")
    tokenizer = loading.load_tokenizer(subject.base)
    context = subject.context(tokenizer)
    papers = [prepare(settings, exam, shots, tokenizer, context, workspace) for exam in settings.exams for shots in settings.shots]
    sittings = [
        Sitting.plan(subject, paper, settings, step, run_name, workspace, variant_of) for step in settings.steps for paper in papers
    ]
    with _open_source(subject, settings, tokenizer) as source:
        records = [sitting.run(source, tokenizer) for sitting in sittings]
    # Another shard may have ended since.
    return [sitting.run(source, tokenizer) if "shard" in r.config else r for sitting, r in zip(sittings, records, strict=True)]


def _open_source(subject: Subject, settings: EvalSettings, tokenizer: Any) -> Source:
    if settings.backend == "vllm":
        from jmedlora_utils.evaluation.vllm_backend import VllmSource

        return VllmSource(subject, settings, tokenizer)
    return Loader(subject, settings, tokenizer)


@dataclass(frozen=True)
class Sitting:
    """One exam, asked of one step with one number of shots.

    Attributes:
        subject: What is evaluated.
        paper: The whole exam.
        keys: Its keys: of the answers, and of the likelihood file where that is asked for.
        parts: What this run asks of it, by the same names.
        settings: How it is asked.
        step: Step of the adapter.
        run_name: Name of the run.
        workspace: Where answers and records lie.
        variant_of: See `evaluate`.
    """

    subject: Subject
    paper: Paper
    keys: dict[str, list[str]]
    parts: dict[str, Part]
    settings: EvalSettings
    step: int
    run_name: str
    workspace: paths.Workspace
    variant_of: str

    @classmethod
    def plan(
        cls,
        subject: Subject,
        paper: Paper,
        settings: EvalSettings,
        step: int,
        run_name: str,
        workspace: paths.Workspace,
        variant_of: str,
    ) -> Sitting:
        keys = {"": answer_keys(paper, settings, subject.keys[step])}
        if settings.likelihood:
            keys["likelihood"] = answer_keys(paper, settings, subject.keys[step], "likelihood")
        parts = {what: part_of(paper, found, settings) for what, found in keys.items()}
        return cls(subject, paper, keys, parts, settings, step, run_name, workspace, variant_of)

    @property
    def stem(self) -> str:
        return run_file(self.run_name, self.step, self.paper.exam, len(self.paper.shots))

    def file(self, what: str) -> Path:
        """Where the whole lies: answers (``), or `likelihood`."""
        return self.workspace.answers / (f"{self.stem}__{what}.jsonl" if what else f"{self.stem}.jsonl")

    def run(self, source: Source, tokenizer: Any) -> Record:
        """Asks what is not on disk, and returns the record: of the whole, or of this shard while others are missing."""
        found = {what: self._rows(what, source) for what in self.keys}
        meter, files = Meter(), {what: self.file(what) for what in self.keys}
        if all(len(rows) == len(self.paper.asked) for rows in found.values()):
            return self._write(files, found, meter, tokenizer)
        index, of = self.settings.shard_index, self.settings.num_shards
        mine = {what: [r for r in rows if r["key"] in set(self.parts[what].keys)] for what, rows in found.items()}
        named = {what: shards.shard_path(file, index, of) for what, file in files.items()}
        named = {what: file if file.is_file() else files[what] for what, file in named.items()}
        record = self._record(named, self.parts[""].paper, mine, meter, tokenizer)
        return replace(record, config=record.config | {"shard": f"{index} of {of}"})

    def _rows(self, what: str, source: Source) -> list[dict[str, Any]]:
        """Rows of the whole where it is there, can be put together from shards, or is asked here; else those of this shard."""
        path, keys = self.file(what), self.keys[what]
        log = generation.AnswerLog(path, keys)
        if (rows := log.complete()) is not None:
            return rows
        index, of = self.settings.shard_index, self.settings.num_shards
        if of == 1 and not shards.join(path, keys):
            return self._ask(what, source, path, shards.answered(path, keys))
        if of > 1:
            own = shards.shard_path(path, index, of)
            rows = self._ask(what, source, own, {})
            ledger = Ledger(own, self.parts[what].keys)
            shards.finish(path, index, of, keys, ledger.total())
            ledger.close()
            if not shards.join(path, keys):
                return rows
        return read_jsonl(path)

    def _ask(self, what: str, source: Source, path: Path, known: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        part = self.parts[what]
        if (rows := generation.AnswerLog(path, part.keys).complete()) is not None:
            return rows
        sheet = Sheet(path, Ledger(path, part.keys), known)
        source.load(self.step, self.paper.asked[0].ids)
        sheet.ledger.lap("load")
        if what:
            assert isinstance(source, Loader)  # EvalSettings refuses likelihood with any other
            return score_choices(source, part, self.step, sheet)
        return generate_answers(source, part, self.step, sheet)

    def _write(self, files: dict[str, Path], rows: dict[str, list[dict[str, Any]]], meter: Meter, tokenizer: Any) -> Record:
        path = self.workspace.records / f"30_evaluate__{self.stem}.json"
        earlier = read_record(path) if path.is_file() else None
        record = self._record(files, self.paper, rows, meter, tokenizer)
        if earlier and earlier.comparable() == record.comparable():
            record = earlier
        else:
            record = replace(record, **self._cost(files, earlier, meter))
            write_record(self.workspace.records, record)
        for what, file in files.items():
            Ledger(file, self.keys[what]).close()
        return record

    def _cost(self, files: dict[str, Path], earlier: Record | None, meter: Meter) -> dict[str, Any]:
        """What the whole cost: files that an earlier record speaks of are paid in it, and a file that is new adds its own."""
        known = earlier.data if earlier else {}
        new = [what for what, file in files.items() if known.get(file.name) != sha256_file(file)]
        costs = [{k: getattr(earlier, k) for k in meter.fields()}] if len(new) < len(files) else []
        for what in new:
            costs += [shards.spent(files[what], self.keys[what]), Ledger(files[what], self.keys[what]).total()]
        return sum_costs([*costs, meter.fields()] if new else costs)

    def _record(self, files: dict[str, Path], paper: Paper, rows: dict[str, list[dict[str, Any]]], meter: Meter, tokenizer: Any) -> Record:
        settings, answers = self.settings, rows[""]
        questions = [a.question for a in paper.asked]
        with meter.stage("score"):
            scores: dict[str, Any] = score_groups(questions, [r["response"] for r in answers])
            if settings.likelihood:
                scores["likelihood"] = likelihood.score_groups(questions, rows["likelihood"])
        readable = scores["strict"]["all"]["readable"]["value"]
        counts = {
            "questions": len(answers),
            "excluded": paper.excluded,
            "unreadable": round((1 - readable) * len(answers)),
            "empty": sum(not r["response"] for r in answers),
            "ended_by_length": sum(r["finish"] == "length" for r in answers),
            "prompt_tokens": sum(len(a.ids) for a in paper.asked),
            "new_tokens": sum(r["n_new_tokens"] for r in answers),
        }
        if settings.likelihood:
            counts["boundary_merges"] = sum(r["boundary_merges"] for r in rows["likelihood"])
        return Record(
            kind="evaluate",
            name=f"30_evaluate__{self.stem}",
            preset=self.workspace.preset,
            seed=self.workspace.seed,
            config={
                "run_name": self.run_name,
                "base": settings.base,
                "adapter": settings.adapter,
                "method": self.subject.method,
                "step": self.step,
                "exam": paper.exam,
                "shots": len(paper.shots),
                "shot_ids": list(paper.shots),
                "template": settings.template,
                "template_text": prompts.template_facts(settings.template, tokenizer),
                "quantisation": settings.quantisation,
                "max_new_tokens": paper.max_new_tokens,
                "settings": settings.recorded(),
            }
            | ({"variant_of": self.variant_of} if self.variant_of else {}),
            metrics=scores,
            counts=counts,
            data={f.name: sha256_file(f) for f in files.values()} | {f"questions of {paper.exam}": questions_sha256(questions)},
            model={
                "base": settings.base,
                "fingerprint": self.subject.base_key,
                "weights": self.subject.keys[self.step],
                "revision": self.subject.base.revision or "",
                # No answer is generated at a later step before its outputs are seen to differ from the base's.
                "differs_from_base": self.step > 0,
            },
            **meter.fields(),
        )


def shard_notice(settings: EvalSettings, records: Sequence[Record]) -> str:
    """One sentence on what a shard's page speaks of; empty for an unsplit run."""
    if settings.num_shards == 1:
        return ""
    waiting = sum("shard" in r.config for r in records)
    if not waiting:
        return f"All {settings.num_shards} shards are done and merged; the tables speak of all questions."
    return (
        f"Shard {settings.shard_index} of 0 to {settings.num_shards - 1} is done; {waiting} of {len(records)} evaluations wait for others. "
        "Their tables speak of this shard's questions alone, and no record is written for them yet."
    )


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


def exam_of(record: Record, workspace: paths.Workspace) -> list[Question]:
    """The questions of a record's exam, their choices in the order in which they were asked."""
    seed = record.config.get("settings", {}).get("shuffle_choices", 0)
    return [shuffling.shuffle_choices(q, seed) for q in load_exam(record.config["exam"], workspace)[0]]


def asked_questions(record: Record, workspace: paths.Workspace) -> tuple[list[Question], list[str]]:
    """The questions of an evaluation and what was answered to each, in the order of its answers file."""
    rows = _answers(record, workspace)
    by_id = {q.id: q for q in exam_of(record, workspace)}
    return [by_id[r["id"]] for r in rows], [r["response"] for r in rows]


def _answers(record: Record, workspace: paths.Workspace) -> list[dict[str, Any]]:
    """Rows of the answers file, which a record names first; a shard's own rows where the rest is not there."""
    return read_jsonl(workspace.answers / next(iter(record.data)))


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
    shown = [formatting.percent(*row) for row in frame[["value", "low", "high"]].itertuples(index=False)]
    frame = frame.assign(shown=shown, answers=[f"model, {n}-shot" for n in frame["shots"]])
    known = baseline_frame(records, workspace)
    known = known[known["scorer"] == scorer].assign(shown=lambda found: found["accuracy"].map(formatting.percent))
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
    shown = {f"{s} {m.replace('_', ' ')}": "" if math.isnan(v) else formatting.percent(v) for (s, m), v in scores.items()}
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


def likelihood_table(records: Sequence[Record]) -> pd.DataFrame:
    """Accuracy by log-likelihood, see `likelihood.table`; empty where it was not asked for."""
    return likelihood.table(records)


def position_table(records: Sequence[Record], workspace: paths.Workspace) -> pd.DataFrame:
    """Accuracy by the place of the right answer, see `shuffling.position_table`."""
    return shuffling.position_table(
        [({k: r.config[k] for k in ("exam", "shots", "step")}, *asked_questions(r, workspace)) for r in records]
    )


def example_table(records: Sequence[Record], workspace: paths.Workspace, n: int = 3) -> pd.DataFrame:
    """The first `n` questions of the first exam with the gold answer and what each step wrote, at the fewest shots."""
    import pandas as pd

    first = min(records, key=lambda r: r.config["shots"] != min(x.config["shots"] for x in records))
    alike = [r for r in records if (r.config["exam"], r.config["shots"]) == (first.config["exam"], first.config["shots"])]
    answers = {r.config["step"]: {row["id"]: row["response"] for row in _answers(r, workspace)} for r in alike}
    steps = sorted(answers)
    asked = [q for q in exam_of(first, workspace) if q.id in answers[steps[0]]][:n]
    rows = [{"question": q.text, "gold": prompts.answer_text(q)} | {f"step {s}": answers[s][q.id] for s in steps} for q in asked]
    return pd.DataFrame(rows)


def run_file(run_name: str, step: int, exam: str, shots: int) -> str:
    """Stem of the answers file; the record's name is this after `30_evaluate__`."""
    return f"{run_name}__step{step}__{exam}__{shots}shot"


def questions_sha256(questions: Sequence[Question]) -> str:
    """SHA-256 of questions with everything that scores them: gold, rule, choices."""
    return sha256_text("".join(json.dumps(asdict(q), ensure_ascii=False, sort_keys=True, default=sorted) + "\n" for q in questions))


def _row(part: Part, i: int, step: int) -> dict[str, Any]:
    asked = part.paper.asked[i]
    return {
        "key": part.keys[i],
        "id": asked.question.id,
        "exam": part.paper.exam,
        "section": asked.question.section,
        "shots": len(part.paper.shots),
        "step": step,
        "prompt_sha256": sha256_text(asked.prompt),
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
