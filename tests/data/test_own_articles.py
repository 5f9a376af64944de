"""From one's own articles to a workspace, as notebook 10 does it, through a scripted server."""

import json

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.data import own_articles
from jmedlora_utils.data.curation import CurationSettings
from jmedlora_utils.data.instructions import GenerationSettings
from jmedlora_utils.data.questions import Question, write_exam
from jmedlora_utils.tuning.encoding import read_articles, read_instructions
from tests.executed import run_papermill
from tests.scripted import ARTICLES, completion, scripted_server

LEAK = "架空の疾患の患者が夜間のしびれを訴えて来院した。最初に行うべき検査はどれか。"
EXAM = [Question("1", "ward", "ja", LEAK, ("甲検査", "乙検査", "丙検査", "丁検査", "戊検査"), frozenset("a"))]


def answer(message: str, times: int):
    """Two good pairs an article, and in some of them a leak, a Chinese pair, a repetition or half an object."""
    [article] = [a for a in ARTICLES if a.text in message]
    number = int(article.id[1:])
    rows = [
        (f"第{number}の疾患の初期症状は何ですか?", "夜間のしびれです。"),
        (f"第{number}の疾患はいつ始まりますか?", "夜間に始まります。"),
    ]
    rows += [(LEAK, "甲検査です。")] if number == 1 else []
    rows += [("症状是什么?", "夜间麻木。")] if number == 2 else []
    rows += [rows[0]] if number == 3 else []
    text = "\n".join(json.dumps({"instruction": q, "output": a}, ensure_ascii=False) for q, a in rows)
    return 200, completion("Here you are:\n" + text + ('\n{"instruction": "半' if number == 4 else "")), {}, 0.0


@pytest.fixture
def server():
    with scripted_server() as state:
        state.script = answer
        yield state


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "articles"
    path.mkdir()
    for article in ARTICLES:
        (path / f"{article.id}.txt").write_text(article.text, encoding="utf-8")
    (path / "copy.txt").write_text(ARTICLES[0].text, encoding="utf-8")
    return path


def prepare(folder, server, **curation):
    generation = GenerationSettings(generator="tiny", endpoint=server.url)
    return own_articles.prepare(folder, generation, CurationSettings(**curation), {"ward": EXAM}, folder.parent / "kept")


def test_every_piece_is_kept_dropped_or_rejected_with_its_reason(server, folder):
    prepared = prepare(folder, server, heldout_share=0.34)
    expected = {"articles read": 7, "articles same text": 1, "texts": 6, "pairs": 15, "rejects": 7, "rejected: truncated": 1}
    expected |= {"rejected: outside text": 6, "dropped: not ja": 1, "dropped: exact duplicate": 1, "dropped: 30 characters of an exam": 1}
    counts = prepared.counts()
    assert counts | expected == counts
    assert counts["records for training"] + counts["records held out"] == 12
    assert {r["article"] for r in prepared.train}.isdisjoint(r["article"] for r in prepared.heldout)
    assert {a.id for a in prepared.pretraining} == {r["article"] for r in prepared.train}
    assert LEAK not in json.dumps([*prepared.train, *prepared.heldout], ensure_ascii=False)
    assert prepared.report.table().set_index("window").loc[30, "records"] == 1


def test_articles_that_hold_exam_questions_are_no_pretraining_text(server, folder):
    server.script = lambda message, times: answer(ARTICLES[0].text if LEAK in message else message, times)
    (folder / "leak.txt").write_text(f"問題集から。{LEAK}", encoding="utf-8")
    prepared = prepare(folder, server, heldout_share=0.0)
    assert len(prepared.articles) == 7
    assert [a.id for a in prepared.pretraining] == [f"{a.id}.txt" for a in ARTICLES]


def test_nothing_left_is_an_error_that_counts_the_reasons(server, folder):
    server.script = lambda *_: (200, completion("お答えできません。"), {}, 0.0)
    with pytest.raises(JmedloraError, match=r"no record is left of 0 pairs and 6 rejects from 6 articles: \{'outside text': 6\}"):
        prepare(folder, server)


def test_two_exams_of_one_name_are_not_checked_as_one(tmp_path):
    files = [write_exam(tmp_path / year / "ward.jsonl", EXAM) for year in ("2023", "2024")]
    workspace = paths.Workspace("smoke", 1)
    assert list(own_articles.load_exams([str(files[0])], [], "ja", workspace)) == ["ward"]
    with pytest.raises(JmedloraError, match=r"2024/ward\.jsonl and another exam are both called 'ward'; rename the file"):
        own_articles.load_exams([str(file) for file in files], [], "ja", workspace)


def test_notebook_10_prepares_from_articles_what_tuning_reads(server, folder, tmp_path, monkeypatch):
    exam = write_exam(tmp_path / "ward.jsonl", EXAM)
    common = {"source": "articles", "articles_path": str(folder), "endpoint": server.url, "check_exams": [str(exam)], "heldout_share": 0.34}
    done, _ = run_papermill("10_prepare_instructions", tmp_path, generator="tiny", **common)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    workspace = paths.Workspace("smoke", 1)
    train = read_instructions(workspace.data / "instructions" / "train.jsonl")
    heldout = read_instructions(workspace.data / "instructions" / "heldout.jsonl")
    assert len(train) + len(heldout) == 12
    assert len(read_articles(workspace.data / "articles.jsonl")) == 4
    dropped = {row["reason"] for row in read_jsonl(workspace.data / "instructions" / "dropped.jsonl")}
    assert dropped >= {"30 characters of an exam", "not ja"}
    record = read_record(workspace.records / "10_prepare_instructions.json")
    assert record.config["generation"]["generator"] == "tiny" and record.counts["instructions"] == len(train)
    assert str(folder) not in (workspace.records / "10_prepare_instructions.json").read_text(encoding="utf-8")
    again, _ = run_papermill("10_prepare_instructions", tmp_path, generator="tiny", **common)
    assert again.returncode == 0, again.stderr[-3000:]
    assert sum(server.asked.values()) == 6
    refused, _ = run_papermill("10_prepare_instructions", tmp_path, **common)
    assert refused.returncode != 0 and "'generator': it is empty" in refused.stderr
