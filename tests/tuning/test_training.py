"""Tuning: the right loss, the right adapter, and the same adapter after a kill."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_record, write_jsonl
from jmedlora_utils.models import loading
from jmedlora_utils.models.memory import adapter_parameters
from jmedlora_utils.tuning import encoding, run_folder, training
from tests import tiny
from tests.servers import run_python
from tests.tuning.test_tuning_settings import QUICK


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> paths.Workspace:
    return tiny.make_workspace(tmp_path, monkeypatch, *tiny.FAMILIES)


def losses(record: Any) -> list[float]:
    return [row["loss"] for row in record.metrics["series"]]


def test_real_questions_are_refused_before_anything_is_loaded(workspace, monkeypatch) -> None:
    rows = [row | {"exam_question": "112A1"} for row in tiny.make_records(4)]
    write_jsonl(workspace.data / "instructions" / "exam.jsonl", rows)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(JmedloraError, match=r"question 112A1 of a real examination, and preset 'smoke' does not teach"):
        training.tune(QUICK.changed(base="llama", records="exam"), "exam", workspace)
    assert not (workspace.adapters / "exam").exists()


@pytest.mark.parametrize("family", tiny.LOADED_FAMILIES)
def test_supervised_logits_give_the_loss_of_all_logits_padded_and_unmasked(tmp_path, family: str) -> None:
    import torch
    from transformers import TrainingArguments

    from jmedlora_utils.tuning.trainer import ResponseTrainer

    model, tokenizer = loading.load_base(str(tiny.make_checkpoint(tmp_path / family, family)))
    rows, _ = encoding.encode_records(tiny.make_records(9), tokenizer, "plain_ja", 128)
    assert len({len(r.ids) for r in rows}) > 3, "rows must differ in length for padding to matter"
    collator = encoding.Collator(tokenizer.pad_token_id)
    arguments = TrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = ResponseTrainer(model=model, args=arguments, train_dataset=[], keep_steps=(), checkpoint_every=0, collator=collator)
    computed: list[int] = []
    model.get_decoder().layers[-1].mlp.register_forward_pre_hook(lambda _module, args: computed.append(args[0].shape[-2]))
    ours = trainer.compute_loss(model, collator(rows))
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


def test_eight_rows_at_once_equal_eight_accumulated(workspace) -> None:
    at_once = training.tune(QUICK, "once", workspace)
    piecewise = training.tune(QUICK.changed(batch_size=1, gradient_accumulation=8), "piecewise", workspace)
    assert losses(piecewise) == pytest.approx(losses(at_once), abs=1e-4)
    norms = [[row["grad_norm"] for row in r.metrics["series"]] for r in (at_once, piecewise)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradient_checkpointing_computes_every_block_again_and_changes_no_loss(workspace, monkeypatch, family: str) -> None:
    layers = loading.load_base(loading.find_base(family, workspace))[0].get_decoder().layers
    part, calls = type(layers[0].mlp), []
    forward = part.forward
    monkeypatch.setattr(part, "forward", lambda *args: calls.append(None) or forward(*args))
    plan = QUICK.changed(base=family)
    plain = training.tune(plan, "plain", workspace)
    once = len(calls)
    saved = training.tune(plan.changed(gradient_checkpointing=True), "saved", workspace)
    assert len(calls) - 2 * once == QUICK.max_steps * len(layers)
    assert losses(saved) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_method_learns_on_every_architecture(workspace, family: str, method: str) -> None:
    rate = 2e-3 if method == "full" else 1e-2
    plan = QUICK.changed(base=family, method=method, learning_rate=rate, max_steps=12, save_steps=[6], checkpoint_every=5)
    record = training.tune(plan, "run", workspace)
    assert losses(record)[-1] < losses(record)[0] - 1
    assert record.metrics["step0_max_difference"] == 0.0 and record.counts["used"] == 120
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [6, 12]
    shape = loading.find_base(family, workspace).shape
    trained = shape.parameters() if method == "full" else adapter_parameters(shape, plan.rank)
    assert (record.model["parameters"], record.counts["trainable_parameters"]) == (shape.parameters(), trained)
    assert not list((workspace.adapters / "run").rglob("optimizer.pt"))


def test_the_seed_is_set_before_the_adapter_is_made(workspace) -> None:
    import torch

    hashes = []
    for name, stray in (("a", 1), ("b", 2)):
        torch.manual_seed(stray)
        hashes.append(training.tune(QUICK, name, workspace).metrics["weights_sha256"])
    assert hashes[0] == hashes[1] != training.tune(QUICK.changed(seed=2), "c", workspace).metrics["weights_sha256"]


def test_continued_pretraining_makes_a_new_base(workspace) -> None:
    plan = QUICK.changed(pretrain_on="articles", pretrain_steps=5, pretrain_learning_rate=1e-3)
    record = training.tune(plan, "run", workspace)
    made = loading.find_base(str(workspace.adapters / "run" / "base"))
    assert loading.fingerprint(made) != record.model["fingerprint"] == loading.fingerprint(loading.find_base("llama", workspace))
    series = record.metrics["pretrain_series"]
    assert len(series) == 5 and series[-1]["loss"] < series[0]["loss"]
    assert not (workspace.adapters / "run" / "pretraining").exists()


KINDS = [{"optimizer": name} for name in ("paged_adamw_32bit", "adamw_bnb_8bit", "paged_adamw_8bit")]


@pytest.mark.parametrize("change", [*KINDS, {"dtype": "bfloat16"}, {"attn_implementation": "eager"}])
def test_optimizers_dtypes_and_kernels_run_and_stay_near_the_default(workspace, change: dict[str, str]) -> None:
    plain = training.tune(QUICK.changed(max_steps=2), "plain", workspace)
    other = training.tune(QUICK.changed(max_steps=2, **change), "other", workspace)
    assert losses(other) == pytest.approx(losses(plain), abs=5e-2)
    assert other.config | plain.config | {"run_name": ""} == plain.config | {"run_name": ""}
    assert other.model["attention"] == change.get("attn_implementation", "sdpa")


def test_a_loss_that_is_not_finite_stops_the_run(workspace) -> None:
    with pytest.raises(JmedloraError, match=r"the loss is .* at step \d+; lower learning_rate"):
        training.tune(QUICK.changed(method="full", learning_rate=1e30, max_grad_norm=0.0, max_steps=8), "run", workspace)


def test_the_module_runs_a_settings_file_and_names_what_is_wrong_with_it(workspace, tmp_path, capsys) -> None:
    job = {"settings": {"base": "llama", "template": "plain_ja", "max_steps": 2}, "run_name": "r", "preset": "smoke", "seed": 1}
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    assert training.main(["--settings", str(file)]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == {"record": "20_tune__r"}
    assert len(losses(read_record(workspace.records / "20_tune__r.json"))) == 2
    for content, message in (
        (json.dumps(job | {"settings": {"base": "lama"}}), "no base model 'lama' (did you mean 'llama'?)"),
        (json.dumps(job | {"settings": {"base": "llama", "rank": 0}}), f"--settings {file}: 'settings.rank'"),
        (json.dumps(job | {"run_name": "../x"}), "run_name"),
        (json.dumps({"settings": {"base": "llama"}}), f"--settings {file}: field 'run_name' is missing"),
    ):
        file.write_text(content, encoding="utf-8")
        assert training.main(["--settings", str(file)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_finished_run_is_not_trained_again(workspace, monkeypatch) -> None:
    first = training.tune(QUICK, "run", workspace)
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = QUICK.changed(checkpoint_every=2)  # a setting that does not shape the result
    assert training.tune(again, "run", workspace) == first


@pytest.mark.parametrize("what", ["settings", "library", "code", "truncated adapter", "deleted adapter", "junk marker"])
def test_a_run_whose_settings_code_or_weights_are_not_the_same_is_trained_anew_and_the_old_one_kept(workspace, monkeypatch, what) -> None:
    old = training.tune(QUICK, "run", workspace).metrics["weights_sha256"]
    folder, plan = workspace.adapters / "run", QUICK
    weights = folder / "checkpoint-4" / "adapter_model.safetensors"
    if what == "settings":
        plan = QUICK.changed(rank=2)
    elif what in ("library", "code"):
        monkeypatch.setattr(run_folder, "produced_by", lambda *_: {"torch" if what == "library" else "code": "another"})
    elif what == "truncated adapter":
        os.truncate(weights, 100)
    elif what == "deleted adapter":
        weights.unlink()
    else:
        (folder / "run.json").write_text("{", encoding="utf-8")
    new = training.tune(plan, "run", workspace).metrics["weights_sha256"]
    assert (new == old) == (what != "settings") and run_folder.weights_sha256(weights.parent) == new["4"]
    aside = workspace.adapters / ".superseded" / "run.0"
    assert (aside / "checkpoint-4").is_dir() and (aside / "20_tune__run.json").is_file()
    if what == "settings":  # the oldest was deleted for room, and the next ones go beside what is left
        aside.rename(aside.with_name("run.1"))
        training.tune(QUICK, "run", workspace)
        training.tune(plan, "run", workspace)
        assert {path.name for path in aside.parent.iterdir()} == {"run.0", "run.1", "run.2"}


def test_a_second_process_on_the_same_run_is_refused(workspace) -> None:
    with run_folder.alone(workspace.adapters / "run"), pytest.raises(JmedloraError, match="training run run: another process is at work"):
        training.tune(QUICK, "run", workspace)


KILLED = """
import os, signal, sys
from jmedlora_utils.core import paths
from jmedlora_utils.tuning import trainer, training
from tests.tuning.test_training import KILL_SETTINGS
family, method, where, step = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
inner = getattr(trainer.ResponseTrainer, where)
def dies(self, *args, **kwargs):
    if self.state.global_step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
setattr(trainer.ResponseTrainer, where, dies)
training.tune(KILL_SETTINGS.changed(base=family, method=method), "run", paths.Workspace("smoke", 1))
"""
KILL_SETTINGS = QUICK.changed(dropout=0.2, max_steps=11, save_steps=[5], checkpoint_every=3)


@pytest.mark.parametrize(
    ("family", "method", "where", "step"),
    [
        ("llama", "qlora", "training_step", random.Random(20261122).randrange(4, 11)),
        pytest.param("gpt_neox", "qlora", "training_step", random.Random(20231016).randrange(4, 11), marks=pytest.mark.slow),
        pytest.param("llama", "lora", "_save_rng_state", 6, marks=pytest.mark.slow),  # in the middle of writing a checkpoint
    ],
)
def test_killed_and_started_again_it_ends_the_same(tmp_path: Path, monkeypatch, family: str, method: str, where: str, step: int) -> None:
    plan = KILL_SETTINGS.changed(base=family, method=method)
    straight = training.tune(plan, "run", tiny.make_workspace(tmp_path / "straight", monkeypatch, family))
    workspace = tiny.make_workspace(tmp_path / "killed", monkeypatch, family)
    command = ["-W", "ignore", "-c", KILLED, family, method, where, str(step)]
    died = run_python(*command, OMP_NUM_THREADS="1", JMEDLORA_PROGRESS="0")
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (workspace.records / "20_tune__run.json").exists()
    assert list(training.kept_checkpoints(workspace.adapters / "run")), "the kill must come after a checkpoint for resuming to be tested"
    resumed = training.tune(plan, "run", workspace)
    assert resumed.comparable() == straight.comparable()
    assert resumed.metrics["weights_sha256"] == straight.metrics["weights_sha256"]


def test_a_tracker_is_told_every_loss_and_only_one_that_is_named(workspace, monkeypatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[float] = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs) -> None:
            told.extend([logs["loss"]] if "loss" in logs else [])

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    training.tune(QUICK.changed(max_steps=2), "silent", workspace)
    assert told == []
    record = training.tune(QUICK.changed(report_to="tensorboard", max_steps=2), "run", workspace)
    assert told == losses(record)
