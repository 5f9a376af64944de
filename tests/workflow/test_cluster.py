"""The SLURM profile: what jobs ask for, what happens to a failed one, and a real cluster of one node."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Project

from jmedlora_utils.core import paths, presets
from jmedlora_utils.workflow import runner
from tests import slurm
from tests.servers import run_python

PROFILE = paths.ROOT / "profiles" / "slurm"
QUICK = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]


def snakemake(
    folder: Path, preset: str, environment: dict[str, str], *options: str, source: Path = paths.ROOT, profile: str = str(PROFILE)
) -> subprocess.CompletedProcess[str]:
    """Runs the Snakefile of `source` in a folder, by the profile of a cluster."""
    command = ["-m", "snakemake", "--snakefile", str(source / "Snakefile"), "--directory", str(folder), "--profile", profile]
    given = {"HF_HUB_OFFLINE": None, "PYTHONPATH": str(source)} | environment
    return run_python(*command, *QUICK, *options, "--config", f"preset={preset}", cwd=folder, seconds=600, **given)


def value(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


@pytest.mark.slow
def test_the_paper_preset_asks_a_cluster_for_cards_memory_and_time_and_a_second_run_submits_nothing(tmp_path: Path) -> None:
    fake = slurm.FakeSlurm(tmp_path / "fake", "paper")
    done = snakemake(tmp_path, "paper", fake.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {row["rule"]: row["arguments"] for row in fake.submitted()}
    every = runner.steps(presets.load_preset("paper"))
    assert set(asked) == {f"seed1__{s.job.output}" if s.job.seed else s.job.output for s in every}
    order = [row["rule"] for row in fake.submitted()]
    for run in ("open-calm-7b_lora", "llama-2-70b_qlora"):
        tune, ask = asked[f"seed1__20_tune_lora__{run}"], asked[f"seed1__30_evaluate_exam__{run}"]
        assert "--gpus=1" in tune and value(tune, "--mem") == "64000" and value(tune, "-t") == "2880" and "--cpus-per-task=4" in tune
        assert "--gpus=1" in ask and value(ask, "--mem") == "64000" and value(ask, "-t") == "1440"
        assert order.index("seed1__11_prepare_exams") < order.index(f"seed1__20_tune_lora__{run}")
        assert order.index(f"seed1__20_tune_lora__{run}") < order.index(f"seed1__30_evaluate_exam__{run}")
    exams = asked["seed1__11_prepare_exams"]
    assert not [a for a in exams if a.startswith(("--gpus", "--gres"))] and value(exams, "--mem") == "4000" and value(exams, "-t") == "120"
    again = snakemake(tmp_path, "paper", fake.environment)
    assert again.returncode == 0 and len(fake.submitted()) == len(every), again.stdout + again.stderr


@pytest.mark.slow
def test_a_failed_job_is_tried_again_with_more_memory(project: Project, tmp_path: Path) -> None:
    shutil.copytree(PROFILE, project.root / "profiles" / "slurm")
    fake = slurm.FakeSlurm(tmp_path / "fake", "mini")
    own = {"source": project.root, "profile": "profiles/slurm"}
    done = snakemake(project.root, "mini", fake.environment | {"FAIL_ONCE": "seed1__20_tune_lora__a"}, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = [row for row in fake.submitted() if row["rule"] == "seed1__20_tune_lora__a"]
    assert [row["fails"] for row in tried] == [True, False]
    assert [value(row["arguments"], "--mem") for row in tried] == ["4000", "8000"]
    assert (project.root / "runs" / "slurm" / "rule_seed1__20_tune_lora__a").is_dir()


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_a_job_of_a_cluster_runs_offline_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str) -> None:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "JMEDLORA_PROGRESS", "JUPYTER_PREFER_ENV_PATH"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    runner._prepare_environment(1)
    assert "HF_HUB_OFFLINE" not in os.environ
    if before:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    runner._prepare_environment(1)
    assert os.environ.pop("HF_HUB_OFFLINE") == after


def test_the_machine_that_submits_needs_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    for variable, content in (("JMEDLORA_RUNS", str(tmp_path)), ("JMEDLORA_GIT_COMMIT", "none"), ("JMEDLORA_GIT_DIRTY", "0")):
        monkeypatch.setenv(variable, content)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: asked.append(command) or subprocess.CompletedProcess(command, 0))
    runner.reproduce("paper", 1, "slurm")
    assert asked[0][asked[0].index("--profile") + 1] == str(PROFILE)
    assert "--cores" not in asked[0]


@pytest.mark.skipif(bool(slurm.why_no_slurm()), reason=slurm.why_no_slurm() or "-")
def test_a_real_one_node_cluster_runs_a_preset_once(project: Project, tmp_path: Path) -> None:
    """Dummy notebooks that ask for a card; every job ends, and a second run submits none."""
    shutil.copytree(PROFILE, project.root / "profiles" / "slurm")
    project.preset.write_text("device: cuda\nprepare: {10_prepare_instructions: {}}\nruns: {a: {}}\n")
    offline = project.notebooks / "20_tune_lora.ipynb"
    offline.write_text(offline.read_text().replace("print('rank', rank)", "import os; print('offline', os.environ['HF_HUB_OFFLINE'])"))
    with slurm.one_node_slurm(tmp_path / "slurm") as environment:

        def run() -> subprocess.CompletedProcess[str]:
            own = {"source": project.root, "profile": "profiles/slurm"}
            return snakemake(project.root, "mini", environment, "--slurm-status-command", "squeue", **own)

        first = run()
        assert first.returncode == 0, first.stdout + first.stderr
        jobs = slurm.completed_jobs(tmp_path / "slurm")
        assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3
        assert "offline 1" in (project.root / "runs/mini/seed1/notebooks/20_tune_lora__a.ipynb").read_text()
        second = run()
        assert second.returncode == 0 and len(slurm.completed_jobs(tmp_path / "slurm")) == 3, second.stdout + second.stderr


def test_the_committed_record_of_a_real_cluster_says_what_the_page_says() -> None:
    record = json.loads((paths.RESULTS / "cluster" / "cluster.json").read_text(encoding="utf-8"))
    shown = (paths.RESULTS / "cluster" / "shown.md").read_text(encoding="utf-8")
    assert len(record["jobs"]) == len({job["rule"] for job in record["jobs"]}) == record["notebooks"]
    assert {job["state"] for job in record["jobs"]} == {"COMPLETED"} and record["jobs submitted by the second run"] == 0
    assert f"{len(record['jobs'])} jobs, {len(record['jobs'])} of them `COMPLETED`" in shown
    assert record["git_commit"] and not record["git_dirty"] and record["versions"]["slurm"]
