"""The questions of an exam as a model reads them: found, worked examples drawn, prompts built and encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import exam_files, fetch, igakuqa, prompts
from jmedlora_utils.data.questions import Question, read_exam, select_text_five
from jmedlora_utils.evaluation import shuffling
from jmedlora_utils.evaluation.settings import EvalSettings


@dataclass(frozen=True)
class Asked:
    """One question as the model reads it: the exact text of its prompt, and the token ids."""

    question: Question
    prompt: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ExamPrompts:
    """One exam with one number of worked examples, ready to be asked."""

    exam: str  #: Name of the exam
    shots: tuple[str, ...]  #: Ids of the worked examples
    asked: tuple[Asked, ...]  #: The questions, in exam order
    excluded: dict[str, int]  #: Number of questions left out, by reason
    max_new_tokens: int  #: Answer budget

    @property
    def questions(self) -> list[Question]:
        return [a.question for a in self.asked]

    @property
    def rows(self) -> list[tuple[int, ...]]:
        """Token ids of every prompt."""
        return [a.ids for a in self.asked]


def load_exam(name: str, workspace: paths.Workspace) -> tuple[list[Question], dict[str, int]]:
    """The questions of an exam that a text model can be asked, and how many were left out for which reason.

    `name` is a file `data/exams/<name>.jsonl` of the workspace; else one of `exam_files.WHOLE`, or `igakuqa_<year>` for one year or
    `igakuqa_<first>_<last>` for several, read from the exam data of `paths.exam_data_dir()`.
    """
    file = workspace.data / "exams" / f"{name}.jsonl"
    if file.is_file():
        return select_text_five(read_exam(file))
    if name in exam_files.WHOLE:
        return select_text_five(exam_files.load_published_exam(name, fetch.verified(fetch.source_of(name).parts(answers=False))))
    if asked := exam_files.years_named(name):
        return select_text_five(igakuqa.load_igakuqa(fetch.verified(f"IgakuQA/data/{year}/" for year in asked), asked))
    there = ", ".join(sorted(p.stem for p in (workspace.data / "exams").glob("*.jsonl"))) or "none; run notebook 10 or 11 first"
    raise JmedloraError(
        f"no exam {name!r}; prepared: {there}; always: {', '.join(exam_files.WHOLE)}, igakuqa_<year>, igakuqa_<first>_<last>"
    )


def shot_pool(exam: str, workspace: paths.Workspace, language: str = "ja") -> list[Question]:
    """Where worked examples come from.

    `data/exams/<exam>_shots.jsonl` of the workspace, as notebook 11 writes it; without it the mini world's own pool, or
    the three of the 100th examination in IgakuQA, in the exam's language.
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
) -> ExamPrompts:
    """Builds and encodes every prompt of an exam for a model that reads and writes `context` tokens in all."""
    questions, excluded = load_exam(exam, workspace)
    questions = [shuffling.shuffle_choices(q, settings.shuffle_choices) for q in questions[: settings.limit or None]]
    if not questions:
        raise JmedloraError(f"exam {exam!r} has no question that a text model can be asked; check its file")
    shots: list[Question] = []
    if n_shots:
        shots = prompts.pick_shots(pool or shot_pool(exam, workspace, questions[0].language), n_shots, questions, settings.shot_seed)
    budget = settings.max_new_tokens or answer_budget(tokenizer, questions, settings.margin)
    texts = {q.id: prompts.build_exam_prompt(q, settings.template, shots, tokenizer) for q in questions}
    encoded, long = prompts.encode_prompts(tokenizer, texts, context - budget, settings.too_long)
    asked = tuple(Asked(q, texts[q.id], tuple(encoded[q.id])) for q in questions if q.id in encoded)
    if not asked:
        raise JmedloraError(f"exam {exam!r}: no prompt fits into {context} tokens; use fewer shots or a model with a longer context")
    return ExamPrompts(exam, tuple(s.id for s in shots), asked, excluded | {"prompt too long": len(long)}, budget)


def answer_budget(tokenizer: Any, questions: Sequence[Question], margin: int) -> int:
    """Tokens of the longest gold answer, and a margin for its end."""
    return margin + max(len(tokenizer(prompts.answer_text(q), add_special_tokens=False).input_ids) for q in questions)
