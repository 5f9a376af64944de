"""Tuning: right loss, right order, right adapter, and the same adapter after a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import loading
from jmedlora_utils.tuning import encoding, training
from jmedlora_utils.tuning.encoding import Row
from jmedlora_utils.tuning.training import TuneSettings
from tests import tiny

QUICK = TuneSettings(base="llama", template="plain_ja", rank=4, learning_rate=5e-3, batch_size=8, max_steps=4, max_length=128)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> paths.Workspace:
    return tiny.make_workspace(tmp_path, monkeypatch, *tiny.FAMILIES)


def losses(record: Any) -> list[float]:
    return [row["loss"] for row in record.metrics["series"]]


# --- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", [True, False])
def test_trap_39_eos_is_supervised_even_where_it_pads(tmp_path, pad: bool) -> None:
    tokenizer = loading.load_tokenizer(loading.find_base(str(tiny.make_checkpoint(tmp_path / "m", pad=pad))))
    rows, audit = encoding.encode_records(tiny.make_records(8), tokenizer, "plain_ja", 128)
    batch = encoding.Collator(tokenizer.pad_token_id)(rows)
    assert batch["labels"].tolist().count(tokenizer.eos_token_id) == len(rows)
    assert batch["labels"].numel() == audit.supervised_tokens


def test_trap_48_the_loss_falls_on_the_response_alone() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    records = tiny.make_records(5)
    rows, _ = encoding.encode_records(records, tokenizer, "plain_ja", 128)
    batch = encoding.Collator(tokenizer.pad_token_id)(rows)
    assert tokenizer.decode(batch["labels"]) == "".join(f"{r['output']}</s>" for r in records)
    flat = batch["input_ids"].flatten()
    for position, label in zip(batch["positions"].tolist(), batch["labels"].tolist(), strict=True):
        assert label == tokenizer.eos_token_id or flat[position + 1] == label


def test_trap_38_a_long_record_is_an_error_or_counted_never_cut() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    records = tiny.make_records(6)
    records[2]["instruction"] *= 40
    with pytest.raises(JmedloraError, match=r"record r2 has \d+ tokens, max_length is 60 .*too_long='exclude'"):
        encoding.encode_records(records, tokenizer, "plain_ja", 60)
    rows, audit = encoding.encode_records(records, tokenizer, "plain_ja", 60, "exclude")
    assert (audit.read, audit.used, audit.too_long) == (6, 5, 1) and audit.longest > 60
    assert all(row.ids[-1] == tokenizer.eos_token_id for row in rows)


def test_trap_47_length_is_counted_in_tokens() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    records = tiny.make_records(3)
    _, audit = encoding.encode_records(records, tokenizer, "plain_ja", 128)
    exact = audit.longest
    assert encoding.encode_records(records, tokenizer, "plain_ja", exact)[1].used == 3
    with pytest.raises(JmedloraError, match=f"has {exact} tokens"):
        encoding.encode_records(records, tokenizer, "plain_ja", exact - 1)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"instruction": "問"}', "output"),
        ('{"instruction": "", "output": "答"}', "instruction"),
        ('{"instruction": "問", "output": 3}', "output"),
    ],
)
def test_trap_41_a_record_without_an_answer_is_refused_by_line(tmp_path, line: str, field: str) -> None:
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


def test_the_marked_text_shows_what_is_learned() -> None:
    tokenizer = tiny.make_tokenizer(bos=True)
    record = tiny.make_records(1)[0]
    rows, _ = encoding.encode_records([record], tokenizer, "plain_ja", 128)
    assert encoding.marked_text(rows[0], tokenizer).endswith(f"答え:⟦{record['output']}</s>⟧")


# --- order ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 12), st.integers(1, 25), st.booleans(), st.integers(0, 5))
def test_each_epoch_sees_every_row_once_whatever_the_batch(n: int, batch: int, steps: int, grouped: bool, seed: int) -> None:
    lengths = [5 + (7 * i) % 40 for i in range(n)]
    order = encoding.data_order(lengths, steps, batch, seed, grouped)
    assert len(order) == steps * batch and order == encoding.data_order(lengths, steps, batch, seed, grouped)
    counts = [order.count(i) for i in range(n)]
    assert max(counts) - min(counts) <= 2
    if steps * batch % n == 0 and n % batch == 0:
        assert set(counts) == {steps * batch // n}


def test_rows_of_like_length_share_a_batch() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 120) for _ in range(400)]
    shares = [encoding.padding_share([lengths[i] for i in encoding.data_order(lengths, 50, 8, 1, g)], 8) for g in (False, True)]
    assert shares[1] < 0.1 < 0.3 < shares[0]


# --- loss -----------------------------------------------------------------------------------------------------------


def make_trainer(model: Any, tokenizer: Any, folder: Path, **more: Any) -> Any:
    from transformers import TrainingArguments

    from jmedlora_utils.tuning.response_trainer import ResponseTrainer

    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **more)
    collator = encoding.Collator(tokenizer.pad_token_id)
    return ResponseTrainer(model=model, args=arguments, train_dataset=[], keep_steps=(), checkpoint_every=0, collator=collator)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_supervised_logits_give_the_loss_of_all_logits_padded_and_unmasked(tmp_path, family: str) -> None:
    import torch

    model, tokenizer = loading.load_base(str(tiny.make_checkpoint(tmp_path / family, family)))
    rows, _ = encoding.encode_records(tiny.make_records(9), tokenizer, "plain_ja", 128)
    assert len({len(r.ids) for r in rows}) > 3, "rows must differ in length for padding to matter"
    trainer = make_trainer(model, tokenizer, tmp_path / "out")
    computed: list[int] = []
    model.get_decoder().layers[-1].mlp.register_forward_pre_hook(lambda _module, args: computed.append(args[0].shape[-2]))
    ours = trainer.compute_loss(model, encoding.Collator(tokenizer.pad_token_id)(rows))
    ours.backward()
    ours_grad = model.get_input_embeddings().weight.grad.clone()
    assert computed == [sum(len(r.ids) - r.n_prompt for r in rows)], "the last layer's feed-forward part sees supervised tokens alone"
    trainer.detach()
    model.zero_grad()
    total, n = 0.0, 0
    for row in rows:
        ids = torch.tensor([row.ids])
        labels = torch.tensor([[-100] * row.n_prompt + list(row.ids[row.n_prompt :])])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        total = total + torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum", ignore_index=-100)
        n += len(row.ids) - row.n_prompt
    (total / n).backward()
    assert ours.item() == pytest.approx((total / n).item(), abs=2e-6)
    assert torch.allclose(ours_grad, model.get_input_embeddings().weight.grad, atol=2e-6)


def test_trap_49_eight_rows_at_once_equal_eight_accumulated(workspace) -> None:
    at_once = training.tune(replace(QUICK, batch_size=8), "once", workspace)
    piecewise = training.tune(replace(QUICK, batch_size=1, gradient_accumulation=8), "piecewise", workspace)
    assert losses(piecewise) == pytest.approx(losses(at_once), abs=1e-4)
    norms = [[row["grad_norm"] for row in r.metrics["series"]] for r in (at_once, piecewise)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_trap_51_gradient_checkpointing_changes_no_loss(workspace, monkeypatch, family: str) -> None:
    layers = loading.load_base(loading.find_base(family, workspace))[0].get_decoder().layers
    part, calls = type(layers[0].mlp), []
    forward = part.forward
    monkeypatch.setattr(part, "forward", lambda *args: calls.append(None) or forward(*args))
    plan = replace(QUICK, base=family, gradient_checkpointing=True)
    assert training.training_arguments(plan, workspace.root, cpu=True).activation_checkpointing_kwargs == {"use_reentrant": False}
    plain = training.tune(replace(plan, gradient_checkpointing=False), "plain", workspace)
    once = len(calls)
    saved = training.tune(plan, "saved", workspace)
    assert len(calls) - 2 * once == QUICK.max_steps * len(layers), "not every block is computed again on the way back"
    assert losses(saved) == pytest.approx(losses(plain), abs=1e-5)


def test_the_presets_checkpoint_only_where_the_planner_finds_nothing_faster() -> None:
    from jmedlora_utils.core import presets
    from jmedlora_utils.models import memory, planner, registry

    found = {}
    for preset, card in (("paper", 80), ("paper-sizes", 80), ("modern", 24)):
        for run in presets.load_preset(preset).runs:
            set_ = presets.declared_parameters(presets.TUNE_NOTEBOOK) | (run.tune or {})
            wanted = planner.tuning_of(set_, registry.resolve(set_["base"]))
            rows = set_["batch_size"] * set_["gradient_accumulation"]
            option = memory.fit_tuning(replace(wanted, checkpointing=False), rows, planner.CARDS[card].usable())
            assert option is not None and set_["gradient_checkpointing"] == option.checkpointing, (preset, run.name)
            assert set_["dtype"] == "bfloat16" and set_["optimizer"] and rows == 8
            found[run.name] = option.checkpointing
    assert set(found.values()) == {False, True}


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_method_learns_on_every_architecture(workspace, family: str, method: str) -> None:
    rate = 2e-3 if method == "full" else 1e-2
    record = training.tune(replace(QUICK, base=family, method=method, learning_rate=rate, max_steps=12, save_steps=(6,)), "run", workspace)
    assert losses(record)[-1] < losses(record)[0] - 1
    assert record.metrics["step0_max_difference"] == 0.0 and record.counts["used"] == 120
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [6, 12]
    total = loading.count_parameters(loading.load_base(family, workspace=workspace)[0])["total"]
    assert record.model["parameters"] == total
    trainable = training.preview(replace(QUICK, base=family, method=method), workspace)[1]["trainable"]
    assert record.counts["trainable_parameters"] == trainable
    assert not list((workspace.adapters / "run").rglob("optimizer.pt"))


@pytest.mark.parametrize("tie", [False, True])
def test_embeddings_are_trained_beside_the_adapter(workspace, tie: bool) -> None:
    tiny.make_checkpoint(workspace.bases / "tied", "llama", tie=tie)
    plain = training.tune(replace(QUICK, base="tied", max_steps=1), "plain", workspace)
    record = training.tune(replace(QUICK, base="tied", max_steps=1, train_embeddings=True), "embeddings", workspace)
    size = loading.load_base("tied", workspace=workspace)[0].get_input_embeddings().weight.numel()
    assert record.counts["trainable_parameters"] - plain.counts["trainable_parameters"] == (1 if tie else 2) * size
    assert record.metrics["step0_max_difference"] == 0.0


def test_the_step_zero_check_sees_an_adapter_that_is_not_neutral(workspace) -> None:
    import torch

    base = loading.find_base("llama", workspace)
    model = training.build_model(QUICK, base)
    assert training.step_zero_difference(model, [1, 2, 3]) == 0.0
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(0.01)
    assert training.step_zero_difference(model, [1, 2, 3]) > 0


def test_trap_42_the_seed_is_set_before_the_adapter_is_made(workspace) -> None:
    import torch

    hashes = []
    for name, stray in (("a", 1), ("b", 2)):
        torch.manual_seed(stray)
        hashes.append(training.tune(QUICK, name, workspace).metrics["weights_sha256"])
    other = training.tune(replace(QUICK, seed=2), "c", workspace).metrics["weights_sha256"]
    assert hashes[0] == hashes[1] != other


def test_trap_43_the_rate_rises_over_the_warm_up(workspace) -> None:
    record = training.tune(replace(QUICK, schedule="constant_with_warmup", warmup_steps=2, max_steps=4), "run", workspace)
    rates = [row["learning_rate"] for row in record.metrics["series"]]
    assert rates == pytest.approx([0, QUICK.learning_rate / 2, QUICK.learning_rate, QUICK.learning_rate])
    with pytest.raises(JmedloraError, match="'constant' ignores warmup_steps; use 'constant_with_warmup'"):
        replace(QUICK, schedule="constant", warmup_steps=2)


def test_continued_pretraining_makes_a_new_base(workspace) -> None:
    plan = replace(QUICK, pretrain_on="articles", pretrain_steps=5, pretrain_learning_rate=1e-3)
    record = training.tune(plan, "run", workspace)
    made = loading.find_base(str(workspace.adapters / "run" / "base"))
    assert loading.fingerprint(made) != record.model["fingerprint"] == loading.fingerprint(loading.find_base("llama", workspace))
    series = record.metrics["pretrain_series"]
    assert len(series) == 5 and series[-1]["loss"] < series[0]["loss"]
    assert not (workspace.adapters / "run" / "pretraining").exists()


@pytest.mark.parametrize("optimizer", ["paged_adamw_32bit", "adamw_bnb_8bit", "paged_adamw_8bit"])
def test_the_optimizers_of_bitsandbytes_run(workspace, optimizer: str) -> None:
    assert len(losses(training.tune(replace(QUICK, optimizer=optimizer, max_steps=2), "run", workspace))) == 2


def test_bfloat16_follows_float32_and_trains_the_adapter_in_float32(workspace) -> None:
    plain, half = (training.tune(replace(QUICK, dtype=d, max_steps=2), d, workspace) for d in ("float32", "bfloat16"))
    assert losses(half) == pytest.approx(losses(plain), abs=5e-2) and losses(half) != losses(plain)
    model = training.build_model(replace(QUICK, dtype="bfloat16"), loading.find_base("llama", workspace))
    assert {str(p.dtype) for p in model.parameters() if p.requires_grad} == {"torch.float32"}
    assert {str(p.dtype) for p in model.parameters() if not p.requires_grad} == {"torch.bfloat16"}


def test_trackers_are_off_unless_one_is_named(tmp_path) -> None:
    assert training.training_arguments(QUICK, tmp_path, cpu=True).report_to == []
    assert training.training_arguments(replace(QUICK, report_to="tensorboard"), tmp_path, cpu=True).report_to == ["tensorboard"]


def test_a_tracker_that_is_named_is_told_every_loss(workspace, monkeypatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            told.extend([logs["loss"]] if "loss" in logs else [])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    record = training.tune(replace(QUICK, report_to="tensorboard", max_steps=2), "run", workspace)
    assert told == losses(record)


def test_trap_52_an_optimizer_that_fsdp_cannot_save_is_refused(monkeypatch) -> None:
    replace(QUICK, optimizer="paged_adamw_8bit")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(JmedloraError, match=r"cannot be saved under FSDP.*'paged_adamw_32bit'"):
        replace(QUICK, optimizer="paged_adamw_8bit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lorra"}, "method is 'lorra'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"rank": 0}, "rank is 0; it must be above 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"save_steps": (2, 9)}, r"save_steps \[2, 9\] must lie between 1 and max_steps \(4\)"),
        ({"pretrain_on": "articles"}, "pretrain_on and pretrain_steps go together"),
        ({"pretrain_on": "articles", "pretrain_steps": 3, "method": "qlora"}, "a 4-bit base cannot"),
        ({"too_long": "cut"}, "too_long is 'cut'"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        replace(QUICK, **change)


def test_a_loss_that_is_no_number_stops_the_run(workspace) -> None:
    with pytest.raises(JmedloraError, match=r"the loss is .* at step \d+; lower learning_rate"):
        training.tune(replace(QUICK, method="full", learning_rate=1e30, max_grad_norm=0.0, max_steps=8), "run", workspace)


def test_trap_45_a_finished_run_is_not_trained_again(workspace, monkeypatch) -> None:
    first = training.tune(QUICK, "run", workspace)
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert training.tune(QUICK, "run", workspace) == first
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        training.tune(replace(QUICK, rank=2), "run", workspace)


def test_other_settings_move_the_old_adapter_aside(workspace) -> None:
    old = training.tune(QUICK, "run", workspace).metrics["weights_sha256"]["4"]
    new = training.tune(replace(QUICK, rank=2), "run", workspace).metrics["weights_sha256"]["4"]
    aside = workspace.adapters / ".superseded" / "run.0" / "checkpoint-4"
    assert training.weights_sha256(aside) == old != new == training.weights_sha256(workspace.adapters / "run" / "checkpoint-4")


# --- kills ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from dataclasses import replace
from jmedlora_utils.core import paths
from jmedlora_utils.tuning import response_trainer
from tests.tuning.test_training import KILL_SETTINGS
from jmedlora_utils.tuning import training
family, method, where, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
inner = getattr(response_trainer.ResponseTrainer, where)
def dies(self, *args, **kwargs):
    if self.state.global_step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
setattr(response_trainer.ResponseTrainer, where, dies)
training.tune(replace(KILL_SETTINGS, base=family, method=method), "run", paths.Workspace("smoke", 1))
"""
KILL_SETTINGS = replace(QUICK, dropout=0.2, max_steps=11, save_steps=(5,), checkpoint_every=3)


@pytest.mark.parametrize(
    ("family", "method", "where", "step"),
    [
        ("llama", "qlora", "training_step", random.Random(20261122).randrange(4, 11)),
        ("gpt_neox", "qlora", "training_step", random.Random(20231016).randrange(4, 11)),
        ("llama", "lora", "_save_rng_state", 6),  # in the middle of writing a checkpoint
    ],
)
def test_trap_45_killed_and_started_again_it_ends_the_same(tmp_path, monkeypatch, family: str, method: str, where: str, step: int) -> None:
    plan = replace(KILL_SETTINGS, base=family, method=method)
    straight = training.tune(plan, "run", tiny.make_workspace(tmp_path / "straight", monkeypatch, family))
    workspace = tiny.make_workspace(tmp_path / "killed", monkeypatch, family)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1", "JMEDLORA_PROGRESS": "0"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, family, method, where, str(step)]
    died = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (workspace.records / "20_tune__run.json").exists()
    assert list(training.kept_checkpoints(workspace.adapters / "run")), "the kill must come after a checkpoint for resuming to be tested"
    resumed = training.tune(plan, "run", workspace)
    assert resumed.metrics["series"] == straight.metrics["series"]
    assert resumed.metrics["weights_sha256"] == straight.metrics["weights_sha256"]
    assert resumed.comparable() == straight.comparable()


def test_only_kept_and_latest_checkpoints_stay(workspace) -> None:
    training.tune(replace(QUICK, max_steps=7, save_steps=(2,), checkpoint_every=3), "run", workspace)
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [2, 7]


def test_rows_know_what_is_prompt() -> None:
    batch = encoding.Collator(0)([Row((5, 6, 7, 8), 2), Row((5, 9), 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["positions"].tolist() == [1, 2, 3] and batch["labels"].tolist() == [7, 8, 9]
