"""Greedy generation: sorted batches, left padding, a shared prefix read once, a stop at the end of the first line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jmedlora_utils.core.errors import JmedloraError

MIN_PREFIX = 16
WINDOW_SPARE = 128  # tokens of the answer and of padding that must still fit into a sliding window


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str  #: First line of the response
    finish: str  #: `stop` where it ended by itself (EOS or line break), `length` where the budget ended it
    n_new_tokens: int  #: Tokens generated, the stopping one included


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Positions in batches of like length, longest first, so that little is padded and memory peaks at once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """Token ids that every row starts with; at least one token of each row is left out of it."""
    if len(rows) < 2:
        return []
    low, high = min(rows), max(rows)
    n = 0
    while n < min(len(r) for r in rows) - 1 and low[n] == high[n]:
        n += 1
    return list(low[:n])


def generate(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], max_new_tokens: int, prefix: Prefix | None = None, names: Sequence[str] = ()
) -> list[Answer]:
    """Answers of one batch of prompts (token ids, unpadded), greedy.

    `prefix` is what all rows start with, read once by `read_prefix`; for `names` see `refuse_broken`.
    """
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    lines = line_tokens(tokenizer)
    shared = prefix.ids if prefix else []
    width = max(len(r) for r in rows)
    pad = tokenizer.pad_token_id
    # Padding stands between the shared prefix and the rest; it is masked, and positions count real tokens only.
    gaps = [[pad] * (width - len(r)) for r in rows]
    ids = torch.tensor([[*shared, *gap, *r[len(shared) :]] for r, gap in zip(rows, gaps, strict=True)], device=model.device)
    mask = torch.tensor([[1] * len(shared) + [0] * len(g) + [1] * (len(r) - len(shared)) for r, g in zip(rows, gaps, strict=True)])
    stops = stop_ids(model.generation_config.eos_token_id, tokenizer)
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=sorted(stops))
    options = {"past_key_values": prefix.cache(len(rows))} if prefix else {}
    broken = torch.zeros(len(rows), dtype=torch.bool, device=model.device)

    def watch(input_ids: Any, scores: Any) -> Any:
        broken.logical_or_(not_finite(scores))
        return scores

    with torch.inference_mode(), _own_settings_off(model):
        output = model.generate(
            input_ids=ids,
            attention_mask=mask.to(model.device),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([lines.stop(width)]),
            logits_processor=LogitsProcessorList([watch]),
            **options,
        )
    refuse_broken(broken.tolist(), names)
    return [cut_answer(tokenizer, row, stops, lines) for row in output[:, width:].tolist()]


def not_finite(logits: Any) -> Any:
    """Which rows hold NaN or plus infinity, shape (rows,); a model may mask entries of its vocabulary with minus infinity."""
    return (logits.isnan() | logits.isposinf()).flatten(1).any(1)


def refuse_broken(broken: Iterable[bool], names: Sequence[str]) -> None:
    """Refuses a batch in which a row's logits are not finite: scores made of them would be noise that looks like answers.

    `names` are model and question of each row, as the error says them; may be empty.
    """
    row = next((i for i, bad in enumerate(broken) if bad), None)
    if row is not None:
        name = names[row] if names else f"prompt {row + 1} of a batch"
        raise JmedloraError(f"{name}: the model computes NaN or infinity; check its weights, or use dtype 'bfloat16' or 'float32'")


@contextmanager
def _own_settings_off(model: Any) -> Iterator[None]:
    """Hides the checkpoint's own sampling settings: `generate` would take from them what a call leaves unsaid."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class Prefix:
    """Keys and values of tokens that many prompts start with, computed once."""

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        self.ids = list(ids)
        with torch.inference_mode():
            row = torch.tensor([self.ids], device=model.device)
            # A cache without the model's settings keeps everything; one with them drops what a sliding window has passed.
            self._cache = model(input_ids=row, use_cache=True, logits_to_keep=1, past_key_values=DynamicCache()).past_key_values

    def cache(self, batch: int) -> Any:
        """A fresh copy for a batch; generation appends to it."""
        import copy

        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(batch)
        return cache


def read_prefix(model: Any, rows: Sequence[Sequence[int]]) -> Prefix | None:
    """The rows' common prefix, read by the model; None where it is too short to be worth it, or rows outgrow a sliding window.

    A window counts places, padding included, and padding stands behind the prefix: where it can matter, nothing is shared.
    """
    ids, window = common_prefix(rows), getattr(model.config, "sliding_window", None)
    if window and max(map(len, rows)) + WINDOW_SPARE > window:
        return None
    return Prefix(model, ids) if len(ids) >= MIN_PREFIX else None


class LineTokens:
    """Which tokens of a vocabulary break a line, and which are blank."""

    def __init__(self, breaks: Sequence[int], blanks: Sequence[int]) -> None:
        import torch

        self.breaks, self.blanks = torch.tensor(breaks, dtype=torch.long), torch.tensor(blanks, dtype=torch.long)

    def stop(self, start: int) -> Callable[..., Any]:
        """A stopping criterion: a line break after something that is not blank. Line breaks before it are skipped."""
        import torch

        def ended(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            new = input_ids[:, start:]
            self.breaks, self.blanks = self.breaks.to(new.device), self.blanks.to(new.device)
            return torch.isin(new[:, -1], self.breaks) & (~torch.isin(new, self.blanks)).any(dim=1)

        return ended


@lru_cache(maxsize=4)
def line_tokens(tokenizer: Any) -> LineTokens:
    """Finds the line breaks and blanks of a tokenizer by decoding its vocabulary once."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    return LineTokens([i for i, t in enumerate(texts) if "\n" in t], [i for i, t in enumerate(texts) if not t.strip()])


def stop_ids(own: int | list[int] | None, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's EOS and `own`, those of the model's generation settings (chat models)."""
    return {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}


def cut_answer(tokenizer: Any, row: list[int], stops: set[int], lines: LineTokens) -> Answer:
    """Cuts one generated row at its end; what follows is only padding."""
    breaks, blanks = set(lines.breaks.tolist()), set(lines.blanks.tolist())
    written = False
    for n, token in enumerate(row):
        if token in stops:
            return Answer(_first_line(tokenizer, row[:n]), "stop", n + 1)
        written = written or token not in blanks
        if written and token in breaks:
            return Answer(_first_line(tokenizer, row[: n + 1]), "stop", n + 1)
    return Answer(_first_line(tokenizer, row), "length", len(row))


def _first_line(tokenizer: Any, ids: list[int]) -> str:
    lines = tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
    return lines[0].strip() if lines else ""
