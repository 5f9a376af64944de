"""Evaluated models sit the examination: what they were not asked counts, and the card says so."""

import dataclasses
import itertools

import pytest
from exam_fixtures import examination, question, set_marks

from jmedlora_utils.analysis import model_exam_cards
from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Record, sha256_file, write_jsonl, write_record
from jmedlora_utils.data.questions import write_exam
from jmedlora_utils.evaluation import metrics


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A run of the smoke preset that was asked the text questions of an invented examination, and a mini exam."""
    set_marks(monkeypatch)
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    named = list(itertools.product(["lora", "first", "second", "other", "cpt"], [0, 900, 3000], ["igakuqa", "mini_trained"], [0]))
    monkeypatch.setattr(model_exam_cards.studies, "evaluations", lambda preset: set(named))
    made = paths.Workspace("smoke", 1)
    shares = {"breakdown": (0.6, 0.1, 0.1, 0.1, 0.1)}
    asked = [dataclasses.replace(q, **shares) for q in examination()]
    image = question(id="A5", section="A", year=2031, points=0, text_only=False, **shares)
    for name, questions in {"igakuqa": asked, "igakuqa_full": [*asked, image], "mini_trained": asked[:1]}.items():
        write_exam(made.data / "exams" / f"{name}.jsonl", questions)
    return made


def answer(workspace, exam, run, step, responses, base="tiny", **more):
    stem = f"{run}__step{step}__{exam}__0shot"
    config = {"run_name": run, "base": base, "step": step, "exam": exam, "shots": 0, "settings": {}} | more
    file = write_jsonl(workspace.answers / f"{stem}.jsonl", [{"id": i, "response": text} for i, text in responses.items()])
    scores, data = {scorer: {} for scorer in metrics.SCORERS}, {file.name: sha256_file(file)}
    write_record(workspace.records, Record("evaluate", f"30_evaluate__{stem}", "smoke", 1, config, scores, data=data))


def test_a_model_that_was_asked_has_a_row_a_step_and_the_students_stand_below(workspace):
    answer(workspace, "igakuqa", "lora", 0, {"B1": "気胸", "A1": "気胸"})
    answer(workspace, "igakuqa", "lora", 900, {"B1": "肺炎", "A1": "肺炎"})
    answer(workspace, "mini_trained", "lora", 900, {"B1": "肺炎"})
    answer(workspace, "igakuqa", "lora~nf4", 900, {"B1": "肺炎", "A1": "肺炎"}, variant_of="lora")
    answer(workspace, "igakuqa", "a-run-that-was-renamed", 900, {"B1": "肺炎"})
    answer(workspace, "igakuqa", "lora", 1200, {"B1": "肺炎"})
    found = model_exam_cards.cards("smoke").set_index("system")
    assert list(found.index) == ["lora, step 0, 0-shot", "lora, step 900, 0-shot", "student-majority"]
    assert found["points"].tolist() == [0, 4, 5]
    assert found["passed"].tolist() == [False, True, True]


def test_questions_never_asked_stay_in_the_examination_and_no_sitting_gives_an_empty_card(workspace, tmp_path):
    answer(workspace, "mini_trained", "lora", 900, {"B1": "肺炎"})
    empty = model_exam_cards.cards("smoke")
    assert empty.empty and tuple(empty.columns) == model_exam_cards.COLUMNS and model_exam_cards.write(tmp_path, empty) == []
    answer(workspace, "igakuqa", "lora", 900, {"B1": "肺炎", "A1": "肺炎"})
    row = model_exam_cards.cards("smoke").iloc[0]
    assert (row["items"], row["asked"], row["items_correct"], row["max_points"], row["reachable"]) == (6, 2, 2, 5, 4)
    (written,) = model_exam_cards.write(tmp_path, model_exam_cards.cards("smoke"))
    assert len(written.read_text(encoding="utf-8").splitlines()) == 3


def test_flips_set_the_last_step_beside_the_base_that_was_asked_in_the_same_way(workspace):
    answer(workspace, "igakuqa", "first", 0, {"B1": "気胸", "A1": "肺炎", "A2": "肺炎"})
    answer(workspace, "igakuqa", "second", 900, {"B1": "気胸", "A1": "気胸", "A2": "気胸"})
    answer(workspace, "igakuqa", "second", 3000, {"B1": "肺炎", "A1": "気胸", "A3": "肺炎"})
    answer(workspace, "igakuqa", "other", 900, {"B1": "肺炎"}, base="another")
    found = model_exam_cards.flips("smoke")
    assert set(found["first"]) == {"tiny"} and set(found["second"]) == {"second, step 3000, 0-shot"}
    whole = found[found["cut"] == "all"].iloc[0]
    assert whole[["fixed", "broken", "right twice", "wrong twice"]].tolist() == [1, 1, 0, 0], "only questions that both were asked"


def test_a_base_after_continued_pretraining_is_no_base_of_another_run(workspace):
    settings = {"run_name": "cpt", "method": "lora", "pretrain_on": "articles"}
    write_record(workspace.records, Record("tune", "20_tune__cpt", "smoke", 1, settings, {}))
    answer(workspace, "igakuqa", "cpt", 0, {"B1": "気胸"})
    answer(workspace, "igakuqa", "lora", 900, {"B1": "肺炎"})
    assert model_exam_cards.flips("smoke").empty
    assert "fixed" in model_exam_cards.flips("smoke")
