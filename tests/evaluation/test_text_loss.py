"""Loss per byte of running text: against a plain computation, made once, and refused where there is no text."""

import dataclasses
from pathlib import Path

import pytest
import torch

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_jsonl
from jmedlora_utils.data import prompts
from jmedlora_utils.evaluation import text_loss
from jmedlora_utils.evaluation.evaluator import Examinee
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from tests import tiny

TEXTS = ["アサナ病の治療", "イシニ薬である。アサナ病"]


def test_each_base_is_read_once_and_the_loss_is_that_of_every_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tiny.make_workspace(tmp_path, monkeypatch, "llama")
    write_jsonl(workspace.data / "texts" / "japanese.jsonl", [{"text": text} for text in TEXTS])
    examinee = Examinee.find(EvalSettings(base="llama", template="plain_ja"), workspace)
    record = text_loss.measure(examinee, "base", workspace, ["japanese"])[0]
    model, tokenizer = loading.load_base("llama", workspace=workspace)
    nats = 0.0
    for text in TEXTS:
        ids = prompts.encode_prompt(tokenizer, text)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(float(logits[n, token]) for n, token in enumerate(ids[1:]))
    size = sum(len(text.encode()) for text in TEXTS)
    assert record.metrics["japanese"]["nats_per_byte"] == pytest.approx(nats / size, rel=1e-4)
    examinee.backend.step = 5  # as after the exams of a later step
    assert text_loss.measure(examinee, "again", workspace, ["japanese"])[0].metrics == record.metrics
    monkeypatch.setattr(text_loss, "loss_per_byte", None)
    assert text_loss.measure(examinee, "base", workspace, ["japanese"])[0].metrics == record.metrics
    assert list(text_loss.frame([record])["texts"]) == ["japanese"]
    for lines, said in (("", "english.jsonl: holds no article"), ('{"title": "t"}', "english.jsonl:1: field 'text' is missing")):
        (workspace.data / "texts" / "english.jsonl").write_text(lines, encoding="utf-8")
        with pytest.raises(JmedloraError, match=said):
            text_loss.measure(examinee, "base", workspace, ["english"])
    with_vllm = dataclasses.replace(examinee, settings=examinee.settings.changed(backend="vllm"))
    with pytest.raises(JmedloraError, match="texts: backend 'vllm' only writes answers"):
        text_loss.measure(with_vllm, "base", workspace, ["japanese"])
    (workspace.data / "texts" / "english.jsonl").unlink()
    with pytest.raises(JmedloraError, match=r"english.jsonl: no such file; run notebook 12"):
        text_loss.measure(examinee, "base", workspace, ["english"])
