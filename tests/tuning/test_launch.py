"""Several processes: two over gloo on the CPU equal one with doubled accumulation, and go on after a kill."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_record
from jmedlora_utils.tuning import launch, training
from tests import tiny
from tests.tuning.test_training import losses
from tests.tuning.test_tuning_settings import QUICK

ONE = QUICK.changed(batch_size=4, save_steps=[2])
TWO = ONE.changed(num_processes=2)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")


def largest_difference(a: Path, b: Path) -> float:
    from safetensors.torch import load_file

    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (a, b))
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).abs().max()) for k in one)


def test_two_processes_equal_one_with_doubled_accumulation(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    one = training.tune(ONE.changed(gradient_accumulation=2), "one", workspace)
    two = launch.tune(TWO, "two", workspace)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert [r["grad_norm"] for r in two.metrics["series"]] == pytest.approx([r["grad_norm"] for r in one.metrics["series"]], rel=1e-4)
    for step in (2, 4):
        kept = [workspace.adapters / run / f"checkpoint-{step}" for run in ("one", "two")]
        assert largest_difference(*kept) < 1e-4
    assert two.config["processes"] == {"count": 2, "sharded": False} and two.metrics["epochs"] == one.metrics["epochs"]
    assert not list((workspace.adapters / "two").rglob("rng_state*"))
    monkeypatch.setattr(launch, "_run", lambda *_: pytest.fail("trained again"))
    assert launch.tune(TWO, "two", workspace) == two
    said = r"two: its checkpoints were made by 2 processes, this run has 1 process;.*num_processes=2 again"
    with pytest.raises(JmedloraError, match=said):
        training.tune(ONE, "two", workspace)


@pytest.mark.slow
def test_fsdp_with_nf4_gives_the_losses_of_one_process(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    plan = ONE.changed(method="qlora", optimizer="paged_adamw_32bit", save_steps=[], gradient_checkpointing=True)
    one = training.tune(plan.changed(gradient_accumulation=2), "one", workspace)
    two = launch.tune(plan.changed(num_processes=2, launch_config="fsdp2_nf4"), "two", workspace)
    assert losses(two) == pytest.approx(losses(one), abs=3e-4)
    assert two.config["processes"] == {"count": 2, "sharded": True}
    kept = workspace.adapters / "two" / "checkpoint-4"
    assert sorted(p.name for p in kept.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert largest_difference(kept, workspace.adapters / "one" / "checkpoint-4") < 2e-3


DIES = """
import os, signal, sys
sys.path.insert(0, os.environ["JMEDLORA_TEST_ROOT"])
from jmedlora_utils.tuning import trainer, training
inner = trainer.ResponseTrainer.training_step
def dies(self, *args, **kwargs):
    if self.state.global_step == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(self, *args, **kwargs)
trainer.ResponseTrainer.training_step = dies
sys.exit(training.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("config", "method"), [("ddp", "lora"), ("fsdp2_nf4", "qlora")])
def test_killed_processes_started_again_end_the_same(tmp_path, monkeypatch, config: str, method: str) -> None:
    plan = TWO.changed(launch_config=config, method=method, dropout=0.2, max_steps=7, save_steps=[], checkpoint_every=3)
    straight = launch.tune(plan, "run", tiny.make_workspace(tmp_path / "straight", monkeypatch, "llama"))
    workspace = tiny.make_workspace(tmp_path / "killed", monkeypatch, "llama")
    script = tmp_path / "dies.py"
    script.write_text(DIES, encoding="utf-8")
    monkeypatch.setenv("JMEDLORA_TEST_ROOT", str(paths.ROOT))
    usual = launch.command

    def deadly(*args: Any) -> list[str]:
        given = usual(*args)
        cut = given.index("-m", 3)
        return [*given[:cut], str(script), *given[cut + 2 :]]

    monkeypatch.setattr(launch, "command", deadly)
    with pytest.raises(JmedloraError, match="run: the 2 processes ended with status"):
        launch.tune(plan, "run", workspace)
    monkeypatch.setattr(launch, "command", usual)
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [3]
    resumed = launch.tune(plan, "run", workspace)
    assert resumed.metrics["series"] == straight.metrics["series"]
    assert resumed.metrics["weights_sha256"] == straight.metrics["weights_sha256"]


@pytest.mark.slow
def test_an_error_of_the_processes_is_the_error_of_the_notebook(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    with pytest.raises(JmedloraError, match=r"run: the 2 processes ended with status \d+: record r\d+ has \d+ tokens, max_length is 5"):
        launch.tune(TWO.changed(max_length=5), "run", workspace)


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("a\nValueError: later\nerror: no base 'x'\n", "no base 'x'"),
        ("a\nKeyError: 'x'\nRuntimeError: follows\n", "KeyError: 'x'"),
        ("1\n2\n3\n4\n", "2 / 3 / 4"),
    ],
)
def test_the_cause_of_a_failure_is_found_in_the_log(tmp_path, log: str, cause: str) -> None:
    (tmp_path / "log").write_text(log, encoding="utf-8")
    assert launch._cause(tmp_path / "log").startswith(f"{cause} (log: ")


def test_an_interrupted_notebook_stops_its_processes(tmp_path, monkeypatch) -> None:
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
    run = {"run_name": "two", "base": "llama", "max_steps": 2, "save_steps": [2], "num_processes": 2, "expert": ["weight_decay=0.1"]}
    shown = execute("20_tune_lora", tmp_path / "20.ipynb", monkeypatch, **run)
    assert "processes: 2" in shown and "tab-tune-cut" in shown and "attention: sdpa" in shown
    record = read_record(workspace.records / "20_tune__two.json")
    assert record.config["processes"] == {"count": 2, "sharded": False} and record.config["weight_decay"] == 0.1
    assert (workspace.logs / "20_tune__two.launch.log").is_file()
