"""The planner: presets planned without a GPU, refusals, times from measured rates."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record, write_record
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.models import cpu_time, gpus, memory, planner, registry
from jmedlora_utils.models.gpus import Speeds


def test_the_paper_preset_is_journal_table_1() -> None:
    runs = {run.name: run for run in presets.load_preset("paper").runs}
    assert set(runs) == {"open-calm-7b_lora", "llama-2-70b_qlora"}
    declared = presets.declared_parameters(presets.TUNE_NOTEBOOK)
    small, large = (with_expert(declared | (runs[name].tune or {}), name) for name in ("open-calm-7b_lora", "llama-2-70b_qlora"))
    for settings, expected in (
        (small, ("lora", 5e-5, 8, 32.0, 0.05, [1000, 3000, 10000])),
        (large, ("qlora", 2e-4, 64, 16.0, 0.1, [900, 3000])),
    ):
        keys = ("method", "learning_rate", "rank", "alpha", "dropout", "save_steps")
        assert tuple(settings[key] for key in keys) == expected
        assert settings["batch_size"] * settings["gradient_accumulation"] == 8
        assert settings["max_length"] == 512 + 512
    assert small["target_modules"] == ["query_key_value"]
    targets = large["target_modules"] or list(registry.resolve("llama-2-70b-chat").lora_targets)
    assert targets == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for run in runs.values():
        assert run.evaluate["shots"] == [0, 1]
        assert run.evaluate["exams"] == ["igakuqa", "jjsimqa"]


@pytest.mark.parametrize(("name", "card"), [("paper", 80), ("paper-sizes", 80), ("paper-adapters", 80), ("modern", 24)])
def test_a_preset_fits_the_card_it_is_made_for(name: str, card: int, tmp_path: Path) -> None:
    planned = planner.plan_preset(name, card, tmp_path)
    assert planner.refusals(planned, card) == []
    runs = presets.load_preset(name).runs
    assert [(p.run, p.step) for p in planned] == [(r.name, s) for r in runs for s in (("tune", "evaluate") if r.tune else ("evaluate",))]
    assert all(p.seconds > 0 and p.download > 0 and p.basis == "assumed" for p in planned)


def test_a_run_that_cannot_fit_is_refused_with_the_fix(tmp_path: Path) -> None:
    lines = planner.refusals(planner.plan_preset("paper", 24, tmp_path), 24)
    assert any(line.startswith("llama-2-70b_qlora, evaluate: needs") and "take a larger card" in line for line in lines)
    assert any(line.startswith("open-calm-7b_lora, tune: needs") and "it would fit with batch" in line for line in lines)
    with pytest.raises(JmedloraError, match="no card of 40 GB is known; choose one of 24, 48, 80, 141"):
        planner.plan_preset("paper", 40, tmp_path)


def test_weights_divided_over_cards_fit_where_one_card_is_too_small() -> None:
    settings = {"base": "llama-2-70b-chat", "method": "qlora", "rank": 64, "batch_size": 1}
    settings["expert"] = ["gradient_checkpointing=true"]
    several = settings | {"num_processes": 4, "expert": [*settings["expert"], "launch_config=fsdp2_nf4"]}
    base = registry.resolve("llama-2-70b-chat")
    tunes = (settings, several, settings | {"gradient_accumulation": 2})
    one, four, twice = (planner._plan_tuning(presets.Run("big", tune, {}), base, base.shape, 24, Speeds({}, {})) for tune in tunes)
    assert not one.fits and four.fits and four.bytes < one.bytes / 2
    assert planner.refusals([four], 24) == [] and four.seconds == one.seconds == twice.seconds / 2


@pytest.mark.parametrize(
    ("preset", "status", "said"),
    [
        ("modern", 0, ["qwen3-14b_qlora", "24 GB card", "GB of disk"]),
        ("paper", 1, ["error: llama-2-70b_qlora, evaluate"]),
        ("papr", 2, ["did you mean 'paper'"]),
        ("mini", 0, ["nothing to plan"]),
        ("ward", 0, ["each base fetched once"]),
        ("typo", 2, ["did you mean 'open-calm-7b'"]),
        ("odd", 0, ["Not planned, because the sizes of its base are not known: ward (base mamba)."]),
    ],
)
def test_the_command_prints_the_matrix_and_its_status_says_whether_all_fits(tmp_path, monkeypatch, capsys, preset, status, said) -> None:
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    for name, config in {"small": {"model_type": "llama", **sizes}, "mamba": {"model_type": "mamba"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    own = {"ward": str(tmp_path / "small"), "typo": "open-clam-7b", "odd": str(tmp_path / "mamba")}
    if preset in own:
        run = {"tune": {"base": own[preset]}, "evaluate": {"base": own[preset], "adapter": "ward"}}
        (tmp_path / f"{preset}.yaml").write_text(json.dumps({"runs": {"ward": run}}), encoding="utf-8")
        monkeypatch.setattr(paths, "PRESETS", tmp_path)
    assert planner.main(["--preset", preset, "--card", "24"]) == status
    shown = capsys.readouterr()
    assert all(word in (shown.err if status else shown.out) for word in said)
    if preset == "ward":
        assert [p.download for p in planner.plan_preset("ward", 24, tmp_path)] == [0, 0], "a local folder is not fetched"


def test_an_unpinned_model_and_a_gated_one_are_named_before_a_run(tmp_path: Path) -> None:
    notes = {note for p in planner.plan_preset("paper-adapters", 80, tmp_path) for note in p.notes}
    assert "pin swallow-70b-instruct: its revision is unknown" in notes
    assert "llama-2-70b-chat is gated: HF_TOKEN" in notes
    notes = {note for p in planner.plan_preset("small", 80, tmp_path) for note in p.notes}
    assert notes == {"gemma-3-270m is gated: JMEDLORA_ACCEPT=gemma-3-270m"}, "its wheels need no token"


def test_a_measured_rate_replaces_the_assumed_one(tmp_path: Path) -> None:
    case = {"base": "open-calm-7b", "method": "lora", "tokens_per_second": 1000.0, "generation_tokens_per_second": 50.0}
    case["hardware_flops_utilisation"] = 0.4
    metrics = {"cases": [case, case | {"hardware_flops_utilisation": 0.5}], "matmul_flops": 2e14}
    common = {"kind": "benchmark", "seed": 1, "config": {"card_bytes": 85_000_000_000}, "metrics": metrics}
    write_record(tmp_path, Record(name="gpu_check__a100", preset="paper", **common))
    write_record(tmp_path, Record(name="gpu_check__tiny", preset="smoke", **common | {"config": {"card_bytes": 0}}))
    rates = {("open-calm-7b", "tune", 80): 1000.0, ("open-calm-7b", "generate", 80): 50.0}
    assert gpus.read_speeds(tmp_path) == Speeds(rates, {("lora", 80): 0.4 * 2e14})
    tune, evaluate = planner.plan_preset("paper", 80, tmp_path)[:2]
    assert tune.basis == "measured" and tune.seconds == 10_000 * 8 * planner.TOKENS_PER_RECORD / 1000
    assert evaluate.basis == "measured" and evaluate.seconds == (1455 + 460) * 4 * 2 * planner.TOKENS_PER_ANSWER / 50
    assert planner.plan_preset("paper", 141, tmp_path)[0].basis == "assumed"


@pytest.mark.parametrize(
    ("mib", "planned_for"),
    [(143155, 141), (81050, 80), (48685, 48), (45500, 48), (40330, 24), (24217, 24), (22700, 24), (15900, None)],
    ids=["H200", "A100 80", "A6000", "L40S", "A100 40", "4090", "L4", "T4"],
)
def test_a_card_is_planned_as_none_that_is_larger(mib: int, planned_for: int | None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The nearest card would do for an A100 with 40 GB what only 48 GB can."""
    assert gpus.card_class(mib * gpus.MIB) == planned_for
    monkeypatch.setattr(planner, "card_at_hand", lambda: gpus.card_class(mib * gpus.MIB))
    if planned_for is None:
        assert planner.main(["--preset", "modern"]) == 2
        assert "this machine's GPU has less than 24 GB" in capsys.readouterr().err


def test_what_the_preset_sets_is_what_is_planned() -> None:
    settings = presets.declared_parameters(presets.TUNE_NOTEBOOK) | {"rank": 3, "batch_size": 5, "max_length": 77}
    settings["expert"] = ["dtype=bfloat16"]
    run = planner.tuning_of(settings, registry.resolve("open-calm-7b"))
    assert (run.rank, run.micro_batch, run.length, run.mixed, run.weight_bytes) == (3, 5, 77, True, 2)
    assert run.targets == ("query_key_value",)
    plain = planner.tuning_of(settings | {"expert": []}, registry.resolve("open-calm-7b"))
    assert plain == replace(run, mixed=False, weight_bytes=4)


def test_the_fastest_settings_that_fit_are_named_for_every_card() -> None:
    run = memory.Tuning(registry.resolve("llama-2-70b-chat").shape, "qlora", 64, dropout=0.1)
    best = {key: planner.best_settings(run, 8, card) for key, card in gpus.CARDS.items()}
    assert best[24] == "4 cards (FSDP)" and best[80] == "batch 8, checkpointing" and best[141] == "batch 2"
    assert planner.best_settings(replace(run, method="lora"), 8, gpus.CARDS[24]) is None


@pytest.mark.parametrize(
    ("exam", "years", "n"),
    [
        ("jjsimqa", [], 460),
        ("igakuqa", [2018, 2022], 284 + 297),
        ("igakuqa_2018", [2022], 284),
        ("igakuqa_2018_2022", [], 1455),
        ("mini_trained", [], 0),
    ],
)
def test_the_questions_of_an_exam_and_its_years_are_counted(exam: str, years: list[int], n: int) -> None:
    assert planner.exam_questions(exam, years) == n


@pytest.mark.parametrize("exam", ["igakuqa_2017", "igakuqa_first", "usmle"])
def test_an_exam_of_unknown_size_is_refused(exam: str) -> None:
    with pytest.raises(JmedloraError, match=f"no exam '{exam}' to plan for"):
        planner.exam_questions(exam)


def test_the_plan_says_the_hours_on_two_cores_and_a_seed_of_small_keeps_to_its_budget() -> None:
    measured, preset = cpu_time.read_rates(), presets.load_preset("small")
    seconds = cpu_time.seed_seconds(preset, measured)
    assert seconds and seconds.keys() == {run.name for run in preset.runs}
    assert sum(seconds.values()) / 2 <= 2.5 * 3600
    assert seconds["smollm2_exam"] > seconds["smollm2_facts"] > seconds["gemma_facts"]
    bases, once = presets.load_preset("small-bases"), cpu_time.Measured.read(measured.model_dump() | {"overhead_seconds": 0}, "rates")
    each = cpu_time.seed_seconds(bases, once)
    twice = each["smollm2_0shot"] + each["smollm2_1shot"]
    rates = once.bases["smollm2-135m-instruct"]
    tokens = sum(once.questions[exam] * rates.question_tokens[exam] for exam in ("igakuqa", "jjsimqa"))
    assert twice == pytest.approx(2 * 2 * tokens / rates.ask_tokens), "two numbers of examples, and two passes: writing and likelihood"
    assert "hours per seed" in cpu_time.said("small-bases")
    assert "hours per seed" in cpu_time.said("small") and not cpu_time.said("mini") and not cpu_time.said("paper")
