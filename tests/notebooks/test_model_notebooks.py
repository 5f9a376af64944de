"""Notebooks 20 and 30, executed by papermill on tiny models: an invented exam, and two hundred real questions."""

from __future__ import annotations

import os

import pytest

from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.evaluation import exam_prompts
from tests import tiny
from tests.executed import execute


def test_tune_then_ask(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path / "runs", monkeypatch, "llama")
    run = {"run_name": "tiny", "base": "llama"}
    shown = execute("20_tune_lora", tmp_path / "20.ipynb", monkeypatch, **run, learning_rate=0.01, max_steps=6, save_steps=[3])
    record = read_record(workspace.records / "20_tune__tiny.json")
    assert "⟦" in shown and "largest difference at step 0: **0.0**" in shown
    assert f"{record.counts['trainable_parameters']:,} parameters are trained" in shown
    more = {"likelihood": True, "compare": ["merged-none"], "shuffle_choices": 5}
    shown = execute("30_evaluate_exam", tmp_path / "30.ipynb", monkeypatch, **run, adapter="tiny", steps=[0, 3, 6], **more)
    names = {p.stem for p in workspace.records.glob("30_evaluate__tiny__*.json")}
    assert names == {
        f"30_evaluate__tiny__step{k}__mini_{exam}__{s}shot" for k in (0, 3, 6) for exam in ("trained", "heldout", "general") for s in (0, 1)
    }
    assert "tab-eval-excluded" in shown and "oracle" in shown and "The scorers disagree on" in shown
    assert "unreadable" in shown and "tab-eval-accuracy" in shown and "問題:" in shown
    assert "ended by:" in shown and "Markdown object" not in shown
    assert "tab-eval-positions" in shown and "tab-eval-likelihood" in shown and "tab-eval-variants" in shown


@pytest.mark.skipif(not os.environ.get("JMEDLORA_DATA"), reason="JMEDLORA_DATA names no copy of the public exams")
def test_a_tiny_base_answers_two_hundred_real_questions(tmp_path, monkeypatch) -> None:
    workspace = tiny.make_workspace(tmp_path / "runs", monkeypatch)
    base = tiny.make_checkpoint(tmp_path / "base", hidden=32, context=8192)
    execute(
        "30_evaluate_exam",
        tmp_path / "30.ipynb",
        monkeypatch,
        run_name="real",
        base=str(base),
        adapter="",
        steps=[0],
        exams=["igakuqa_2018"],
        limit=200,
        max_new_tokens=8,
        batch_size=16,
        template="alpaca_ja",
    )
    questions = [q.id for q in exam_prompts.load_exam("igakuqa_2018", workspace)[0][:200]]
    for shots in (0, 1):
        stem = f"real__step0__igakuqa_2018__{shots}shot"
        rows = read_jsonl(workspace.answers / f"{stem}.jsonl")
        record = read_record(workspace.records / f"30_evaluate__{stem}.json")
        assert [row["id"] for row in rows] == questions and record.counts["questions"] == 200
        assert len(record.config["shot_ids"]) == shots and not set(record.config["shot_ids"]) & set(questions)
        assert record.metrics["journal"]["all"]["accuracy"]["n"] == 200
