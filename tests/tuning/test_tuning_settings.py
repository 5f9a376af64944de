"""What tuning can be told: every value that cannot be right is refused by name, before anything is loaded."""

from typing import Any

import pytest

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.tuning.settings import TuneSettings

QUICK = TuneSettings(base="llama", template="plain_ja", rank=4, learning_rate=5e-3, batch_size=8, max_steps=4, max_length=128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "constant", "warmup_steps": 2}, "use 'constant_with_warmup'"),
        ({"pretrain_on": "articles"}, "pretrain_on and pretrain_steps go together"),
        ({"pretrain_on": "articles", "pretrain_steps": 3, "method": "qlora"}, "a 4-bit base cannot"),
        ({"num_processes": 2, "launch_config": "dpp"}, "launch_config 'dpp' is no file.*known: ddp, fsdp2_nf4"),
        ({"launch_config": "ddp"}, "raise num_processes, or leave launch_config empty"),
        ({"launch_config": "fsdp2_nf4", "method": "full"}, "FSDP trains only adapters"),
        ({"launch_config": "fsdp2_nf4", "optimizer": "paged_adamw_8bit"}, "cannot be saved under FSDP.*'paged_adamw_32bit'"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(JmedloraError, match=message):
        QUICK.changed(**change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: DEEPSPEED", ": distributed_type is 'DEEPSPEED'"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}", ": fsdp_version must be 2"),
        ("distributed_type: MULTI_GPU\nnum_machines: many", ": num_machines is 'many'"),
    ],
)
def test_a_foreign_launch_configuration_is_refused(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(JmedloraError, match=rf"own\.yaml{message}"):
        QUICK.changed(num_processes=2, launch_config=str(file))


def test_expert_settings_are_read_with_their_types_and_the_last_one_wins() -> None:
    given = {"base": "b", "rank": 4, "run_name": "r", "preset": "p", "template": "chat"}
    expert = ["dtype=bfloat16", "max_grad_norm = 0.3", "train_embeddings=true", "max_grad_norm=0.5"]
    settings = TuneSettings.of_parameters(given | {"expert": expert}, "run r")
    assert (settings.rank, settings.dtype, settings.max_grad_norm, settings.train_embeddings) == (4, "bfloat16", 0.5, True)
    for entry, message in (
        ("dtype", "run r: expert holds 'dtype'; write it as name=value"),
        ("rank=3", "run r: expert names 'rank', which is a parameter of its own"),
        ("optimiser=x", "run r: no field 'optimiser'; did you mean 'optimizer'"),
        ("weight_decay=much", "run r: 'weight_decay'.*got 'much'"),
    ):
        with pytest.raises(JmedloraError, match=message):
            TuneSettings.of_parameters(given | {"expert": [entry]}, "run r")


def test_a_runs_expert_settings_add_to_the_defaults_of_its_preset() -> None:
    runs = {run.name: run.tune for run in presets.load_preset("paper").runs}
    declared = presets.declared_parameters(presets.TUNE_NOTEBOOK)
    found = {name: TuneSettings.of_parameters(declared | tune, name) for name, tune in runs.items() if tune}
    assert {s.dtype for s in found.values()} == {"bfloat16"} and {s.max_grad_norm for s in found.values()} == {0.3}
    assert [s.gradient_checkpointing for s in found.values()] == [False, True]


def test_presets_of_the_papers_size_take_the_batches_of_the_journal() -> None:
    declared = presets.declared_parameters(presets.TUNE_NOTEBOOK)
    runs = [(name, run) for name in ("paper", "paper-sizes", "modern") for run in presets.load_preset(name).runs if run.tune is not None]
    for name, run in runs:
        settings = TuneSettings.of_parameters(declared | run.tune, f"{name}, {run.name}")
        assert settings.batch_size * settings.gradient_accumulation == 8
