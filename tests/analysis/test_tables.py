"""From made-up runs in the real formats to outcomes, summary, evidence and tables."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from jmedlora_utils.analysis import findings, tables
from jmedlora_utils.core import formatting, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, Run, declared_parameters
from jmedlora_utils.core.records import Record, read_jsonl, write_jsonl
from jmedlora_utils.data.questions import Question

RUNS = [
    r for r in synthetic_study.RUNS if r.name in ("en-small_lora", "en-large_lora", "en-large_cpt-lora", "en-large_full", "ja-medium_lora")
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder of two seeds, read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(tables, "load_preset", lambda name: synthetic_study.preset(name, (1, 2), RUNS))
        synthetic_study.write_study("mini-seeds", (1, 2), RUNS, answers=6)
        yield SimpleNamespace(study=tables.read_runs("mini-seeds"), tmp=tmp_path_factory)


@pytest.fixture(scope="module")
def frozen(made):
    folder = made.tmp.mktemp("evidence")
    (folder / "README.md").write_text("kept", encoding="utf-8")
    return SimpleNamespace(folder=folder, written=tables.freeze("mini-seeds", folder), study=tables.read_evidence(folder))


def sorted_outcomes(study):
    frame = study.outcomes.astype({c: str for c in ("run", "base", "centric", "method", "exam", "facts", "id", "category")})
    return frame.sort_values(["seed", "run", "steps", "shots", "exam", "id"], ignore_index=True)


def test_outcomes_hold_every_question_of_every_condition(made):
    frame = made.study.outcomes
    conditions = sum(len(synthetic_study.STEPS) - (r.method == "full") for r in RUNS) * 3 * 2 * 2
    assert frame.groupby(["seed", "run", "steps", "shots", "exam"]).ngroups == conditions
    assert set(frame["facts"]) == {"taught", "taught_held_out_phrasing", "untaught", "general"}
    assert set(frame["method"]) == {"lora", "cpt-lora", "full"}
    assert set(frame.loc[frame["base"] == "ja-medium", "centric"]) == {"japanese"}
    assert set(frame.loc[frame["n_select"] == 2, "chance"]) == {0.1}


def test_groups_of_facts_follow_exam_and_section(made):
    pairs = set(map(tuple, made.study.outcomes[["exam", "facts"]].drop_duplicates().astype(str).to_numpy()))
    assert pairs == {
        ("mini_trained", "taught"),
        ("mini_trained", "untaught"),
        ("mini_heldout", "taught_held_out_phrasing"),
        ("mini_heldout", "untaught"),
        ("mini_general", "general"),
    }


def test_summary_has_the_columns_that_the_issue_names(made):
    found = tables.summary(made.study.outcomes)
    assert ",".join(found.columns) == "base,size_params,centric,method,steps,shots,seed,exam,facts,metric,value,n"
    assert set(found["metric"]) == set(tables.METRICS)
    assert found["value"].between(0, 1).all()
    assert not found.duplicated([c for c in found.columns if c not in ("value", "n")]).any()
    base = found.query("base == 'en-large' and method == 'lora' and steps == 0 and facts == 'general' and metric == 'accuracy'")
    assert base["value"].mean() > 0.6


def test_summary_is_the_mean_of_the_outcomes(made):
    found = tables.summary(made.study.outcomes)
    row = found.query("base == 'en-small' and steps == 40 and shots == 1 and seed == 2 and facts == 'taught' and metric == 'gestalt'").iloc[
        0
    ]
    frame = made.study.outcomes
    same = frame[(frame["run"] == "en-small_lora") & (frame["steps"] == 40) & (frame["shots"] == 1) & (frame["seed"] == 2)]
    same = same[same["facts"] == "taught"]
    assert row["value"] == pytest.approx(same["gestalt"].mean())
    assert row["n"] == len(same)


def test_evidence_gives_back_every_outcome(made, frozen):
    before, after = sorted_outcomes(made.study), sorted_outcomes(frozen.study)
    pd.testing.assert_frame_equal(before.drop(columns="gestalt"), after[before.columns].drop(columns="gestalt"), check_dtype=False)
    assert np.abs(before["gestalt"] - after["gestalt"]).max() <= 0.0005
    assert findings.evaluate_claims(frozen.study.outcomes) == findings.evaluate_claims(made.study.outcomes)


def test_evidence_is_small_and_names_no_machine(frozen):
    text = "".join(p.read_text(encoding="utf-8") for p in frozen.written)
    assert str(paths.runs_root()) not in text
    assert "/tmp" not in text
    assert sum(p.stat().st_size for p in frozen.written) < 1_000_000
    assert (frozen.folder / "README.md").read_text(encoding="utf-8") == "kept"


def test_evidence_keeps_texts_of_the_first_seed_only(frozen):
    assert "text" in read_jsonl(frozen.folder / "seed1" / "questions.jsonl")[0]
    assert "text" not in read_jsonl(frozen.folder / "seed2" / "questions.jsonl")[0]
    assert set(frozen.study.examples["run"]) == {"en-large_lora"}
    assert set(frozen.study.examples["steps"]) == {0, 20}


def test_freezing_again_replaces_the_old_evidence(made, frozen):
    stale = frozen.folder / "seed9" / "outcomes.jsonl"
    stale.parent.mkdir()
    stale.write_text("{}\n", encoding="utf-8")
    again = tables.freeze("mini-seeds", frozen.folder)
    assert not stale.exists()
    assert {p.name for p in again} == {p.name for p in frozen.written}


def test_series_are_thinned_by_means():
    rows = [{"step": i, "loss": float(i % 2)} for i in range(1, 1001)]
    record = tables.trimmed(Record("tune", "20_tune__a", "mini", 1, metrics={"series": rows, "final_loss": 0.5}, git_commit="0" * 40))
    slim = record.metrics["series"]
    assert len(slim) == tables.SERIES_POINTS
    assert slim[-1]["step"] == 1000
    assert np.mean([row["loss"] for row in slim]) == pytest.approx(0.5, abs=0.02)
    assert record.metrics["final_loss"] == 0.5


def test_one_seed_can_be_read_alone(made):
    assert tables.read_runs("mini-seeds", [2]).seeds == [2]
    with pytest.raises(JmedloraError, match="seed 3"):
        tables.read_runs("mini-seeds", [3])


def test_records_that_the_preset_does_not_name_are_left_out_and_counted(made, monkeypatch):
    """A renamed run, an earlier step or another exam may lie beside the run; it must not enter the study."""
    planned = synthetic_study.preset("mini-seeds", (1, 2), [r for r in RUNS if r.name != "en-small_lora"])
    asked = {"steps": [0, 20, 40], "shots": [0]}
    planned = replace(planned, runs=tuple(replace(r, evaluate={**r.evaluate, **asked}) for r in planned.runs))
    monkeypatch.setattr(tables, "load_preset", lambda name: planned)
    study = tables.read_runs("mini-seeds")
    assert "en-small_lora" not in set(study.outcomes["run"]) | {r.config.get("run_name") for r in study.records}
    assert (set(study.outcomes["steps"]), set(study.outcomes["shots"])) == ({0, 20, 40}, {0})
    found = [r for seed in (1, 2) for r in tables.load_records(paths.Workspace("mini-seeds", seed).root)]
    kept = study.outcomes.groupby(["seed", "run", "steps", "shots", "exam"], observed=True).ngroups + len(study.records)
    assert study.about["left_out"] == len(found) - kept > 0
    assert f"shots: {study.about['left_out']}." in study.banner()
    assert made.study.about["left_out"] == 0 and made.study.banner() == ""


def test_a_silent_preset_asks_what_the_notebook_declares():
    run = Run("a", None, {"steps": [5]})
    declared = declared_parameters(EVALUATE_NOTEBOOK)
    found = tables.evaluations(replace(synthetic_study.preset("x", (1,)), runs=(run,)))
    assert found == {("a", 5, exam, shots) for exam in declared["exams"] for shots in declared["shots"]}


def test_smoke_is_no_evidence(tmp_path):
    with pytest.raises(JmedloraError, match="no evidence"):
        tables.freeze("smoke", tmp_path)


def test_real_exam_texts_are_never_frozen(made, tmp_path, monkeypatch):
    foreign = made.study.outcomes.assign(exam="igakuqa_2018")
    monkeypatch.setattr(tables, "read_runs", lambda preset, seeds=(): tables.Study(preset, "run", foreign, [], None, None, None, {}))
    monkeypatch.setattr(tables, "load_preset", lambda name: SimpleNamespace(seeds=(1, 2), show="en-large_lora"))
    with pytest.raises(JmedloraError, match="may not be committed"):
        tables.freeze("mini-seeds", tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_evidence_says_how_to_make_it(tmp_path):
    with pytest.raises(JmedloraError, match="make reproduce"):
        tables.read_evidence(tmp_path)


def test_a_damaged_outcome_line_is_refused(frozen, tmp_path):
    import shutil

    folder = tmp_path / "evidence"
    shutil.copytree(frozen.folder, folder)
    file = folder / "seed1" / "outcomes.jsonl"
    rows = read_jsonl(file)
    rows[0]["accuracy"] = rows[0]["accuracy"][:-1]
    write_jsonl(file, rows)
    with pytest.raises(JmedloraError, match=r"outcomes of accuracy for .* questions"):
        tables.read_evidence(folder)


def test_unknown_source_is_refused():
    with pytest.raises(JmedloraError, match="auto, committed, run"):
        tables.load_study("mini", "comitted")


def test_auto_prefers_committed_evidence(made, frozen, monkeypatch):
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: frozen.folder)
    assert tables.load_study("mini", "auto").origin == "committed"
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: frozen.folder / "none")
    monkeypatch.setattr(tables, "read_runs", lambda preset: made.study)
    assert tables.load_study("mini", "auto").origin == "run"


def test_runs_of_five_seeds_and_of_one_share_their_evidence():
    assert tables.evidence_folder("mini-seeds") == tables.evidence_folder("mini") == paths.RESULTS / "mini"


def test_answers_to_other_questions_are_refused(made):
    workspace = paths.Workspace("mini-seeds", 1)
    record = next(r for r in tables.load_records(workspace.root, kind="evaluate") if r.config["exam"] == "mini_trained")
    file = workspace.answers / f"{record.name.removeprefix('30_evaluate__')}.jsonl"
    kept = file.read_text(encoding="utf-8")
    try:
        file.write_text(kept + json.dumps({"id": "stranger", "response": "x"}) + "\n", encoding="utf-8")
        with pytest.raises(JmedloraError, match="does not have"):
            tables._score(workspace, record, tables.load_records(workspace.root), {})
    finally:
        file.write_text(kept, encoding="utf-8")


def test_estimates_cover_seeds_and_questions(made):
    found = tables.estimates(made.study.outcomes, ["run", "steps", "shots", "facts"])
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()
    assert found["low"].min() >= 0 and found["high"].max() <= 1, "an interval of shares left the scale"
    assert found["n"].sum() == len(made.study.outcomes)


def test_methods_are_named_by_what_was_done():
    def run(**config):
        return Record("tune", "20_tune__x", "mini", 1, {"run_name": "x", **config}, git_commit="0" * 40)

    assert tables.method_of([run(method="lora", pretrain_on="", train_embeddings=False)], "x") == "lora"
    assert tables.method_of([run(method="lora", pretrain_on="articles")], "x") == "cpt-lora"
    assert tables.method_of([run(method="lora", train_embeddings=True)], "x") == "lora-emb"
    assert tables.method_of([], "x") == "none"


def test_base_facts_come_from_the_registry_for_a_published_model():
    size, centric = tables.base_facts([], "open-calm-7b")
    assert centric == "japanese"
    assert 6e9 < size < 8e9
    with pytest.raises(JmedloraError, match="size and language"):
        tables.base_facts([], "no-such-base")


def test_a_local_folder_of_unknown_language_is_shown_and_said(made, tmp_path):
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", **sizes}), encoding="utf-8")
    size, centric = tables.base_facts([], str(tmp_path))
    assert size > 500 * 64 and centric == "unknown"
    config.write_text(json.dumps({"model_type": "mamba"}), encoding="utf-8")
    with pytest.raises(JmedloraError, match="its size is not known"):
        tables.base_facts([], str(tmp_path))
    tuned = Record("tune", "20_tune__x", "mini", 1, model={"base": str(tmp_path), "parameters": 123}, git_commit="0" * 40)
    assert tables.base_facts([tuned], str(tmp_path)) == (123, "unknown")
    frame = made.study.outcomes.astype({"base": str, "centric": str})
    frame.loc[frame["base"] == "ja-medium", ["base", "centric"]] = [str(tmp_path), "unknown"]
    study = replace(made.study, outcomes=tables.compact(frame))
    assert f"The language that `{tmp_path.name}` is centred on is not known" in study.banner() and str(tmp_path) not in study.banner()
    assert "unknown" in set(findings.runs(study.outcomes)["centric"])
    with pytest.raises(findings.FindingError, match="no Japanese-centric base"):
        findings.language_pair(study.outcomes)


def test_finished_shards_that_nobody_put_together_are_not_passed_over(made):
    workspace = paths.Workspace("mini-seeds", 1)
    stem = "en-small_lora__step0__mini_trained__0shot"
    whole, record = workspace.answers / f"{stem}.jsonl", workspace.records / f"30_evaluate__{stem}.json"
    rows, text = read_jsonl(whole), record.read_text(encoding="utf-8")
    try:
        record.unlink()
        whole.unlink()
        for i in (0, 1):
            write_jsonl(workspace.answers / f"{stem}.shard{i}of2.jsonl", rows[i::2])
        (workspace.answers / f"{stem}.shard0of2.json").write_text('{"keys": []}', encoding="utf-8")
        assert len(tables.read_runs("mini-seeds", [1]).outcomes), "one shard is not done: what is there is read"
        (workspace.answers / f"{stem}.shard1of2.json").write_text('{"keys": []}', encoding="utf-8")
        with pytest.raises(JmedloraError, match=rf"{stem}: its shards are done, but not put together \(1 such"):
            tables.read_runs("mini-seeds", [1])
    finally:
        write_jsonl(whole, rows)
        record.write_text(text, encoding="utf-8")
        for file in workspace.answers.glob("*.shard*"):
            file.unlink()


def test_chance_of_a_question_stands_in_its_row():
    one = Question("q1", "mini_trained", "ja", "?", ("a", "b", "c", "d", "e"), frozenset("a"), section="taught")
    two = Question("q2", "mini_trained", "ja", "2つ選べ", ("a", "b", "c", "d", "e"), frozenset("ab"), section="taught", n_select=2)
    assert tables.question_frame([one, two])["chance"].tolist() == [0.2, 0.1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.3333,), "33.3"),
        ((0.3, 0.1, 0.5), "30.0 [10.0, 50.0]"),
        ((-0.05, -0.1, 0.0, True), "-5.0 [-10.0, +0.0]"),
        ((0.2, None, None, True), "+20.0"),
    ],
)
def test_percent(arguments, text):
    assert formatting.percent(*arguments) == text


def test_markdown_aligns_numbers_and_escapes_bars():
    text = formatting.markdown(pd.DataFrame({"name": ["a|b", None], "n": [1, 2], "share": ["3.0", "-1.0"]}))
    assert text.splitlines() == ["| name | n | share |", "|:---|---:|---:|", r"| a\|b | 1 | 3.0 |", "|  | 2 | -1.0 |"]


def test_numbered_tables_carry_name_and_caption():
    text = formatting.numbered(pd.DataFrame({"a": [1]}), "tab-x", "What is seen.", {"a": "A"}, "Source.")
    assert text.startswith(":::{table} What is seen.\n:name: tab-x\n\n| A |")
    assert text.rstrip().endswith("Source.")


def test_every_reported_value_has_a_source():
    reported = pd.read_csv(paths.RESULTS / "published" / "reported.csv", keep_default_na=False)
    assert (reported["source"] != "").all()
    assert (reported["subset"] != "").all()
    jmedlora = reported[reported["system"].str.startswith("JMedLoRA")]
    assert jmedlora["value"].tolist() == [33.1]
    settings = pd.read_csv(paths.RESULTS / "published" / "paper_settings.csv", keep_default_na=False).set_index("setting")
    assert (settings.loc["r", "OpenCALM-7B"], settings.loc["alpha", "Llama2-70B"]) == ("8", "16")


def test_command_line_freezes(tmp_path, capsys, monkeypatch):
    file = tmp_path / "z"
    file.write_text("1", encoding="utf-8")
    monkeypatch.setattr(tables, "freeze", lambda preset, folder, seeds: [file] * (1 + len(seeds)))
    assert tables.main(["freeze", "--preset", "mini-seeds", "--seeds", "1", "2"]) == 0
    assert "3 files" in capsys.readouterr().out
