"""What a plan refuses before anything runs, through the command line."""

from pathlib import Path

import pytest

from jmedlora_utils.__main__ import main
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, declared_parameters, preset_names
from jmedlora_utils.workflow.checks import load_checked

RUN = "runs: {a: {tune: {base: en-small, %s}, evaluate: {base: en-small, adapter: a, steps: [0, 10], %s}}}\n"
TUNE, EVALUATE = ("max_steps: 10, save_steps: [10]", "limit: 2")
BASES = "prepare: {11_prepare_exams: {exams: [mini]}, 19_pretrain_mini_bases: {bases: [en-small]}}\n"


def run(tune: str = TUNE, evaluate: str = EVALUATE, prepare: str = BASES) -> str:
    return prepare + RUN % (tune if tune == TUNE else f"{TUNE}, {tune}", evaluate)


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    return tmp_path


def test_a_sound_preset_is_planned(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (presets / "own.yaml").write_text(run(), encoding="utf-8")
    assert main(["plan", "--preset", "own"]) == 0
    assert "| a |" in capsys.readouterr().out


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_of_the_project_passes_its_own_checks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    load_checked(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (run("rank: eight"), "parameter 'rank' of notebook 20_tune_lora takes int"),
        (run().replace("save_steps: [10]", "save_steps: [11]"), "save_steps [11] go beyond max_steps (10)"),
        (run(evaluate="steps_: [1]"), "no parameter 'steps_'"),
        (run().replace("steps: [0, 10]", "steps: [0, 7]"), "steps names 7, and tuning keeps 0, 10; add it to save_steps"),
        (run(evaluate="exams: [igakuqa_1999]"), "no exam 'igakuqa_1999'"),
        (run(evaluate="exams: [mini_traned]"), "no exam 'mini_traned' to plan for; known: mini_trained, "),
        (run().replace("base: en-small, max", "base: en-smal, max"), "no base 'en-smal'"),
        (run(prepare="prepare: {11_prepare_exams: {exams: [maxi]}, 19_pretrain_mini_bases: {bases: [en-small]}}\n"), "exams names 'maxi'"),
        (run("seed: 3"), "20_tune_lora__a: 'seed' comes from the preset itself"),
        (run().replace("adapter: a", "adapter: b"), "adapter: no model 'b'"),
        (run(prepare="prepare: {10_prepare_instructions: {source: world}}\n"), "10_prepare_instructions: source is 'world'"),
        (run(prepare="prepare: {19_pretrain_mini_bases: {ladder: smok}}\n"), "19_pretrain_mini_bases: no ladder 'smok'"),
        (run(prepare="prepare: {19_pretrain_mini_bases: {bases: [en-huge]}}\n"), "has no base 'en-huge'"),
    ],
)
def test_what_a_plan_can_know_it_refuses_in_one_line_and_nothing_is_written(presets: Path, capsys, text: str, said: str) -> None:
    (presets / "own.yaml").write_text(text, encoding="utf-8")
    assert main(["plan", "--preset", "own"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert said in error
    assert not (presets / "runs").exists()


BAD_TUNING = {
    "base": "'' 3 owner/name@main nowhere", "method": "lorra '' 1", "pretrain_on": "books", "pretrain_steps": "-1 1.5",
    "pretrain_learning_rate": "0 -1 .inf", "rank": "0 -1 1.5 '8' true [8]", "alpha": "0 -1.0 x .nan", "dropout": "1.0 -0.1 a",
    "target_modules": "q_proj [1]", "learning_rate": "0 -1 .nan .inf '1e-3'", "schedule": "cosin 1", "warmup_steps": "-1 a",
    "optimizer": "adam", "weight_decay": "-1.0 .inf", "max_grad_norm": "-1.0 .nan", "batch_size": "0 -4 '8'",
    "gradient_accumulation": "0", "max_steps": "0 -1 1.5", "save_steps": "[0.5] [a] [99] 10 [-1]", "checkpoint_every": "-1",
    "max_length": "0 1", "too_long": "cut", "template": "alpaca ''", "dtype": "float8", "attn_implementation": "flash",
    "gradient_checkpointing": "'yes' 1", "num_processes": "0 -2 two", "launch_config": "nowhere", "report_to": "3",
}  # fmt: skip
BAD_EVALUATION = {
    "base": "'' nowhere", "adapter": "3", "steps": "[] [-1] [a] [0,0] 0 [7]", "shots": "[] [-1] [a] [1,1]", "template": "alpaca",
    "exams": "[] [x] mini_trained [igakuqa_] [igakuqa_2021_2018] [jjsimqa,jjsimqa]", "quantisation": "int8", "dtype": "float8",
    "batch_size": "0 -1 many", "limit": "-1 a", "max_new_tokens": "-1", "too_long": "cut", "shuffle_choices": "-1",
    "likelihood": "'yes'", "adapter_mode": "molten", "compare": "[x] merged-nf4", "backend": "tgi",
}  # fmt: skip
TABLES = {"tune": BAD_TUNING, "evaluate": BAD_EVALUATION}


@pytest.mark.parametrize(
    ("block", "parameter", "value"),
    [(block, name, v) for block, table in TABLES.items() for name, bad in table.items() for v in bad.split()],
)
def test_every_parameter_refuses_bad_values_by_name(presets: Path, capsys, block: str, parameter: str, value: str) -> None:
    lines = {"tune": {"base": "en-small", "max_steps": 10, "save_steps": [10]}}
    lines["evaluate"] = {"base": "en-small", "adapter": "a", "steps": [0, 10], "limit": 2}
    lines[block].pop(parameter, None)
    shown = {name: [f"{key}: {item}" for key, item in given.items()] for name, given in lines.items()}
    expert = parameter not in declared_parameters(TUNE_NOTEBOOK if block == "tune" else EVALUATE_NOTEBOOK)
    shown[block].append(f"expert: ['{parameter}={value.strip(chr(39))}']" if expert else f"{parameter}: {value}")
    blocks = ", ".join(f"{name}: {{{', '.join(given)}}}" for name, given in shown.items())
    (presets / "own.yaml").write_text(f"{BASES}runs: {{a: {{{blocks}}}}}\n", encoding="utf-8")
    assert main(["plan", "--preset", "own"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert parameter in error and "own" in error
