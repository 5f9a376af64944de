"""Notebooks 20 and 30, executed by papermill on a tiny model and an invented exam."""

from jmedlora_utils.core.records import read_record
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
