"""The presets of the miniature study: every condition is there, and what is compared is of one size."""

from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.models import pretraining


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
