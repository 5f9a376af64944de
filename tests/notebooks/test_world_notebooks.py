"""The presets of the miniature study: each fits its ladder, and every condition of the study is there."""

import pytest

from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.models import pretraining


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
