"""The page of one's own hospital: what it prints for a reader to save and type."""

import json
import re
import shutil

import pytest
from exam_fixtures import data_dir, needs_data

from jmedlora_utils.analysis import hospital_answers
from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import declared_parameters
from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.data import controlled
from jmedlora_utils.data.igakuqa import load_igakuqa
from jmedlora_utils.data.questions import Question, read_exam, write_exam
from jmedlora_utils.workflow.checks import load_checked
from jmedlora_utils.workflow.runner import steps
from tests.notebooks.test_analysis_notebooks import run_cells

STEM = "45_your_hospital"
NOTEBOOK = json.loads((paths.NOTEBOOKS / f"{STEM}.ipynb").read_text(encoding="utf-8"))
PAGE = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")


def test_notebook_13_writes_quiz_records_and_sample_of_the_examples(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    monkeypatch.chdir(paths.NOTEBOOKS)
    data = paths.Workspace("hospital", 1).data
    choices = tuple(f"第{n}の選択肢" for n in range(5))
    harmful = [frozenset("b"), frozenset()]
    exam = [
        Question(f"112A{n}", "igakuqa", "ja", f"架空の設問{n}はどれか。", choices, frozenset("a"), prohibited=harmful[n % 2])
        for n in range(60)
    ]
    write_exam(data / "exams" / "igakuqa.jsonl", exam)
    shown = run_cells("13_prepare_quiz")
    quiz, found, sample = (read_exam(data / "exams" / f"{name}.jsonl") for name in ("quiz", "quiz_bm25", "exam_sample"))
    assert [q.id.split("-")[1] for q in quiz] == [q.id.split("-")[1] for q in found]
    assert all(with_article.text.endswith(f"\n{q.text}") for q, with_article in zip(quiz, found, strict=True))
    assert len(sample) == 40 and sum(bool(q.prohibited) for q in sample) == 20 and {q.exam for q in sample} == {"exam_sample"}
    records = read_jsonl(data / "instructions" / "hospital.jsonl")
    assert not {q.text for q in quiz} & {r["instruction"] for r in records}
    record = read_record(paths.Workspace("hospital", 1).records / "13_prepare_quiz.json")
    assert record.counts["records"] == len(records) and str(record.counts["bm25_found"]) in shown["retrieval"].data
    with pytest.raises(JmedloraError, match="parameter exam_questions: 80 wanted"):
        run_cells("13_prepare_quiz", exam_questions=80)


@pytest.mark.parametrize("name", ["ward-quiz", "ward-gpu", "decide"])
def test_the_printed_presets_can_be_planned(name: str, tmp_path, monkeypatch) -> None:
    own = (paths.BOOK / "own_articles.md").read_text(encoding="utf-8")
    small, gpu = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    [decide] = re.findall(r"^```yaml\n(.*?)^```", own.split("## 6. Decide")[1], re.DOTALL | re.MULTILINE)
    text = {"ward-quiz": small, "ward-gpu": gpu, "decide": decide}[name]
    shutil.copytree(paths.PRESETS, tmp_path / "presets")
    monkeypatch.setattr(paths, "PRESETS", tmp_path / "presets")
    if name == "decide":
        ward = re.findall(r"^```yaml\n(.*?)^```", own, re.DOTALL | re.MULTILINE)[0]
        (tmp_path / "presets" / "ward.yaml").write_text(ward.replace("/data/models/base", "smollm2-135m-instruct"), encoding="utf-8")
    (tmp_path / "presets" / f"{name}.yaml").write_text(text, encoding="utf-8")
    planned = load_checked(name)
    assert hospital_answers.has_quiz(name) and STEM in {step.job.notebook for step in steps(planned)}
    assert planned.seeds == (1, 2, 3)


@needs_data
def test_the_examination_has_as_many_questions_as_the_printed_preset_asks_for() -> None:
    asked = int(re.search(r"exam_questions: (\d+)", PAGE)[1])
    chars = declared_parameters("13_prepare_quiz")["exam_chars"]
    paper = load_igakuqa(data_dir(), [2018, 2019, 2020, 2021])
    assert len(controlled.sample_exam(paper, asked, chars, 1)) == asked


def test_the_printed_record_is_one_of_the_sample_and_the_commands_exist() -> None:
    [record] = re.findall(r"^```json\n(.*?)\n```", PAGE, re.DOTALL | re.MULTILINE)
    sample = (paths.ROOT / "examples" / "hospital" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(record)
    assert row.items() - {("id", row["id"])} <= json.loads(sample[0]).items()
    makefile = (paths.ROOT / "Makefile").read_text(encoding="utf-8")
    typed = re.findall(r"^\$ make (\w+)(?: PRESET=([\w-]+))?", PAGE, re.MULTILINE)
    assert typed and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target, _ in typed)
    assert {name for _, name in typed if name} <= set(presets.preset_names())


def test_the_page_shows_the_committed_rehearsal_and_decides_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    shown = run_cells(STEM, preset="hospital", source="committed")
    assert shown["verdict"].data.startswith("**rehearsal**") and "committed evidence" in shown["scores-table"].data
