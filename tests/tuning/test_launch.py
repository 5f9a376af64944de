"""Several processes: two over gloo on the CPU equal one with doubled accumulation, and go on after a kill."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_record
from jmedlora_utils.tuning import launch, run_folder, training
from tests import tiny
from tests.tuning.test_training import QUICK, losses

TWO = replace(QUICK, batch_size=4, max_steps=4, save_steps=(2,))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def largest_difference(a: Path, b: Path) -> float:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).abs().max()) for k in one)


def test_two_processes_equal_one_with_doubled_accumulation(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    plan = replace(TWO, packing=True)
    one = training.tune(replace(plan, gradient_accumulation=2), "one", workspace)
    two = launch.tune(plan, "two", workspace, num_processes=2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert [r["grad_norm"] for r in two.metrics["series"]] == pytest.approx([r["grad_norm"] for r in one.metrics["series"]], rel=1e-4)
    for step in (2, 4):
        kept = [workspace.adapters / run / f"checkpoint-{step}" for run in ("one", "two")]
        assert largest_difference(*kept) < 1e-4
    assert two.config["processes"] == {"count": 2, "sharded": False} and two.metrics["epochs"] == one.metrics["epochs"]
    assert not list((workspace.adapters / "two").rglob("rng_state*"))
    monkeypatch.setattr(launch, "_run", lambda *_: pytest.fail("trained again"))
    assert launch.tune(plan, "two", workspace, num_processes=2) == two
    with pytest.raises(
        JmedloraError, match=r"two: its checkpoints were made by 2 processes, this run has 1 process;.*num_processes=2 again"
    ):
        training.tune(plan, "two", workspace)


@pytest.mark.slow
def test_fsdp_with_nf4_gives_the_losses_of_one_process(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    plan = replace(TWO, method="qlora", optimizer="paged_adamw_32bit", save_steps=(), gradient_checkpointing=True)
    one = training.tune(replace(plan, gradient_accumulation=2), "one", workspace)
    two = launch.tune(plan, "two", workspace, num_processes=2, launch_config="fsdp2_nf4")
    assert losses(two) == pytest.approx(losses(one), abs=3e-4)
    assert two.config["processes"] == {"count": 2, "sharded": True}
    kept = workspace.adapters / "two" / "checkpoint-4"
    assert sorted(p.name for p in kept.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert largest_difference(kept, workspace.adapters / "one" / "checkpoint-4") < 2e-3


DIES = """
import os, signal, sys
sys.path.insert(0, os.environ["JMEDLORA_TEST_ROOT"])
from jmedlora_utils.tuning import response_trainer, training
inner = response_trainer.ResponseTrainer.training_step
def dies(self, *args, **kwargs):
    if self.state.global_step == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
response_trainer.ResponseTrainer.training_step = dies
sys.exit(training.main())
"""


@pytest.mark.parametrize(("config", "method"), [("ddp", "lora"), ("fsdp2_nf4", "qlora")])
@pytest.mark.slow
def test_trap_45_killed_processes_started_again_end_the_same(tmp_path, monkeypatch, config: str, method: str) -> None:
    plan = replace(TWO, method=method, dropout=0.2, max_steps=7, save_steps=(), checkpoint_every=3)
    straight = launch.tune(plan, "run", tiny.make_workspace(tmp_path / "straight", monkeypatch, "llama"), 2, config)
    workspace = tiny.make_workspace(tmp_path / "killed", monkeypatch, "llama")
    script = tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    monkeypatch.setenv("JMEDLORA_TEST_ROOT", str(paths.ROOT))
    usual = launch.command

    def deadly(*args: Any, **kwargs: Any) -> list[str]:
        given = usual(*args, **kwargs)
        cut = given.index("-m", 3)
        return [*given[:cut], str(script), *given[cut + 2 :]]

    monkeypatch.setattr(launch, "command", deadly)
    with pytest.raises(JmedloraError, match="run: the 2 processes ended with status"):
        launch.tune(plan, "run", workspace, 2, config)
    monkeypatch.setattr(launch, "command", usual)
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [3]
    with pytest.raises(JmedloraError, match=r"made by 2 processes.*, this run has 1 process;"):
        training.tune(plan, "run", workspace)
    resumed = launch.tune(plan, "run", workspace, 2, config)
    assert resumed.metrics["series"] == straight.metrics["series"]
    assert resumed.metrics["weights_sha256"] == straight.metrics["weights_sha256"]


@pytest.mark.slow
def test_an_error_of_the_processes_is_the_error_of_the_notebook(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    with pytest.raises(JmedloraError, match=r"run: the 2 processes ended with status \d+: record r\d+ has \d+ tokens, max_length is 5"):
        launch.tune(replace(TWO, max_length=5), "run", workspace, 2)


def test_a_second_process_on_the_same_run_is_refused(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    with (
        run_folder.alone(workspace.adapters / "run"),
        pytest.raises(JmedloraError, match="the training run run: another process is at work on it"),
    ):
        training.tune(TWO, "run", workspace)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 0}, "num_processes is 0"),
        ({"num_processes": 2, "launch_config": "dpp"}, "launch_config 'dpp' is no file.*known: ddp, fsdp2_nf4"),
        ({"num_processes": 1, "launch_config": "ddp"}, "raise num_processes, or leave launch_config empty"),
    ],
)
def test_a_launch_that_cannot_be_right_is_refused(tmp_path, monkeypatch, given: dict[str, Any], message: str) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch)
    with pytest.raises(JmedloraError, match=message):
        launch.tune(TWO, "run", workspace, **given)


def test_an_old_or_foreign_configuration_is_refused(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch)
    for text, message in (
        ("distributed_type: DEEPSPEED", "distributed_type is 'DEEPSPEED'"),
        ("- distributed_type", "not a mapping of settings"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}", "fsdp_version must be 2"),
    ):
        file = tmp_path / "own.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(JmedloraError, match=message):
            launch.tune(TWO, "run", workspace, 2, str(file))


def test_the_module_alone_runs_a_settings_file(tmp_path, monkeypatch, capsys) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    job = {"settings": {"base": "llama", "template": "plain_ja", "max_steps": 2, "rank": 4}, "run_name": "r", "preset": "smoke", "seed": 1}
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    assert training.main(["--settings", str(file)]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == {"record": "20_tune__r"}
    assert len(losses(read_record(workspace.records / "20_tune__r.json"))) == 2
    job["settings"]["base"] = "lama"
    file.write_text(json.dumps(job), encoding="utf-8")
    assert training.main(["--settings", str(file)]) == 2
    assert capsys.readouterr().err.startswith("error: no base model 'lama' (did you mean 'llama'?)")


def test_the_presets_are_not_confused_by_the_configurations() -> None:
    from jmedlora_utils.core import presets

    assert not {p.stem for p in launch.CONFIGS.glob("*.yaml")} & set(presets.preset_names())


def test_an_interrupted_notebook_stops_its_processes(tmp_path, monkeypatch) -> None:
    import subprocess

    started: list[subprocess.Popen] = []
    wait = subprocess.Popen.wait

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> int:
        if not started:
            started.append(self)
            raise KeyboardInterrupt
        return wait(self, *args, **kwargs)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch._run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    assert started[0].poll() is not None and os.path.exists(tmp_path / "log")


@pytest.mark.slow
def test_notebook_20_tunes_in_two_processes(tmp_path, monkeypatch) -> None:
    from tests.executed import execute

    workspace = tiny.make_workspace(tmp_path / "runs", monkeypatch, "llama")
    run = {"run_name": "two", "base": "llama", "max_steps": 2, "save_steps": [2], "num_processes": 2, "packing": True}
    shown = execute("20_tune_lora", tmp_path / "20.ipynb", monkeypatch, **run)
    assert "processes: 2" in shown and "tab-tune-cut" in shown and "attention: sdpa" in shown
    record = read_record(workspace.records / "20_tune__two.json")
    assert record.config["processes"] == {"count": 2, "sharded": False} and record.config["packing"] is True
    assert (workspace.logs / "20_tune__two.launch.log").is_file()
