"""The GPU check on a CPU: the same code on tiny shapes, the measured peak against the planner."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.records import read_record
from jmedlora_utils.core.settings import with_expert
from jmedlora_utils.models import gpus
from tests.benchmarks.test_benchmarks import script

SCRIPT = paths.ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return script("gpu_check")


@pytest.mark.slow
def test_the_tiny_check_runs_both_cases_within_the_tolerance_on_a_bare_image(check: ModuleType, tmp_path: Path):
    missing = ["matplotlib", "seaborn", "papermill", "nbformat", "pooch", "statsmodels", "snakemake"]
    missing += ["openai", "IPython", "datasets"]
    arguments = ["gpu_check", "--tiny", "--steps", "2", "--out", str(tmp_path)]
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({missing!r})); sys.argv = {arguments!r}; "
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    environment = os.environ | {"JMEDLORA_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "gpu_check__tiny.json")
    cases = record.metrics["cases"]
    assert [case["base"] for case in cases] == ["open-calm-7b", "llama-2-70b-chat"]
    for case in cases:
        assert max(abs(case["peak_difference"]), abs(case["generation_peak_difference"])) <= check.TOLERANCE
        assert case["weights_bytes"] == pytest.approx(case["weights_bytes_planned"], abs=512)  # rotary frequencies
        for rate in ("tokens_per_second", "generation_tokens_per_second", "model_flops_utilisation"):
            assert case[rate] > 0
    assert record.preset == "smoke" and gpus.read_speeds(tmp_path) == ({}, {})


def test_the_cases_are_the_paper_presets(check: ModuleType):
    declared = presets.declared_parameters(presets.TUNE_NOTEBOOK)
    runs = {run.tune["base"]: with_expert(declared | run.tune, run.name) for run in presets.load_preset("paper").runs}
    assert set(runs) == {case.base for case in check.CASES}
    for case in check.CASES:
        run = runs[case.base]
        for key in ("method", "rank", "alpha", "dropout", "learning_rate", "optimizer"):
            assert getattr(case, key) == run[key], key
        assert list(case.targets) == run["target_modules"]
        assert case.batch == run["batch_size"] * run["gradient_accumulation"]
        assert case.source + case.target == run["max_length"]


def test_without_a_gpu_it_refuses_with_the_fix(check: ModuleType, capsys: pytest.CaptureFixture[str]):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert check.main([]) == 2
    assert "use --tiny" in capsys.readouterr().err


def test_without_bitsandbytes_the_qlora_case_is_left_out_and_said(check: ModuleType, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(check, "run_case", lambda *args: pytest.fail("the case must be left out"))
    assert check.main(["--tiny", "--only", "llama-2-70b-chat", "--out", str(tmp_path)]) == 1
    assert "left out: llama-2-70b-chat: bitsandbytes is not installed" in capsys.readouterr().out
