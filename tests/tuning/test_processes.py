"""What the processes of one run know of each other; that they agree is tested with real ones in `test_launch`."""

from __future__ import annotations

import pytest
import torch

from jmedlora_utils.tuning import processes
from tests import tiny


def test_alone_is_the_default(monkeypatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    assert (processes.count(), processes.is_main(), processes.sharded()) == (1, True, False)
    assert processes.local_device("auto") == "auto" and processes.from_main(lambda: 3) == 3
    processes.leave()


@pytest.mark.parametrize(
    ("card", "sharded", "wanted", "device"),
    [(True, False, "auto", "cuda:1"), (True, True, "auto", "cpu"), (False, False, "auto", "cpu"), (True, False, "cpu", "cpu")],
)
def test_each_process_loads_to_its_own_card_and_shards_start_on_the_cpu(monkeypatch, card, sharded, wanted, device) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true" if sharded else "false")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    assert processes.local_device(wanted) == device


def test_sharded_weights_on_the_cpu_train_on_the_card(monkeypatch) -> None:
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not processes.on_card(model)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert processes.on_card(model)


def test_one_process_drives_one_card_where_it_sees_several(tmp_path, monkeypatch) -> None:
    from transformers import TrainingArguments

    from jmedlora_utils.tuning import training
    from tests.tuning.test_training import QUICK

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    assert training.training_arguments(QUICK, tmp_path, cpu=True)._n_gpu == 1


def test_an_older_run_is_known_again_when_settings_are_added(tmp_path, monkeypatch) -> None:
    import json

    from jmedlora_utils.tuning import training
    from tests.tuning.test_training import QUICK

    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    record = training.tune(QUICK, "run", workspace)
    marker = workspace.adapters / "run" / "run.json"
    older = json.loads(marker.read_text(encoding="utf-8"))
    del older["processes"], older["settings"]["packing"], older["settings"]["attn_implementation"]
    marker.write_text(json.dumps(older), encoding="utf-8")
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained again"))
    assert training.tune(QUICK, "run", workspace) == record
