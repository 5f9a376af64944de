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
        assert max(run.tune["save_steps"]) == run.tune["max_steps"]
    plain = {run.tune["base"] for run in found.runs if 0 in run.evaluate["steps"] and run.tune.get("method") != "qlora"}
    assert {run.tune["base"] for run in found.runs} - plain <= ({"ja-medium"} if preset == "smoke" else set())


def test_every_condition_of_the_study_is_there() -> None:
    runs = {run.name: with_expert(run.tune or {}, run.name) for run in load_preset("mini").runs}
    bases = {tune["base"] for name, tune in runs.items() if name.endswith("_lora")}
    assert bases == {"en-small", "en-medium", "en-large", "ja-medium"}
    quantised = next(tune for tune in runs.values() if tune.get("method") == "qlora")
    assert f"{quantised['base']}_lora" in runs
    assert {"placebo", "examples", "sentences"} < {tune.get("records") for tune in runs.values()}
    assert any(tune.get("method") == "full" for tune in runs.values())
    study = {run.name: with_expert(run.tune or {}, run.name) for run in load_preset("mini-seeds").runs}
    assert study.items() >= runs.items(), "one world of `mini` is run as in the study"
    assert set(study) == {run.name for run in load_preset("midi").runs}
    assert load_preset("mini").seeds[0] in load_preset("mini-seeds").seeds


def test_half_the_facts_are_met_as_often_as_all_of_them() -> None:
    for preset in ("mini-seeds", "midi"):
        runs = {run.name: run.tune for run in load_preset(preset).runs}
        for size in ("small", "medium", "large"):
            assert 2 * runs[f"en-{size}_half"]["max_steps"] == runs[f"en-{size}_lora"]["max_steps"]


def test_matched_adapters_train_as_many_parameters_as_that_of_the_middle_size() -> None:
    def trained(ladder: str, tune: dict) -> int:
        """Two thin matrices for each linear layer of a block: four of the attention, three of the MLP."""
        base = pretraining.base_settings(ladder, tune["base"])
        inner = base.hidden * 8 // 3 // 16 * 16
        return tune["rank"] * base.layers * (4 * 2 * base.hidden + 3 * (base.hidden + inner))

    for preset, ladder in (("mini-seeds", "mini"), ("midi", "midi")):
        runs = {run.name: run.tune for run in load_preset(preset).runs}
        middle = trained(ladder, runs["en-medium_lora"])
        for size in ("small", "large"):
            assert abs(trained(ladder, runs[f"en-{size}_matched"]) / middle - 1) < 0.03
            assert abs(trained(ladder, runs[f"en-{size}_lora"]) / middle - 1) > 0.2
