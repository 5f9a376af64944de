"""The entry check of a tiny base: before it is tuned it must answer a general exam, in Japanese, well above chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record
from jmedlora_utils.data import prompts
from jmedlora_utils.data.invented_world import TEMPLATE
from jmedlora_utils.data.questions import Question
from jmedlora_utils.evaluation import generation, metrics

# Share of the general exam that a base must answer. Guessing earns a fifth; three fifths of 50 questions lie so far above it that
# chance does not reach them (p < 1e-9), so a base that passes reads the questions and the choices, and what it lacks on the medical
# exam are the facts.
ENTRY_BAR = 0.60


def examine(model: Any, tokenizer: Any, exam: Sequence[Question], pool: Sequence[Question], seed: int) -> dict[str, dict[str, float]]:
    """Accuracy and Exact match (strict scorer, 0 to 1) of a base and the number of questions, by `0shot` and `1shot`."""
    return {f"{k}shot": _ask(model, tokenizer, exam, prompts.pick_shots(pool, k, exam, seed)) for k in (0, 1)}


def _ask(model: Any, tokenizer: Any, exam: Sequence[Question], shots: Sequence[Question]) -> dict[str, float]:
    asked = [prompts.encode_prompt(tokenizer, prompts.build_exam_prompt(q, TEMPLATE, shots)) for q in exam]
    budget = max(len(tokenizer(prompts.answer_text(q), add_special_tokens=False).input_ids) for q in exam) + 4
    responses = [""] * len(exam)
    for batch in generation.sorted_batches([len(ids) for ids in asked], 64):
        names = [f"the new base, question {exam[i].id}" for i in batch]
        answers = generation.generate(model, tokenizer, [asked[i] for i in batch], budget, names=names)
        for i, answer in zip(batch, answers, strict=True):
            responses[i] = answer.text
    frame = metrics.score_frame(exam, responses, ("strict",))
    return frame[["accuracy", "exact_match"]].mean().round(4).to_dict() | {"n": len(exam)}


def passes(record: Record) -> bool:
    """Whether the base of a pretraining record passes: 0-shot Accuracy at or above `ENTRY_BAR`."""
    return record.metrics["entry"]["0shot"]["accuracy"] >= ENTRY_BAR


def require(records: Iterable[Record]) -> None:
    """Refuses bases that do not pass."""
    weak = {r.model["base"]: r.metrics["entry"]["0shot"]["accuracy"] for r in records if not passes(r)}
    if weak:
        found = ", ".join(f"{name} {value:.0%}" for name, value in weak.items())
        raise JmedloraError(f"below the entry bar of {ENTRY_BAR:.0%} on the general exam: {found}; raise documents in pretraining.LADDERS")
