"""Export to the schemas of Every Eval Ever: what is written fits them, links up, and holds no text of a question."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from jmedlora_utils.__main__ import main
from jmedlora_utils.analysis import evidence
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json, read_jsonl, sha256_file
from jmedlora_utils.workflow import results_export, results_logs


@pytest.fixture(scope="module")
def study():
    """One model of the committed study before tuning and at its last step, without worked examples, one seed."""
    whole = evidence.load_study("mini", "committed")
    frame = whole.outcomes
    kept = (frame["seed"] == 11) & (frame["run"] == "en-large_lora") & frame["steps"].isin([0, 32]) & (frame["shots"] == 0)
    return replace(whole, outcomes=frame[kept])


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "load_study", lambda *_: study)
        written = results_export.export(out, ["mini"])
        assert results_export.export(out, ["mini"]) == written, "a second export changes nothing"
    return out, written


def test_aggregates_and_questions_fit_their_schemas_and_refer_to_each_other(exported) -> None:
    out, written = exported
    aggregates = [path for path in written if path.suffix == ".json"]
    assert sorted(written) == sorted(p for p in out.rglob("*") if p.is_file()) and len(aggregates) == 2
    for path in aggregates:
        assert results_export.check(path) == 1
        log = read_json(path)
        detail = log["detailed_evaluation_results"]
        samples = out / detail["file_path"]
        assert path.parent == samples.parent and samples.name == f"{path.stem}_samples.jsonl"
        assert detail["checksum"] == sha256_file(samples) and detail["total_rows"] == results_export.check(samples)
        results = {r["evaluation_result_id"]: r["score_details"] for r in log["evaluation_results"]}
        assert len(results) == len(log["evaluation_results"])
        rows = read_jsonl(samples)
        assert {r["evaluation_id"] for r in rows} == {log["evaluation_id"]} and {r["model_id"] for r in rows} == {log["model_info"]["id"]}
        for name, number in Counter(r["evaluation_result_id"] for r in rows).items():
            scores = [r["evaluation"]["score"] for r in rows if r["evaluation_result_id"] == name]
            assert results[name]["score"] == pytest.approx(sum(scores) / number)
            assert results[name]["uncertainty"]["num_samples"] == number
    names = {read_json(path)["model_info"]["id"] for path in aggregates}
    assert names == {"jmedlora/en-large", "jmedlora/en-large_lora-step32"}


def test_no_text_of_a_question_is_exported(exported, study) -> None:
    _, written = exported
    held = "\n".join(path.read_text(encoding="utf-8") for path in written)
    asked = study.questions[study.questions["text"].notna()]
    assert len(asked) > 100
    assert not [t for t in asked["text"] if t in held] and not [c for row in asked["choices"] for c in row if c in held]


def test_published_systems_are_exported_as_what_others_published(tmp_path) -> None:
    written = results_export.export(tmp_path, ["published_pairs"])
    logs = [read_json(path) for path in written]
    assert {log["source_metadata"]["source_type"] for log in logs} == {"documentation"}
    assert len({log["evaluation_id"] for log in logs}) == len(logs) == len(written)
    assert not [log for log in logs if "detailed_evaluation_results" in log]


def test_a_file_that_does_not_fit_is_refused_by_line_and_field(exported, tmp_path) -> None:
    _, written = exported
    rows = read_jsonl(next(path for path in written if path.suffix == ".jsonl"))[:2]
    rows[1]["input"].pop("reference")
    broken = tmp_path / "broken.jsonl"
    broken.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(JmedloraError, match=r"broken\.jsonl:2: .*input.*'reference' is a required property"):
        results_export.check(broken)


def test_an_unknown_study_is_refused(tmp_path) -> None:
    with pytest.raises(JmedloraError, match=r"no committed study 'minni'; there are .*mini"):
        results_export.export(tmp_path, ["minni"])


def test_the_schemas_are_those_of_the_wheel_with_their_licence() -> None:
    sums = {
        "LICENSE": "44296778ccca3351a247e9a8889d4fc2a6a4a004259f9d7281057cc6a77423ad",
        "eval.schema.json": "c9c6195aec8a9dfa0b2aba4924ac1aa8a184c9d8ca97cee778cb531088e39b48",
        "instance_level_eval.schema.json": "b16b7fa7f0aa32763444179d94ffb2336ddb12c3fd2903835fe491666c1ff3e6",
    }
    assert {path.name: sha256_file(path) for path in results_logs.SCHEMAS.iterdir()} == sums
    assert "MIT License" in (results_logs.SCHEMAS / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_committed_study_is_exported_whole(tmp_path, capsys) -> None:
    assert main(["export-results", "--out", str(tmp_path)]) == 0
    assert "each checked against its schema" in capsys.readouterr().out
    folders = {path.name.removeprefix("jmedlora-") for path in (tmp_path / "data").iterdir()}
    assert folders == set(results_export.studies()) == {*(p.parent.name for p in paths.RESULTS.glob("*/evidence.json")), "published_pairs"}
    for name in folders - {"published_pairs"}:
        outcomes = evidence.load_study(name, "committed").outcomes
        lines = sum(1 for path in Path(tmp_path).glob(f"data/jmedlora-{name}/**/*.jsonl") for _ in path.open(encoding="utf-8"))
        assert lines == len(results_logs.PER_QUESTION) * len(outcomes)
