"""Notebooks 10 and 19, executed by papermill at smoke size: what they write, and that it is the same each time."""

from __future__ import annotations

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.data import invented_world
from jmedlora_utils.data.questions import read_exam
from jmedlora_utils.models import loading, pretraining
from tests.executed import execute

BASES = ["en-small", "ja-medium"]


@pytest.mark.slow
def test_world_then_bases_and_twice_the_same(tmp_path, monkeypatch) -> None:
    """A part trains its base alone, the whole notebook trains only what is missing, and another run writes the same records."""
    records = []
    for turn in ("one", "two"):
        monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / turn))
        workspace = paths.Workspace("smoke", 1)
        shown = execute("10_prepare_instructions", tmp_path / "10.ipynb", monkeypatch)
        assert "every taught fact, and no untaught one" in shown and "tab-world" in shown
        asked = {name: read_exam(workspace.data / "exams" / f"{name}.jsonl") for name in invented_world.EXAMS}
        assert all(asked.values()) and {q.section for q in asked["mini_trained"]} == {"taught", "untaught"}
        assert read_jsonl(workspace.data / "instructions" / "train.jsonl") and read_jsonl(workspace.data / "articles.jsonl")
        weights = workspace.bases / "en-small" / "model.safetensors"
        if turn == "one":
            execute("19_pretrain_mini_bases", tmp_path / "part.ipynb", monkeypatch, bases=["en-small"])
            assert not (workspace.bases / "ja-medium").exists()
            made = weights.stat().st_mtime_ns
        shown = execute("19_pretrain_mini_bases", tmp_path / "19.ipynb", monkeypatch)
        assert "tab-ladder" in shown and "tab-entry" in shown and "en-small: " in shown
        assert turn == "two" or weights.stat().st_mtime_ns == made
        for base in BASES:
            model, tokenizer = loading.load_base(base, workspace=workspace)
            assert model.config.vocab_size == len(tokenizer)
        names = ["10_prepare_instructions", *(f"19_pretrain__{base}" for base in BASES)]
        records.append([read_record(workspace.records / f"{name}.json").comparable() for name in names])
    assert records[0] == records[1]


@pytest.mark.parametrize("preset", ["smoke", "mini", "mini-seeds", "midi"])
def test_presets_of_the_study_fit_their_ladder(preset) -> None:
    """Every base a run uses is trained by a prepare entry from the preset's ladder, and every step asked is kept."""
    found = load_preset(preset)
    entries = {name: values for name, values in found.prepare.items() if name.startswith("19_")}
    trained = {base for values in entries.values() for base in values["bases"]}
    for values in entries.values():
        for base in values["bases"]:
            pretraining.base_settings(values.get("ladder", "smoke"), base)
    for run in found.runs:
        assert run.tune is not None and run.tune["base"] in trained and run.evaluate["base"] == run.tune["base"]
        assert run.evaluate["adapter"] == run.name
        assert set(run.evaluate["steps"]) - {0} == set(run.tune["save_steps"])
        assert len(run.tune["save_steps"]) == 3 and max(run.tune["save_steps"]) == run.tune["max_steps"]
    plain = {run.tune["base"] for run in found.runs if 0 in run.evaluate["steps"] and "pretrain_on" not in run.tune}
    assert {run.tune["base"] for run in found.runs} - plain <= ({"ja-medium"} if preset == "smoke" else set())


def test_every_condition_of_the_study_is_there() -> None:
    runs = {run.name: with_expert(run.tune or {}, run.name) for run in load_preset("mini").runs}
    bases = {tune["base"] for name, tune in runs.items() if name.endswith("_lora")}
    assert bases == {"en-small", "en-medium", "en-large", "ja-medium"}
    quantised = next(tune for tune in runs.values() if tune.get("method") == "qlora")
    assert f"{quantised['base']}_lora" in runs
    assert any(tune.get("pretrain_on") == "articles" for tune in runs.values())
    assert any(tune.get("method") == "full" for tune in runs.values())
    assert any(tune.get("train_embeddings") for tune in runs.values())
    assert load_preset("mini-seeds").seeds == (1, 2, 3, 4, 5)
    assert [with_expert(run.tune or {}, run.name) for run in load_preset("mini-seeds").runs] == list(runs.values())
