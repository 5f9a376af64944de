"""Packing: a packed record is the record alone, and a model that would mix records is refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import encoding, packing, training
from jmedlora_utils.tuning.encoding import Row
from jmedlora_utils.tuning.packing import PackingCollator
from tests import tiny
from tests.tuning.test_training import KILL_SETTINGS, QUICK, losses

KERNELS = ("sdpa", "eager")


def load(tmp_path: Any, family: str, kernel: str | None = None) -> tuple[Any, Any]:
    folder = tmp_path / family
    return loading.load_base(str(folder if folder.exists() else tiny.make_checkpoint(folder, family)), attention=kernel)


def rows_of(tokenizer: Any, n: int) -> list[Row]:
    return encoding.encode_records(tiny.make_records(n), tokenizer, "plain_ja", 128)[0]


# --- rows -----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=16), st.integers(10, 200), st.sampled_from([16, 4096]))
def test_every_record_is_packed_once_and_whole(lengths: list[int], limit: int, hidden: int) -> None:
    plan = packing.spread(lengths, limit, hidden)
    assert sorted(i for row in plan for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= max(limit, max(lengths)) for row in plan)


def test_rows_waste_little_and_attention_keeps_them_narrow() -> None:
    rng = random.Random(1)
    lengths = [rng.randint(60, 400) for _ in range(8)]
    cells = {
        hidden: (len(plan := packing.spread(lengths, 4096, hidden)), len(plan) * max(sum(lengths[i] for i in row) for row in plan))
        for hidden in (64, 8192)
    }
    assert cells[8192][1] <= 1.02 * sum(lengths) < cells[64][1], "a wide model pads least, a narrow one keeps attention small"
    assert cells[8192][0] < cells[64][0]


def test_labels_and_positions_point_where_they_do_unpacked() -> None:
    rows = [Row((5, 6, 7, 8), 2), Row((5, 9), 1), Row((4, 3, 2), 1)]
    batch = PackingCollator(0, max_length=16, hidden=64, one_row=True)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 5, 4, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch["positions"].tolist() == [1, 2, 3, 4, 5] and batch["labels"].tolist() == [7, 8, 9, 3, 2]


def test_padding_belongs_to_the_last_record() -> None:
    batch = PackingCollator(0, max_length=4, hidden=64)([Row((1, 2, 3, 4, 5), 1), Row((6, 7, 8), 1)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [6, 7, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]


# --- no leak --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_packed_record_has_the_logits_of_the_record_alone(tmp_path, family: str, kernel: str) -> None:
    import torch

    model, tokenizer = load(tmp_path, family, kernel)
    rows = rows_of(tokenizer, 6)
    batch = PackingCollator(tokenizer.pad_token_id, 64, hidden=4096)(rows)
    shape = tuple(batch["input_ids"].shape)
    assert 1 < shape[0] < 6 and (batch["position_ids"] == 0).sum() == 6, "some rows hold several records, and there is more than one row"
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        plan = packing.spread([len(r.ids) - 1 for r in rows], 64, 4096)
        worst, leaks = 0.0, {"mask of ones": 0.0, "cache": 0.0}
        masked = model(attention_mask=torch.ones(shape, dtype=torch.long), **{k: batch[k] for k in ("input_ids", "position_ids")}).logits
        cached = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=True).logits
        for number, row in enumerate(plan):
            start = 0
            for i in row:
                ids = torch.tensor([rows[i].ids[:-1]])
                alone = model(input_ids=ids, use_cache=False).logits[0]
                stop = start + ids.shape[1]
                worst = max(worst, float((packed[number, start:stop] - alone).abs().max()))
                leaks["mask of ones"] = max(leaks["mask of ones"], float((masked[number, start:stop] - alone).abs().max()))
                leaks["cache"] = max(leaks["cache"], float((cached[number, start:stop] - alone).abs().max()))
                start = stop
    assert worst < 2e-5
    assert min(leaks.values()) > 100 * 2e-5, f"the wrong way must be seen to leak, or this test proves nothing: {leaks}"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_loss_of_a_packed_step_is_the_token_mean_of_the_unpacked(tmp_path, family: str) -> None:
    import torch

    from tests.tuning.test_training import make_trainer

    model, tokenizer = load(tmp_path, family)
    rows = rows_of(tokenizer, 8)
    trainer = make_trainer(model, tokenizer, tmp_path / "out")
    found = []
    for collator in (encoding.Collator(tokenizer.pad_token_id), PackingCollator(tokenizer.pad_token_id, 64, 4096)):
        model.zero_grad()
        loss = trainer.compute_loss(model, collator(rows))
        loss.backward()
        found.append((loss.item(), model.get_input_embeddings().weight.grad.clone()))
    assert found[1][0] == pytest.approx(found[0][0], abs=2e-6)
    assert torch.allclose(found[1][1], found[0][1], atol=2e-6)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_check_passes_models_that_keep_records_apart(tmp_path, family: str) -> None:
    model, tokenizer = load(tmp_path, family)
    rows = rows_of(tokenizer, 2)
    packing.check(model, rows[0].ids, rows[1].ids)


def test_the_check_sees_a_model_that_ignores_restarted_positions(tmp_path, monkeypatch) -> None:
    from transformers import masking_utils

    model, tokenizer = load(tmp_path, "llama")
    rows = rows_of(tokenizer, 2)
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(
        JmedloraError, match=r"packed records of llama read each other .* 'sdpa' .*set packing to False; rows of like length"
    ):
        packing.check(model, rows[0].ids, rows[1].ids)


def test_a_model_with_state_instead_of_attention_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with pytest.raises(JmedloraError, match=r"mamba.*set packing to False"):
        packing.check(MambaForCausalLM(MambaConfig(**sizes)), [1, 2, 3], [4, 5, 6])


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_packed_run_learns_what_the_unpacked_one_learns_with_less_padding(tmp_path, monkeypatch, family: str) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, family)
    plan = replace(QUICK, base=family, method="lora" if family == "gpt_neox" else "qlora", length_grouped=False)
    plain = training.tune(plan, "plain", workspace)
    packed = training.tune(replace(plan, packing=True), "packed", workspace)
    assert losses(packed) == pytest.approx(losses(plain), abs=5e-3 if plan.method == "qlora" else 1e-4)
    assert packed.metrics["padding_share"] < 0.5 * plain.metrics["padding_share"]


def test_a_run_that_cannot_be_packed_stops_before_training(tmp_path, monkeypatch) -> None:
    from transformers import masking_utils

    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(JmedloraError, match="read each other"):
        training.tune(replace(QUICK, packing=True), "run", workspace)
    assert not list((workspace.adapters / "run").glob("checkpoint-*"))


KILLED = """
import os, signal
from dataclasses import replace
from jmedlora_utils.core import paths
from jmedlora_utils.tuning import response_trainer, training
from tests.tuning.test_training import KILL_SETTINGS
inner = response_trainer.ResponseTrainer.training_step
def dies(self, *args, **kwargs):
    if self.state.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
response_trainer.ResponseTrainer.training_step = dies
training.tune(replace(KILL_SETTINGS, packing=True), "run", paths.Workspace("smoke", 1))
"""


@pytest.mark.slow
def test_trap_45_a_packed_run_killed_and_started_again_ends_the_same(tmp_path, monkeypatch) -> None:
    plan = replace(KILL_SETTINGS, packing=True)
    straight = training.tune(plan, "run", tiny.make_workspace(tmp_path / "straight", monkeypatch, "llama"))
    workspace = tiny.make_workspace(tmp_path / "killed", monkeypatch, "llama")
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1", "JMEDLORA_PROGRESS": "0"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    died = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [5, 6]
    assert training.tune(plan, "run", workspace).comparable() == straight.comparable()
