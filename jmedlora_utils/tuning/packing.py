"""Packing: several records in one row, none of which sees another.

Positions restart with each record, there is no attention mask, and the cache is off. From that transformers recognises packed rows:
SDPA and eager get a mask with one block a record, FlashAttention 2 its boundaries. A mask of ones or a cache would let every record
read those before it, without a word; `check` therefore tries the very model before it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.tuning.encoding import Row

MEND = "set packing to False; rows of like length then share a batch, which wastes little"


def spread(lengths: Sequence[int], limit: int, hidden: int) -> list[list[int]]:
    """Divides records over rows so that a forward pass is cheapest. Whole records only.

    For each number of rows the records go, longest first, to the emptiest row. A cell of a row costs about `6 * hidden + width`: the
    weights of a block take 24·hidden² FLOP a token, dense attention 4·hidden·width.

    Args:
        lengths: Tokens of each record.
        limit: Most tokens of a row; a longer record has a row of its own.
        hidden: Hidden size of the model.

    Returns:
        Record numbers of each row.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best: tuple[int, list[list[int]]] | None = None
    for n_rows in range(len(lengths), 0, -1):
        rows: list[list[int]] = [[] for _ in range(n_rows)]
        filled = [0] * n_rows
        for i in longest_first:
            emptiest = filled.index(min(filled))
            rows[emptiest].append(i)
            filled[emptiest] += lengths[i]
        width = max(filled)
        if width > max(limit, lengths[longest_first[0]]):
            break
        cost = n_rows * width * (6 * hidden + width)
        if best is None or cost < best[0]:
            best = cost, rows
    assert best is not None  # one record a row always fits
    return best[1]


class PackingCollator:
    """Packs the records of a batch into few rows and says where the loss falls.

    Padding at a row's end goes on counting positions, so that it belongs to the last record and comes after it: nothing sees it.

    Attributes:
        pad_id: Token that fills up rows.
        max_length: Most tokens of a row.
        hidden: Hidden size of the model.
        one_row: Whether the whole batch goes into one row, of any length: FlashAttention's form, whose cost does not grow with the row.
    """

    def __init__(self, pad_id: int, max_length: int, hidden: int, one_row: bool = False) -> None:
        self.pad_id, self.max_length, self.hidden, self.one_row = pad_id, max_length, hidden, one_row

    def __call__(self, records: Sequence[Row]) -> dict[str, Any]:
        """Returns `input_ids` and `position_ids` (rows, width), and flat `positions` and `labels` as `encoding.Collator` does."""
        import torch

        lengths = [len(record.ids) - 1 for record in records]  # the last token is predicted but never read
        plan = [list(range(len(records)))] if self.one_row else spread(lengths, self.max_length, self.hidden)
        width = max(sum(lengths[i] for i in row) for row in plan)
        input_ids = torch.full((len(plan), width), self.pad_id, dtype=torch.long)
        position_ids = torch.zeros((len(plan), width), dtype=torch.long)
        positions: list[int] = []
        labels: list[int] = []
        for number, row in enumerate(plan):
            start = 0
            for i in row:
                record, n = records[i], lengths[i]
                input_ids[number, start : start + n] = torch.tensor(record.ids[:-1])
                position_ids[number, start:] = torch.arange(width - start)
                first = number * width + start
                positions.extend(range(first + record.n_prompt - 1, first + n))
                labels.extend(record.ids[record.n_prompt :])
                start += n
        return {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "positions": torch.tensor(positions),
            "labels": torch.tensor(labels),
        }

    def padding_share(self, lengths: Sequence[int], batch: int) -> float:
        """Share of padding in batches of consecutive records, 0 to 1."""
        if self.one_row or not lengths:
            return 0.0
        cells = 0
        for start in range(0, len(lengths), batch):
            group = lengths[start : start + batch]
            plan = spread(group, self.max_length, self.hidden)
            cells += len(plan) * max(sum(group[i] for i in row) for row in plan)
        return 1 - sum(lengths) / cells


def check(model: Any, ids: Sequence[int], neighbour: Sequence[int]) -> None:
    """Tries whether this model, with the attention kernel it was loaded with, keeps packed records apart.

    One record stands behind two different ones of equal length; its logits must be the same bit for bit, whatever the dtype.

    Args:
        model: The model to be trained.
        ids: Token ids of the record that is watched.
        neighbour: Token ids of the record before it.

    Raises:
        JmedloraError: The record sees its neighbour, or the model takes no positions.
    """
    import torch

    device = next(model.parameters()).device
    n, vocabulary = len(neighbour), model.get_input_embeddings().weight.shape[0]
    first = [*neighbour, *ids]
    second = [*((token + 1) % vocabulary for token in neighbour), *ids]
    position_ids = torch.tensor([[*range(n), *range(len(ids))]], device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            seen = [
                model(input_ids=torch.tensor([row], device=device), position_ids=position_ids, use_cache=False).logits[:, n:]
                for row in (first, second)
            ]
    except TypeError as error:
        raise JmedloraError(f"{model.config.model_type} takes no positions, so records cannot be packed ({error}); {MEND}") from error
    finally:
        model.train(was_training)
    if not torch.equal(*seen):
        leak = float((seen[0].float() - seen[1].float()).abs().max())
        raise JmedloraError(
            f"packed records of {model.config.model_type} read each other with attention kernel "
            f"{model.config._attn_implementation!r} (logits move by {leak:.2g}); {MEND}"
        )
