"""Log-likelihood of the choices: a fourth metric, apart from the three scorers, which read what a model writes.

Each choice is scored alone, as the text that follows the prompt: the sum of the log-probabilities of its tokens, no end token, divided as
`NORMALISERS` say. The `n_select` best are taken; the item is right if they are the gold set. A tie at the cut between choices of different
text takes nothing, and is counted. The prompt is read once for all choices, and what all prompts start with once for all.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

from jmedlora_utils.core import statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import prompts
from jmedlora_utils.data.questions import LETTERS, Question
from jmedlora_utils.evaluation import metrics
from jmedlora_utils.evaluation.generation import Prefix, refuse_broken

NORMALISERS = ("sum", "per_token", "per_character", "per_byte")
"""What a choice's log-probability is divided by: nothing, its tokens, its characters, its bytes in UTF-8.

In lm-eval's words, `sum` is `acc`, `per_character` is `acc_norm` and `per_byte` is `acc_bytes`; it has no `per_token`.
"""

LOGIT_CELLS = 1 << 26  # logits of the choices held at once: a quarter of a GiB in float32
CACHE_BYTES = 1 << 32  # keys and values of the choices held at once, beside those of their prompts


def encode_options(tokenizer: Any, prompt: str, ids: Sequence[int], choices: Sequence[str]) -> tuple[list[list[int]], int]:
    """Token ids of each choice after its prompt, and how many choices had to be encoded alone; see `prompts.encode_after`."""
    found = [prompts.encode_after(tokenizer, prompt, ids, choice) for choice in choices]
    return [tokens for tokens, _ in found], sum(not joint for _, joint in found)


def score_batch(
    model: Any,
    rows: Sequence[Sequence[int]],
    options: Sequence[Sequence[Sequence[int]]],
    prefix: Prefix | None = None,
    names: Sequence[str] = (),
) -> list[list[float]]:
    """Log-probability of every choice after its prompt: the prompt read once, the choices from its cache.

    Args:
        model: Causal language model, with or without adapter.
        rows: Token ids of the prompts, unpadded.
        options: For each prompt, the token ids of its choices.
        prefix: What all prompts start with, read once by `generation.read_prefix`.
        names: See `generation.refuse_broken`.

    Returns:
        For each prompt, the sum over each choice's tokens, in nats.
    """
    import torch
    from transformers import DynamicCache

    shared = prefix.ids if prefix else []
    width = max(len(r) for r in rows)
    # As in generation, padding stands between the shared prefix and the rest; it is masked and positions skip it.
    gaps = [width - len(r) for r in rows]
    ids = torch.tensor([[0] * gap + list(r[len(shared) :]) for r, gap in zip(rows, gaps, strict=True)], device=model.device)
    mask = torch.ones(len(rows), width, dtype=torch.long, device=model.device)
    for i, gap in enumerate(gaps):
        mask[i, len(shared) : len(shared) + gap] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, len(shared) :]
    cache = prefix.cache(len(rows)) if prefix else DynamicCache()
    with torch.inference_mode():
        read = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, past_key_values=cache)
        first = read.logits[:, -1].float().log_softmax(-1)
        owner = [i for i, found in enumerate(options) for _ in found]
        flat = [list(o) for found in options for o in found]
        totals = first[owner, [o[0] for o in flat]].double()
        longer = sorted((n for n, o in enumerate(flat) if len(o) > 1), key=lambda n: -len(flat[n]))
        copies = max(1, CACHE_BYTES // max(1, _row_bytes(read.past_key_values)))
        while longer:
            # Sorted by length; the first one sets the padded width.
            room = min(copies, max(1, LOGIT_CELLS // ((len(flat[longer[0]]) - 1) * first.shape[-1])))
            chunk, longer = longer[:room], longer[room:]
            totals[chunk] += _rest(model, read.past_key_values, mask, [owner[n] for n in chunk], [flat[n] for n in chunk])
    broken = {owner[n] for n, total in enumerate(totals.tolist()) if not math.isfinite(total)}
    refuse_broken((i in broken for i in range(len(rows))), names)
    scores = iter(totals.tolist())
    return [[next(scores) for _ in found] for found in options]


def _rest(model: Any, cache: Any, mask: Any, owner: Sequence[int], options: Sequence[Sequence[int]]) -> Any:
    """Sum of the log-probabilities of each choice's tokens after its first, shape (choices,)."""
    import torch

    device = mask.device
    width = len(options[0]) - 1
    read = torch.tensor([[*o[:-1], *[0] * (width - len(o) + 1)] for o in options], device=device)
    target = torch.tensor([[*o[1:], *[0] * (width - len(o) + 1)] for o in options], device=device)
    real = torch.tensor([[1] * (len(o) - 1) + [0] * (width - len(o) + 1) for o in options], device=device)
    before = mask[owner]
    positions = before.sum(1, keepdim=True) + torch.arange(width, device=device)
    forked = _fork(cache, torch.tensor(owner, device=device))
    output = model(
        input_ids=read, attention_mask=torch.cat([before, real], 1), position_ids=positions, past_key_values=forked, use_cache=True
    )
    said = output.logits.float()
    picked = said.gather(-1, target[..., None])[..., 0] - said.logsumexp(-1)
    return (picked * real).double().sum(1)


def _row_bytes(cache: Any) -> int:
    """Bytes of one row of a cache: with long prompts, a copy for each choice of a batch would not fit beside a large model."""
    held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]  # a recurrent layer has neither
    return sum(tensor.element_size() * tensor.numel() // len(tensor) for tensor in held if tensor is not None)


def _fork(cache: Any, rows: Any) -> Any:
    """A cache that holds the given rows of another and leaves that one as it is: selecting makes new tensors."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    forked.batch_select_indices(rows)
    return forked


def normalised(question: Question, row: dict[str, Any], normaliser: str) -> list[float]:
    """Scores of the choices under one of `NORMALISERS`; `row` is a row of the likelihood file."""
    units = {
        "sum": [1] * len(question.choices),
        "per_token": row["tokens"],
        "per_character": [len(c) for c in question.choices],
        "per_byte": [len(c.encode("utf-8")) for c in question.choices],
    }
    if normaliser not in units:
        raise JmedloraError(f"no normaliser {normaliser!r}; known: {', '.join(NORMALISERS)}")
    return [logprob / unit for logprob, unit in zip(row["logprobs"], units[normaliser], strict=True)]


def choose(question: Question, scores: Sequence[float]) -> frozenset[str]:
    """Letters of the `n_select` choices with the highest scores; empty where choices of different text tie at the cut.

    Choices of equal text are one and the same, whatever rounding says of their scores.
    """
    by_text: dict[str, float] = {}
    for choice, score in zip(question.choices, scores, strict=True):
        by_text[choice] = max(score, by_text.get(choice, score))
    order = sorted(LETTERS[: len(scores)], key=lambda letter: (-by_text[question.choice(letter)], letter))
    taken, left = order[: question.n_select], order[question.n_select :]
    last = question.choice(taken[-1])
    ties = any(question.choice(letter) != last and by_text[question.choice(letter)] == by_text[last] for letter in left)
    return frozenset() if ties else frozenset(taken)


def score_groups(questions: Sequence[Question], rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy by normaliser and group (`all`, and the exam's sections) with its n and Wilson interval, and the number of ties."""
    groups = {"all": list(range(len(questions)))}
    for i, question in enumerate(questions):
        if question.section:
            groups.setdefault(question.section, []).append(i)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for normaliser in NORMALISERS:
        picked = [choose(q, normalised(q, row, normaliser)) for q, row in zip(questions, rows, strict=True)]
        right = [metrics.is_right(q, letters) for q, letters in zip(questions, picked, strict=True)]
        found[normaliser] = {
            name: {"accuracy": statistics.share(sum(right[i] for i in at), len(at)), "ties": sum(not picked[i] for i in at)}
            for name, at in groups.items()
        }
    return found
