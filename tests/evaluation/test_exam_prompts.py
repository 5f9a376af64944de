"""Prompts of an exam: found, drawn, encoded, and refused where they do not fit."""

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import fetch, igakuqa
from jmedlora_utils.data.questions import write_exam
from jmedlora_utils.evaluation import exam_prompts
from jmedlora_utils.evaluation.settings import EvalSettings
from jmedlora_utils.models import loading
from tests import tiny

ASK = EvalSettings(base="llama", template="plain_ja")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, "llama")


def test_a_long_prompt_is_an_error_or_counted(workspace) -> None:
    tokenizer = loading.load_tokenizer(loading.find_base("llama", workspace))
    lengths = [len(a.ids) for a in exam_prompts.prepare(ASK, "mini_trained", 0, tokenizer, 512, workspace).asked]
    context = max(lengths) - 1 + 20
    settings = ASK.changed(max_new_tokens=20)
    said = rf"question mini_trained-\d+: its prompt has {max(lengths)} tokens, the limit is {context - 20} .*too_long='exclude'"
    with pytest.raises(JmedloraError, match=said):
        exam_prompts.prepare(settings, "mini_trained", 0, tokenizer, context, workspace)
    paper = exam_prompts.prepare(settings.changed(too_long="exclude"), "mini_trained", 0, tokenizer, context, workspace)
    assert paper.excluded["prompt too long"] == lengths.count(max(lengths)) == 24 - len(paper.asked)


@pytest.mark.parametrize(
    ("read", "exam", "below"),
    [
        (exam_prompts.load_exam, "igakuqa_2018", "IgakuQA/data/2018/"),
        (exam_prompts.load_exam, "jjsimqa", "JJSIMQA/"),
        (exam_prompts.shot_pool, "igakuqa_2018", "IgakuQA/scripts/prompts/"),
    ],
)
def test_a_missing_or_changed_published_file_is_refused(workspace, tmp_path, monkeypatch, read, exam: str, below: str) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    with pytest.raises(JmedloraError, match=r"exam files are missing[\s\S]*By hand"):
        read(exam, workspace)
    for name in filter(lambda name: name.startswith(below), fetch.sums()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n", encoding="utf-8")
    with pytest.raises(JmedloraError, match="not the published file"):
        read(exam, workspace)


def test_worked_examples_are_those_of_parameters_11_where_it_ran(workspace, monkeypatch) -> None:
    own = workspace.data / "exams" / "other_shots.jsonl"
    write_exam(own, tiny.make_questions(3, "other_shots", seed=7))
    assert [q.id for q in exam_prompts.shot_pool("other", workspace)] == ["other_shots-0", "other_shots-1", "other_shots-2"]
    own.unlink()
    assert {q.exam for q in exam_prompts.shot_pool("mini_trained", workspace)} == {"mini_shots"}
    monkeypatch.setattr(fetch, "verified", lambda parts: paths.exam_data_dir())
    monkeypatch.setattr(igakuqa, "load_worked_examples", lambda folder, language: [language])
    assert [exam_prompts.shot_pool("other", workspace, language) for language in ("ja", "en")] == [["ja"], ["en"]]
