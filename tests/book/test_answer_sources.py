import os
import shutil
from pathlib import Path

import pytest

from jmedlora_utils.analysis import evidence
from jmedlora_utils.book import answer_sources
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data.questions import Question
from tests import synthetic_study

RUNS = [r for r in synthetic_study.RUNS if r.name in ("en-large_lora", "en-large_full")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Runs of one seed; nothing in them is changed by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.write_study("smoke", (1,), RUNS, answers=6)
        yield patch


def test_the_answers_of_a_run_are_found_by_exam_model_and_condition(runs) -> None:
    found = answer_sources.open_answers("smoke", 1)
    assert sorted({s.exam for s in found.sets}) == ["mini_general", "mini_heldout", "mini_trained"]
    sat = [(s.run, s.step, s.shots) for s in found.sets if s.exam == "mini_trained"]
    assert sorted(set(sat)) == sorted(sat)
    assert ("en-large_lora", 40, 1) in sat
    contents = found.contents().set_index(["exam", "model"])
    assert contents.loc[("mini_trained", "en-large_lora"), "steps"] == "0, 10, 20, 40"
    assert contents.loc[("mini_trained", "en-large_full"), "steps"] == "10, 20, 40"
    assert "Nothing on this page is evidence" in found.banner()


def test_any_folder_of_the_same_layout_can_be_named(runs, tmp_path: Path) -> None:
    elsewhere = tmp_path / "from the cluster"
    shutil.copytree(paths.Workspace("smoke", 1).root, elsewhere)
    found = answer_sources.open_answers("mini", 9, folder=str(elsewhere))
    assert found.preset == "smoke"
    assert found.read_questions("mini_trained")
    assert found.sets[0].answers


def test_a_folder_without_answers_is_refused(runs, tmp_path: Path) -> None:
    fix = "holds no record of notebook 30; run `make reproduce PRESET=smoke`, or name another folder"
    for seed, where, said in (
        (1, {"folder": str(tmp_path)}, fix),
        (2, {"source": "run"}, fix),
        (1, {"source": "x"}, "source 'x' is not one of"),
    ):
        with pytest.raises(JmedloraError, match=said):
            answer_sources.open_answers("smoke", seed, **where)


def test_committed_evidence_opens_where_there_is_no_run(runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic_study.write_study("mini", (1,), RUNS, answers=6)
    synthetic_study.use_preset(monkeypatch, (1,), RUNS)
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    evidence.freeze("mini", tmp_path / "mini")
    shutil.rmtree(paths.runs_root() / "mini")
    found = answer_sources.open_answers("mini", 1, source="auto")
    assert {(s.run, s.step) for s in found.sets} == {("en-large_lora", 0), ("en-large_lora", 40)}
    questions = found.read_questions("mini_trained")
    assert set(found.sets[0].answers) <= {q.id for exam in {s.exam for s in found.sets} for q in found.read_questions(exam).values()}
    assert {q.section for q in questions.values()} == {"taught", "untaught"}
    assert all(len(q.choices) == 5 and q.gold for q in questions.values())


def test_published_answers_are_shown_in_words() -> None:
    if not os.environ.get("JMEDLORA_DATA"):
        pytest.skip("JMEDLORA_DATA is not set")
    found = answer_sources.from_published([2018])
    systems = {s.run: s for s in found.sets}
    assert {"gpt4", "student-majority"} <= set(systems)
    question = found.read_questions("igakuqa_2018_2018")["112C11"]
    assert question.breakdown and abs(sum(question.breakdown) - 1) < 0.02
    assert systems["student-majority"].answers["112C11"]["response"] == question.choice("c")


def test_without_the_examination_there_are_no_published_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert answer_sources.from_published([2018]) is None and answer_sources.from_published([]) is None


def test_an_answer_that_is_no_letter_stays_as_printed() -> None:
    question = Question("q", "made_up", "ja", "どれか。", ("一", "二", "三", "四", "五"), frozenset("a"))
    said = {"a, c": "一、三", "a と c": "a と c", "j": "j", "": ""}
    assert {text: answer_sources._in_words(question, text) for text in said} == said
