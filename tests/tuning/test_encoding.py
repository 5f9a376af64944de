"""From records to batches: nothing is cut, the loss falls on the response, and every epoch sees every row once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import encoding
from jmedlora_utils.tuning.encoding import Row
from tests import tiny


@pytest.mark.parametrize("pad", [True, False])
def test_the_loss_falls_on_the_response_alone_and_on_eos_even_where_it_pads(tmp_path, pad: bool) -> None:
    tokenizer = loading.load_tokenizer(loading.find_base(str(tiny.make_checkpoint(tmp_path / "m", pad=pad))))
    records = tiny.make_records(8)
    rows, audit = encoding.encode_records(records, tokenizer, "plain_ja", 128)
    batch = encoding.Collator(tokenizer.pad_token_id)(rows)
    assert tokenizer.decode(batch["labels"]) == "".join(f"{r['output']}</s>" for r in records)
    assert batch["labels"].tolist().count(tokenizer.eos_token_id) == len(rows) and batch["labels"].numel() == audit.supervised_tokens
    flat = batch["input_ids"].flatten()
    for position, label in zip(batch["positions"].tolist(), batch["labels"].tolist(), strict=True):
        assert label == tokenizer.eos_token_id or flat[position + 1] == label
    assert encoding.marked_text(rows[0], tokenizer).endswith(f"答え:⟦{records[0]['output']}</s>⟧")


def test_a_batch_pads_on_the_right_and_never_reads_a_last_token() -> None:
    batch = encoding.Collator(0)([Row((5, 6, 7, 8), 2), Row((5, 9), 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["positions"].tolist() == [1, 2, 3] and batch["labels"].tolist() == [7, 8, 9]


def test_a_long_record_is_an_error_or_counted_never_cut() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    records = tiny.make_records(6)
    exact = encoding.encode_records(records, tokenizer, "plain_ja", 128)[1].longest
    assert encoding.encode_records(records, tokenizer, "plain_ja", exact)[1].used == 6
    with pytest.raises(JmedloraError, match=f"has {exact} tokens"):
        encoding.encode_records(records, tokenizer, "plain_ja", exact - 1)
    records[2]["instruction"] *= 40
    with pytest.raises(JmedloraError, match=r"record r2 has \d+ tokens, max_length is 60 .*too_long='exclude'"):
        encoding.encode_records(records, tokenizer, "plain_ja", 60)
    rows, audit = encoding.encode_records(records, tokenizer, "plain_ja", 60, "exclude")
    assert (audit.read, audit.used, audit.too_long) == (6, 5, 1) and audit.longest > 60
    assert all(row.ids[-1] == tokenizer.eos_token_id for row in rows)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"instruction": "問"}', "output"),
        ('{"instruction": "", "output": "答"}', "instruction"),
        ('{"instruction": "問", "output": 3}', "output"),
        ('{"instruction": "問", "output": "答", "input": 3}', "input"),
    ],
)
def test_a_record_without_a_question_or_an_answer_is_refused_by_line(tmp_path, line: str, field: str) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"instruction": "問", "output": "答"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(JmedloraError, match=rf"train\.jsonl:2: field '{field}'"):
        encoding.read_instructions(file)


def test_articles_are_learned_once_token_by_token() -> None:
    tokenizer = tiny.make_tokenizer(bos=False)
    text = "".join(tiny.text_corpus()[:5])
    rows, audit = encoding.encode_articles([text], tokenizer, 16)
    ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    learned = [token for row in rows for token in row.ids[row.n_prompt :]]
    assert learned == ids[1:] and audit.supervised_tokens == len(learned) and max(len(r.ids) for r in rows) <= 16


@given(st.integers(1, 70), st.integers(1, 12), st.integers(1, 25), st.booleans(), st.integers(0, 5))
def test_each_epoch_sees_every_row_once_whatever_the_batch(n: int, batch: int, steps: int, grouped: bool, seed: int) -> None:
    lengths = [5 + (7 * i) % 40 for i in range(n)]
    order = encoding.data_order(lengths, steps, batch, seed, grouped)
    assert len(order) == steps * batch and order == encoding.data_order(lengths, steps, batch, seed, grouped)
    counts = [order.count(i) for i in range(n)]
    assert max(counts) - min(counts) <= 2
    if steps * batch % n == 0 and n % batch == 0:
        assert set(counts) == {steps * batch // n}


def test_rows_of_similar_length_share_a_batch() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 120) for _ in range(400)]
    shares = [encoding.padding_share([lengths[i] for i in encoding.data_order(lengths, 50, 8, 1, g)], 8) for g in (False, True)]
    assert shares[1] < 0.1 < 0.3 < shares[0]
