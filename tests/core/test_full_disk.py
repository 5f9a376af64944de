"""A full disk ends in one line that names what could not be written, whichever library was writing; nothing half-written counts."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from jmedlora_utils.core import records
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import invented_world
from jmedlora_utils.evaluation.answer_log import AnswerLog
from jmedlora_utils.models import pretraining
from jmedlora_utils.tuning import training
from tests import tiny
from tests.tuning.test_tuning_settings import QUICK

FULL = {
    "the file system": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0: PytorchStreamWriter failed writing file"),
}


@pytest.mark.parametrize("who", FULL)
def test_each_library_s_own_words_become_one_line(tmp_path: Path, who: str) -> None:
    with (
        pytest.raises(JmedloraError, match=r"state\.pt: could not be written \(.*\); free some space") as refused,
        records.writing(tmp_path / "state.pt"),
    ):
        raise FULL[who]
    assert "\n" not in str(refused.value)


def test_another_fault_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), records.writing(tmp_path / "state.pt"):
        raise RuntimeError("shapes do not fit")


def test_answers_checkpoints_and_bases_name_what_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise FULL["safetensors"]

    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    with monkeypatch.context() as patch:
        patch.setattr("peft.PeftModel.save_pretrained", full)
        with pytest.raises(JmedloraError, match="adapters/run/checkpoint-4: could not be written"):
            training.tune(QUICK, "run", workspace)
    assert list(training.kept_checkpoints(workspace.adapters / "run")) == [] and training.tune(QUICK, "run", workspace).status == "done"
    world = invented_world.World(invented_world.WorldSettings(seed=1, towns=6, answers=6, people=8, general_questions=12))
    base = pretraining.BaseSettings("en-small", "llama", 16, 1, 2, 0.6, 100, 4e-3)
    for saver, named in ((torch, "save"), (PreTrainedModel, "save_pretrained")):
        with monkeypatch.context() as patch:
            patch.setattr(saver, named, full)
            with pytest.raises(JmedloraError, match=r"(bases/en-small|state\.pt): could not be written"):
                pretraining.pretrain(base, world, workspace, lambda *_: {}, every=1)
        assert not (workspace.bases / "en-small").exists()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(FULL["the file system"]))
    with pytest.raises(JmedloraError, match=r"a\.jsonl\.partial: could not be written \(No space left on device\)"):
        AnswerLog(tmp_path / "a.jsonl", ["k"]).fill([[0]], lambda batch: [{"key": "k"}], "generate")
