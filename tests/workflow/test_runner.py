import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project, write_notebook

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.locks import alone
from jmedlora_utils.data import fetch
from jmedlora_utils.workflow import runner
from tests.servers import wait_for

RUN = 'preset = "mini"  # preset\nseed = 1  # seed\nrun_name = ""  # run\nbase = "en"  # base\nrank = 4  # rank\n'


def cards(project: Project) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (project.root / "runs").rglob("jobs/*.json")}


def test_a_step_knows_its_card_target_and_what_it_waits_for_and_asks_for_a_card_where_it_uses_one(here: Project) -> None:
    found = {step.job.output: step for step in runner.plan("mini")}
    root = here.root / "runs" / "mini" / "seed1"
    evaluate = found["30_evaluate_exam__a"]
    assert evaluate.target == root / "notebooks" / "30_evaluate_exam__a.ipynb"
    assert set(evaluate.after) == {root / "notebooks" / f"{stem}.ipynb" for stem in ("10_prepare_instructions", "20_tune_lora__a")}
    assert json.loads(found["20_tune_lora__a"].card.read_text())["parameters"]["rank"] == 8
    assert (evaluate.threads, evaluate.resources["gpu"]) == (1, 0)
    here.preset.write_text("device: cuda\n" + here.preset.read_text())
    asked = {step.job.notebook: step.resources["gpu"] for step in runner.steps(presets.load_preset("mini"))}
    assert asked == {"10_prepare_instructions": 0, "20_tune_lora": 1, "30_evaluate_exam": 1}


def test_analysis_waits_for_every_seed_and_for_earlier_analysis(here: Project) -> None:
    for stem in ("31_score", "40_findings"):
        write_notebook(here.notebooks / f"{stem}.ipynb", 'preset = "mini"  # preset\n')
    here.preset.write_text("seeds: [1, 2]\nruns: {a: {}}\nanalyse: {40_findings: {}, 31_score: {}}\n")
    findings = next(step for step in runner.steps(presets.load_preset("mini")) if step.job.output == "40_findings")
    assert findings.target == here.root / "runs" / "mini" / "notebooks" / "40_findings.ipynb"
    assert [sum(f"seed{seed}" in str(path) for path in findings.after) for seed in (1, 2)] == [2, 2]
    assert findings.target.with_name("31_score.ipynb") in findings.after


def test_a_card_is_rewritten_only_when_something_changed(here: Project) -> None:
    runner.plan("mini")
    old = {path: path.stat().st_mtime_ns for path in (here.root / "runs").rglob("jobs/*.json")}
    runner.plan("mini")
    assert {path: path.stat().st_mtime_ns for path in old} == old
    here.preset.write_text(here.preset.read_text().replace("rank: 8", "rank: 16"))
    runner.plan("mini")
    changed = {path.stem for path, before in old.items() if path.stat().st_mtime_ns != before}
    assert changed == {"20_tune_lora__a"}


def test_a_change_of_the_users_own_files_makes_the_steps_that_read_them_stale(here: Project, tmp_path: Path) -> None:
    (tmp_path / "articles" / "ward").mkdir(parents=True)
    article, records = tmp_path / "articles" / "ward" / "a.txt", tmp_path / "records.jsonl"
    common = 'preset = "mini"  # preset\nseed = 1  # seed\n'
    write_notebook(here.notebooks / "10_prepare_instructions.ipynb", common + 'articles_path = ""  # folder\n')
    write_notebook(here.notebooks / "13_prepare_quiz.ipynb", common + 'records_path = ""  # file\n')
    presets.declared_parameters.cache_clear()
    own = f"10_prepare_instructions: {{articles_path: {tmp_path / 'articles'}}}, 13_prepare_quiz: {{records_path: {records}}}"
    here.preset.write_text(f"prepare: {{{own}}}\n")
    runner.plan("mini")
    for file, stale in ((article, "10_prepare_instructions"), (records, "13_prepare_quiz")):
        before = cards(here)
        file.write_text("text", encoding="utf-8")
        runner.plan("mini")
        after = cards(here)
        assert {name for name in before if before[name] != after[name]} == {stale}
    (article.parent / ".DS_Store").touch()
    (article.parent / "scan.pdf").touch()
    runner.plan("mini")
    assert cards(here) == after, "what is no article changes nothing"


def test_a_change_of_the_package_makes_its_notebooks_stale(here: Project) -> None:
    """Only the notebooks that reach the changed module through their imports."""
    package = here.root / "jmedlora_utils"
    (package / "core" / "deep.py").write_text("VALUE = 1\n")
    (package / "data" / "shallow.py").write_text("def value():\n    from jmedlora_utils.core.deep import VALUE\n    return VALUE\n")
    write_notebook(
        here.notebooks / "30_evaluate_exam.ipynb", RUN.replace("rank = 4  # rank\n", ""), "from jmedlora_utils.data import shallow"
    )
    presets.declared_parameters.cache_clear()
    runner.plan("mini")
    before = cards(here)
    (package / "core" / "deep.py").write_text("VALUE = 2\n")
    runner.plan("mini")
    after = cards(here)
    assert {name for name in before if before[name] != after[name]} == {"30_evaluate_exam__a"}


def test_examinations_that_arrive_make_only_the_steps_that_read_them_stale(here: Project, tmp_path: Path, monkeypatch) -> None:
    name = sorted(fetch.sums())[0]
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    common = 'preset = "mini"  # preset\nseed = 1  # seed\n'
    write_notebook(here.notebooks / "11_prepare_exams.ipynb", common + 'bases = ["en"]  # bases\nexams = ["mini"]  # exams\n')
    for exams, stale in (("[mini]", {"41_metrics"}), ("[mini, jjsimqa]", {"11_prepare_exams", "41_metrics"})):
        here.preset.write_text(f"prepare: {{11_prepare_exams: {{exams: {exams}}}}}\nruns: {{a: {{}}}}\nanalyse: {{41_metrics: {{}}}}\n")
        seen = []
        for present in (False, True):
            (tmp_path / name).unlink(missing_ok=True)
            if present:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text("questions")
            runner.plan("mini")
            seen.append(cards(here))
        assert {step for step in seen[0] if seen[0][step] != seen[1][step]} == stale


def test_a_step_at_work_elsewhere_is_not_run_beside_it(here: Project) -> None:
    step = runner.plan("mini")[0]
    lock = step.card.with_name(f".{step.job.output}.lock")
    with alone(lock, "test"), pytest.raises(JmedloraError, match="another process is at work on it"):
        runner.run_step(step)


def test_a_preset_runs_once_resumes_after_a_failure_and_does_nothing_twice(project: Project) -> None:
    """Through the real Snakefile, papermill and kernels."""
    good = project.notebooks.joinpath("30_evaluate_exam.ipynb").read_text()
    project.notebooks.joinpath("30_evaluate_exam.ipynb").write_text(good.replace("print('evaluated'", "print(1 / 0, 'evaluated'"))
    first = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert first.returncode == 1
    assert "30_evaluate_exam__a (seed 1): code cell 3 raised ZeroDivisionError: division by zero" in first.stdout + first.stderr
    assert "runs/mini/seed1/notebooks/30_evaluate_exam__a.failed.ipynb" in first.stdout + first.stderr
    notebooks = project.root / "runs" / "mini" / "seed1" / "notebooks"
    there = ["10_prepare_instructions.ipynb", "20_tune_lora__a.ipynb", "30_evaluate_exam__a.failed.ipynb"]
    assert sorted(p.name for p in notebooks.iterdir()) == there
    assert "ZeroDivisionError" in (project.root / "runs/mini/seed1/logs/30_evaluate_exam__a.log").read_text()
    tuned = notebooks / "20_tune_lora__a.ipynb"
    assert "rank 8" in tuned.read_text()
    before = tuned.stat().st_mtime_ns

    project.notebooks.joinpath("30_evaluate_exam.ipynb").write_text(good)
    second = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert "3 of 3 notebooks" in second.stdout
    assert "start  20_tune_lora__a" not in second.stdout
    assert not (notebooks / "30_evaluate_exam__a.failed.ipynb").exists()
    assert tuned.stat().st_mtime_ns == before

    third = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert third.returncode == 0, third.stderr
    assert "start" not in third.stdout
    assert "The book: " in third.stdout


@pytest.mark.parametrize("command", ["reproduce", "plan", "run"])
def test_no_name_runs_as_a_command_of_the_shell(project: Project, command: str) -> None:
    name = "a$(touch PWN)"
    project.preset.with_name(f"{name}.yaml").write_text("runs: {a: {}}")
    project.preset.write_text(f"runs: {{{name!r}: {{}}}}")
    options = ["--output", "20_tune_lora__a", "--seed", "1"] if command == "run" else []
    for preset in ("mini", name):
        done = project.run("jmedlora_utils", command, "--preset", preset, *options)
        assert done.returncode == 1 and "a name has letters, digits" in done.stderr
    assert not list(project.root.rglob("PWN"))


def test_snakemake_refuses_a_bad_preset_before_anything_runs(project: Project) -> None:
    project.preset.write_text("runs: {a: {tune: {rnak: 8}}}")
    done = project.run("snakemake", "--cores", "1", "--config", "preset=mini")
    assert done.returncode != 0
    assert "no parameter 'rnak'; did you mean 'rank'?" in done.stdout + done.stderr
    assert not (project.root / "runs").exists()


@pytest.mark.slow
def test_a_notebook_run_alone_is_not_run_again_by_reproduce(project: Project) -> None:
    alone = project.run("jmedlora_utils", "run", "--preset", "mini", "--output", "10_prepare_instructions", "--seed", "1")
    assert "1 of 3 notebooks" in alone.stdout
    rest = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "start  10_prepare_instructions" not in rest.stdout
    assert "3 of 3 notebooks" in rest.stdout


WAIT = """import pathlib, time
from jmedlora_utils.core import notebook
notebook.end_with_parent()
mark = pathlib.Path('../begun')
with mark.open('a') as file:
    file.write('x')
if mark.stat().st_size == 1:
    time.sleep(600)
print(rank)"""


def begun(project: Project) -> subprocess.Popen[bytes]:
    """`reproduce`, in the middle of a notebook that waits the first time it runs."""
    write_notebook(project.notebooks / "20_tune_lora.ipynb", RUN, WAIT)
    command = [sys.executable, "-m", "jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(project.root)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=project.root, env=environment, start_new_session=True, **quiet)
    wait_for(lambda: (project.root / "begun").exists() and (project.root / "begun").stat().st_size, 240)
    return run


def kernels_of(project: Project) -> list[int]:
    """Process ids of the kernels that work in this project."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            here = (process / "cwd").resolve() == project.notebooks and b"ipykernel" in (process / "cmdline").read_bytes()
        except OSError:
            continue
        found += [int(process.name)] if here else []
    return found


@pytest.mark.slow
def test_a_killed_run_goes_on(project: Project) -> None:
    """SIGKILL of the whole run in the middle of a notebook; the next call needs no unlocking."""
    with begun(project) as run:
        os.killpg(run.pid, 9)
    assert not (project.root / "runs/mini/seed1/notebooks/20_tune_lora__a.ipynb").exists()
    again = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "start  10_prepare_instructions" not in again.stdout
    assert "3 of 3 notebooks" in again.stdout


def test_a_relative_folder_of_runs_is_one_folder_for_the_command_and_its_notebooks(project: Project) -> None:
    notebook = project.notebooks / "20_tune_lora.ipynb"
    code = "from jmedlora_utils.core import paths; print('writes to', paths.runs_root())"
    notebook.write_text(notebook.read_text().replace("print('rank', rank)", f"print('rank', rank); {code}"))
    done = project.run("jmedlora_utils", "run", "--preset", "mini", "--output", "20_tune_lora__a", "--seed", "1", runs="some/runs")
    assert done.returncode == 0, done.stderr
    executed = project.root / "some/runs/mini/seed1/notebooks/20_tune_lora__a.ipynb"
    assert f"writes to {project.root / 'some/runs'}" in executed.read_text()


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")
def test_after_a_kill_of_the_command_alone_nothing_runs_twice_at_once(project: Project) -> None:
    """Snakemake and the step live on, so a second call is refused; a step that is killed takes its kernel with it."""
    run = begun(project)
    os.kill(run.pid, 9)
    run.wait()
    second = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert second.returncode == 1
    assert second.stderr == "error: runs/mini: a run of this preset: another process is at work on it; wait for it to end, or stop it\n"
    assert (project.root / "begun").read_text() == "x" and len(kernels_of(project)) == 1
    step = project.run("jmedlora_utils", "run", "--preset", "mini", "--output", "20_tune_lora__a", "--seed", "1")
    assert step.returncode == 1 and "20_tune_lora__a (seed 1): another process is at work on it" in step.stderr

    parent = int((Path("/proc") / str(kernels_of(project)[0]) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(parent, 9)
    wait_for(lambda: not kernels_of(project), 10)
    lock = project.root / "runs" / "mini" / ".lock"
    wait_for(lambda: _free(lock), 60)  # Snakemake ends after its failed job
    again = project.run("jmedlora_utils", "reproduce", "--preset", "mini", "--jobs", "1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (project.root / "begun").read_text() == "xx"


def _free(lock: Path) -> bool:
    try:
        with alone(lock, "preset"):
            return True
    except JmedloraError:
        return False


def test_the_matrix_names_runs_and_parameters(here: Project) -> None:
    text = runner.matrix(presets.load_preset("mini"))
    assert "3 notebooks to run" in text
    assert "| a | rank=8 |" in text


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (185.9, "3 min 05 s")])
def test_times_read_well(seconds: float, said: str) -> None:
    assert runner.clock(seconds) == said
