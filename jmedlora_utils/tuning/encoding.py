"""From instruction records to batches: encode once, audit, order, pad."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import iter_jsonl
from jmedlora_utils.data.prompts import build_instruction_prompt, encode_example

WINDOW_BATCHES = 50


@dataclass(frozen=True)
class Row:
    """One training row."""

    ids: tuple[int, ...]  # EOS last
    n_prompt: int  # tokens of the prompt; the loss falls on the others. At least 1, since nothing predicts the first token


@dataclass
class Audit:
    """What became of the records."""

    read: int = 0  # records in the file
    used: int = 0  # rows to train on
    too_long: int = 0  # records left out because prompt and response exceed `max_length`; nothing is ever cut
    boundary_merges: int = 0  # records whose response is encoded alone, because a token would span prompt and response
    tokens: int = 0  # of all rows
    supervised_tokens: int = 0  # those that carry loss, EOS among them
    longest: int = 0  # tokens of the longest record, used or not


def read_instructions(path: Path) -> list[dict[str, Any]]:
    """Reads instruction records: JSON lines with `instruction` and `output`, and maybe `input` and `id`."""
    rows, lines = [], dict[str, int]()
    for number, row in iter_jsonl(path):
        if (first := lines.setdefault(str(row.get("id", f"line {number}")), number)) != number:
            raise JmedloraError(f"{path}:{number}: id {row['id']!r} is already used in line {first}; give every record an id of its own")
        for field in ("instruction", "output"):
            _text(row, field, f"{path}:{number}")
        if not isinstance(row.get("input", ""), str):
            raise JmedloraError(f"{path}:{number}: field 'input' is no text; fix or remove the line")
        rows.append({"id": row.get("id", f"line {number}"), "input": "", **row})
    if not rows:
        raise JmedloraError(f"{path}: holds no instruction record; run notebook 10 first")
    return rows


def read_articles(path: Path) -> list[str]:
    """Reads running text, such as articles for continued pretraining: JSON lines with `text`."""
    texts = [_text(row, "text", f"{path}:{number}") for number, row in iter_jsonl(path)]
    if not texts:
        raise JmedloraError(f"{path}: holds no article; run notebook 10 first, or 12 for data/texts")
    return texts


def _text(row: dict[str, Any], field: str, where: str) -> str:
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise JmedloraError(f"{where}: field {field!r} is missing, empty or no text; fix or remove the line")
    return row[field]


def encode_records(
    records: Sequence[dict[str, Any]], tokenizer: Any, template: str, max_length: int, too_long: str = "error"
) -> tuple[list[Row], Audit]:
    """Encodes instruction records for training on the response only; prompt, response and EOS together have `max_length` tokens at most.

    Raises:
        JmedloraError: A record is too long and `too_long` is `error` (`exclude` leaves it out and counts it), or no record fits.
    """
    rows, audit = [], Audit(read=len(records))
    worst: tuple[int, str] = (0, "")
    for record in records:
        prompt = build_instruction_prompt(record["instruction"], record["input"], template, tokenizer)
        read, response, joint = encode_example(tokenizer, prompt, record["output"])
        length = len(read) + len(response)
        worst = max(worst, (length, str(record["id"])))
        if length > max_length:
            audit.too_long += 1
            continue
        audit.boundary_merges += not joint
        rows.append(Row((*read, *response), len(read)))
        audit.supervised_tokens += len(response)
    audit.used, audit.tokens, audit.longest = len(rows), sum(len(r.ids) for r in rows), worst[0]
    if audit.too_long and (too_long == "error" or not rows):
        raise JmedloraError(
            f"record {worst[1]} has {worst[0]} tokens, max_length is {max_length} "
            f"({audit.too_long} of {len(records)} records are too long); "
            "raise max_length, or set too_long='exclude' to leave them out and count them"
        )
    return rows, audit


def marked_text(row: Row, tokenizer: Any) -> str:
    """A row as text, as the model reads it; what carries loss stands between ⟦ and ⟧."""
    prompt, response = row.ids[: row.n_prompt], row.ids[row.n_prompt :]
    return f"{tokenizer.decode(prompt)}⟦{tokenizer.decode(response)}⟧"


def encode_articles(texts: Sequence[str], tokenizer: Any, max_length: int) -> tuple[list[Row], Audit]:
    """Encodes articles for next-token loss; a longer article goes on in a further row, so every token is learned once."""
    rows, audit = [], Audit(read=len(texts))
    for text in texts:
        read, response, _ = encode_example(tokenizer, "", text)
        ids = [*read, *response]
        audit.longest = max(audit.longest, len(ids))
        # Rows overlap by one token: the first token of a row is only context.
        pieces = [ids[i : i + max_length] for i in range(0, max(1, len(ids) - 1), max_length - 1)]
        rows.extend(Row(tuple(piece), 1) for piece in pieces)
    audit.used, audit.tokens = len(rows), sum(len(r.ids) for r in rows)
    audit.supervised_tokens = audit.tokens - len(rows)
    return rows, audit


def data_order(lengths: Sequence[int], steps: int, batch: int, seed: int, grouped: bool = True) -> list[int]:
    """Row numbers of a whole run, `steps * batch` of them, as a function of the seed alone.

    Every epoch is a fresh shuffle; within windows of 50 batches rows of similar length stand together (`grouped`), so that little is
    padded, and the batches of a window are shuffled. Rows left over at the end of an epoch open the next one. `batch` counts the rows
    of one optimizer step, over all processes and accumulation.
    """
    rng = random.Random(seed)
    order: list[int] = []
    pool: list[int] = []
    while len(order) < steps * batch:
        while len(pool) < batch:
            epoch = list(range(len(lengths)))
            rng.shuffle(epoch)
            pool.extend(epoch)
        size = min(WINDOW_BATCHES, len(pool) // batch) * batch
        window, pool = pool[:size], pool[size:]
        if grouped:
            window.sort(key=lambda i: -lengths[i])
            batches = [window[i : i + batch] for i in range(0, len(window), batch)]
            rng.shuffle(batches)
            window = [i for group in batches for i in group]
        order.extend(window)
    return order[: steps * batch]


def padding_share(lengths: Sequence[int], batch: int) -> float:
    """Share of padding in batches of consecutive rows, 0 to 1."""
    groups = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    cells = sum(max(g) * len(g) for g in groups)
    return 1 - sum(lengths) / cells if cells else 0.0


class Collator:
    """Pads rows on the right and says where the loss falls.

    There is no attention mask: in a causal model a token never sees the padding after it, and padding carries no loss.
    Masking is by position, not by token, so a padding token equal to EOS leaves the real EOS supervised.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Returns `input_ids` (rows, width), and flat `positions` and `labels` (supervised tokens): the hidden state at
        `positions[i]` predicts `labels[i]`. The last token of a row is predicted but never read."""
        import torch

        width = max(len(row.ids) for row in rows) - 1
        input_ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        positions: list[int] = []
        labels: list[int] = []
        for i, row in enumerate(rows):
            input_ids[i, : len(row.ids) - 1] = torch.tensor(row.ids[:-1])
            positions.extend(range(i * width + row.n_prompt - 1, i * width + len(row.ids) - 1))
            labels.extend(row.ids[row.n_prompt :])
        return {"input_ids": input_ids, "positions": torch.tensor(positions), "labels": torch.tensor(labels)}
