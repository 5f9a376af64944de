"""From answers and records of a run to per-question outcomes, and to evidence that can be committed and is checked when read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic_study

from jmedlora_utils.__main__ import main
from jmedlora_utils.analysis import evidence, gains, scores, studies
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, Run, declared_parameters
from jmedlora_utils.core.records import Record, load_records, read_jsonl

NAMES = ("en-small_lora", "en-large_lora", "en-large_cpt-lora", "en-large_full", "ja-medium_lora")
RUNS = [r for r in synthetic_study.RUNS if r.name in NAMES]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A run folder of two seeds, read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.use_preset(patch, (1, 2), RUNS)
        synthetic_study.write_study("mini-seeds", (1, 2), RUNS, answers=6)
        yield studies.read_runs("mini-seeds")


@pytest.fixture(scope="module")
def frozen(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "README.md").write_text("kept", encoding="utf-8")
    written = evidence.freeze("mini-seeds", folder)
    return SimpleNamespace(folder=folder, written=written, study=evidence.read_evidence(folder))


def test_half_of_a_run_is_not_frozen(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    synthetic_study.use_preset(monkeypatch, (1, 2), RUNS)
    synthetic_study.write_study("mini-seeds", (1, 2), RUNS, answers=6)
    records = load_records(paths.Workspace("mini-seeds", 2).root, "evaluate", allow_smoke=True)
    planned = {studies.evaluation_of(r) for r in records}
    monkeypatch.setattr(evidence, "evaluations", lambda preset: planned)
    evidence.check_finished("mini-seeds")
    next(paths.Workspace("mini-seeds", 2).records.glob("30_*en-small_lora*step0*mini_trained__0shot.json")).unlink()
    assert main(["freeze", "--preset", "mini-seeds", "--folder", str(tmp_path / "out")]) == 1 and not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert "seed 2: not every evaluation is there (1 missing; first: en-small_lora, step 0, on mini_trained, 0-shot)" in said


def in_order(study):
    texts = dict.fromkeys(("run", "base", "centric", "method", "exam", "facts", "id", "category", "quantisation", "template"), str)
    return study.outcomes.astype(texts).sort_values(["seed", "run", "steps", "shots", "exam", "id"], ignore_index=True)


def test_outcomes_hold_every_question_of_every_condition(study):
    frame = study.outcomes
    conditions = sum(len(synthetic_study.STEPS) - (r.method == "full") for r in RUNS) * 3 * 2 * 2
    assert frame.groupby(["seed", "run", "steps", "shots", "exam"], observed=True).ngroups == conditions
    assert set(frame["method"]) == {"lora", "cpt-lora", "full"} and set(frame["template"]) == {"plain_ja"}
    assert set(frame.loc[frame["base"] == "ja-medium", "centric"]) == {"japanese"}
    assert set(frame.loc[frame["n_select"] == 2, "chance"]) == {0.1} and set(frame.loc[frame["n_select"] == 1, "chance"]) == {0.2}
    assert set(map(tuple, frame[["exam", "facts"]].drop_duplicates().astype(str).to_numpy())) == {
        ("mini_trained", "taught"),
        ("mini_trained", "untaught"),
        ("mini_heldout", "taught_held_out_phrasing"),
        ("mini_heldout", "untaught"),
        ("mini_general", "general"),
    }


def test_evidence_gives_back_every_outcome_and_gain(study, frozen):
    before, after = in_order(study), in_order(frozen.study)
    pd.testing.assert_frame_equal(before.drop(columns="gestalt"), after[before.columns].drop(columns="gestalt"), check_dtype=False)
    assert np.abs(before["gestalt"] - after["gestalt"]).max() <= 0.0005
    keys = ["run", "steps", "shots", "group"]
    one, other = (gains.paired_gains(frame).sort_values(keys, ignore_index=True) for frame in (before, after))
    pd.testing.assert_frame_equal(one, other)


def test_evidence_is_small_names_no_machine_and_keeps_texts_of_the_first_seed_only(frozen):
    text = "".join(p.read_text(encoding="utf-8") for p in frozen.written)
    assert str(paths.runs_root()) not in text and "/tmp" not in text and len(text) < 1_000_000
    assert (frozen.folder / "README.md").read_text(encoding="utf-8") == "kept"
    first, second = (read_jsonl(frozen.folder / f"seed{seed}" / "questions.jsonl")[0] for seed in (1, 2))
    assert "text" in first and "text" not in second
    assert set(frozen.study.examples["run"]) == {"en-large_lora"} and set(frozen.study.examples["steps"]) == {0, 40}


def test_freezing_again_replaces_the_old_evidence(study, frozen, tmp_path):
    folder = tmp_path / "mini"
    shutil.copytree(frozen.folder, folder)
    (folder / "seed9").mkdir()
    (folder / "seed9" / "outcomes.jsonl").write_text("{}\n", encoding="utf-8")
    again = evidence.freeze("mini-seeds", folder, [2])
    assert not (folder / "seed9").exists() and not (folder / "seed1").exists() and folder / "manifest.json" in again
    assert evidence.read_evidence(folder).seeds == [2]


def flip(folder):
    file = folder / "seed1" / "outcomes.jsonl"
    rows = file.read_text(encoding="utf-8").splitlines()
    row = json.loads(rows[0])
    row["accuracy"] = ("1" if row["accuracy"][0] == "0" else "0") + row["accuracy"][1:]
    file.write_text("\n".join([json.dumps(row), *rows[1:]]) + "\n", encoding="utf-8")


def cut_header(folder):
    file = folder / "forms.csv"
    file.write_text(file.read_text(encoding="utf-8").partition("\n")[2], encoding="utf-8")


DAMAGE = {
    "a flipped outcome": (flip, r"seed1/outcomes.jsonl: its content differs from the sum"),
    "a cut header": (cut_header, r"forms.csv: its content differs"),
    "a deleted record": (lambda f: next(f.glob("seed2/records/20_*")).unlink(), r"seed2/records/20_.*: the file is missing"),
    "all records of a seed": (lambda f: shutil.rmtree(f / "seed1" / "records"), r"seed1/records/.*missing"),
    "a cut evidence.json": (lambda f: (f / "evidence.json").write_text("{"), r"evidence.json: its content differs"),
    "a file of another study": (lambda f: (f / "seed1" / "records" / "x.json").write_text("{}"), r"x.json: not part of the evidence"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"manifest.json: missing"),
    "a damaged manifest": (lambda f: (f / "manifest.json").write_text("["), r"manifest.json: not a JSON object"),
    "nothing at all": (shutil.rmtree, r"no evidence .*make reproduce"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_evidence_is_refused_by_file_and_with_how_to_restore_it(frozen, tmp_path, damage):
    folder = tmp_path / "mini"
    shutil.copytree(frozen.folder, folder)
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(JmedloraError, match=message) as error:
        evidence.read_evidence(folder)
    assert "\n" not in str(error.value) and ("git checkout -- " in str(error.value) or "delete it" in str(error.value))


def published(study, monkeypatch, drop=()):
    """Makes the run one of a published exam, whose questions may not be committed; `drop`: questions that one model was not asked."""
    answers = study.outcomes.astype({"exam": str, "facts": str})
    answers = answers[answers["exam"] == "mini_trained"].assign(exam="igakuqa_2018", facts="igakuqa_2018")
    answers = answers[~((answers["run"] == "en-small_lora") & answers["id"].isin(drop))]
    asked = study.questions[study.questions["exam"] == "mini_trained"].assign(exam="igakuqa_2018", facts="igakuqa_2018")
    examples = study.examples.assign(exam="igakuqa_2018")
    changed = replace(study, outcomes=studies.compact(answers), questions=asked, examples=examples, forms=study.forms[:0])
    monkeypatch.setattr(evidence, "read_runs", lambda preset, seeds=(): changed)
    return changed


def test_of_published_exams_ids_letters_and_outcomes_are_frozen_and_no_text(study, tmp_path, monkeypatch):
    ids = study.questions.loc[study.questions["exam"] == "mini_trained", "id"].iloc[[0, 5]].tolist()
    changed = published(study, monkeypatch, drop=ids)
    written = evidence.freeze("paper", tmp_path / "paper")
    text = "".join(p.read_text(encoding="utf-8") for p in written if "records" not in p.parts)
    assert not any(question in text for question in changed.questions["text"])
    assert not any(choice in text for choices in changed.questions["choices"] for choice in choices)
    again = evidence.read_evidence(tmp_path / "paper")
    assert set(again.questions["gold"].str.len()) == {1, 2} and again.questions["text"].isna().all() and again.examples.empty
    before, after = in_order(changed), in_order(again)
    pd.testing.assert_frame_equal(before.drop(columns="gestalt"), after[before.columns].drop(columns="gestalt"), check_dtype=False)


def test_the_likelihood_of_choices_is_frozen_with_its_study_and_seeds(study, tmp_path, monkeypatch):
    def scored(seed):
        return {"seed": seed, "run": "en-small_lora", "exam": "mini_trained", "steps": 40, "shots": 0, "per_token": 0.1 * seed, "n": 24}

    folder = tmp_path / "mini"
    for seed in (1, 2):
        tables = {name: getattr(study, name)[lambda t, s=seed: t["seed"] == s] for name in ("outcomes", "examples", "questions", "forms")}
        records = [record for record in study.records if record.seed == seed]
        part = replace(study, **tables, records=records, likelihood=pd.DataFrame([scored(seed)]))
        monkeypatch.setattr(evidence, "read_runs", lambda preset, seeds=(), part=part: part)
        evidence.freeze("mini-seeds", folder, [seed], add=True)
    again = evidence.read_evidence(folder)
    pd.testing.assert_frame_equal(again.likelihood, pd.DataFrame([scored(1), scored(2)]))
    row = scores.likelihood_rows(again).iloc[0]
    assert row["per_token"] == pytest.approx(0.15) and row["n"] == 48
    monkeypatch.setattr(evidence, "read_runs", lambda preset, seeds=(): study)
    evidence.freeze("mini-seeds", folder)
    assert scores.likelihood_rows(evidence.read_evidence(folder)).empty and not (folder / "likelihood.csv").exists()


def test_smoke_is_no_evidence(tmp_path, capsys):
    with pytest.raises(JmedloraError, match="preset smoke: its runs test the code"):
        evidence.freeze("smoke", tmp_path)
    assert main(["freeze", "--preset", "smoke", "--folder", str(tmp_path)]) == 1
    assert "no evidence" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_series_are_thinned_by_means():
    rows = [{"step": i, "loss": float(i % 2)} for i in range(1, 1001)]
    record = evidence.trimmed(Record("tune", "20_tune__a", "mini", 1, metrics={"series": rows, "final_loss": 0.5}, git_commit="0" * 40))
    slim = record.metrics["series"]
    assert len(slim) == evidence.SERIES_POINTS and slim[-1]["step"] == 1000 and record.metrics["final_loss"] == 0.5
    assert np.mean([row["loss"] for row in slim]) == pytest.approx(0.5, abs=0.02)


def test_one_seed_can_be_read_alone_and_a_missing_one_is_named(study):
    assert studies.read_runs("mini-seeds", [2]).seeds == [2]
    with pytest.raises(JmedloraError, match="seed 3"):
        studies.read_runs("mini-seeds", [3])


def test_records_that_the_preset_does_not_name_are_left_out_and_counted(study, monkeypatch):
    """A renamed run, an earlier step or another exam may lie beside the run; it must not enter the study."""
    planned = synthetic_study.preset("mini-seeds", (1, 2), [r for r in RUNS if r.name != "en-small_lora"])
    asked = {"steps": [0, 20, 40], "shots": [0]}
    planned = replace(planned, runs=tuple(replace(r, evaluate={**r.evaluate, **asked}) for r in planned.runs))
    monkeypatch.setattr(studies, "load_preset", lambda name: planned)
    left = studies.read_runs("mini-seeds")
    assert "en-small_lora" not in set(left.outcomes["run"]) | {r.config.get("run_name") for r in left.records}
    assert (set(left.outcomes["steps"]), set(left.outcomes["shots"])) == ({0, 20, 40}, {0})
    found = [r for seed in (1, 2) for r in load_records(paths.Workspace("mini-seeds", seed).root)]
    kept = left.outcomes.groupby(["seed", "run", "steps", "shots", "exam"], observed=True).ngroups + len(left.records)
    assert left.about["left_out"] == len(found) - kept > 0 and f"shots: {left.about['left_out']}." in left.banner()
    assert study.about["left_out"] == 0 and study.banner() == ""


def test_a_silent_preset_asks_what_the_notebook_declares():
    declared = declared_parameters(EVALUATE_NOTEBOOK)
    found = studies.evaluations(replace(synthetic_study.preset("x", (1,)), runs=(Run("a", None, {"steps": [5]}),)))
    assert found == {("a", 5, exam, shots) for exam in declared["exams"] for shots in declared["shots"]}


def test_the_source_of_a_study(study, frozen, monkeypatch):
    with pytest.raises(JmedloraError, match="auto, committed, run"):
        evidence.load_study("mini", "comitted")
    assert evidence.evidence_folder("mini-seeds") == evidence.evidence_folder("mini") == paths.RESULTS / "mini"
    monkeypatch.setattr(evidence, "evidence_folder", lambda preset: frozen.folder)
    assert evidence.load_study("mini", "auto").origin == "committed"
    monkeypatch.setattr(evidence, "evidence_folder", lambda preset: frozen.folder / "none")
    monkeypatch.setattr(evidence, "read_runs", lambda preset: study)
    assert evidence.load_study("mini", "auto").origin == "run"


def test_answers_to_other_questions_are_refused(study):
    workspace = paths.Workspace("mini-seeds", 1)
    file = workspace.answers / "en-small_lora__step0__mini_trained__0shot.jsonl"
    kept = file.read_text(encoding="utf-8")
    try:
        file.write_text(kept + json.dumps({"id": "stranger", "response": "x"}) + "\n", encoding="utf-8")
        with pytest.raises(JmedloraError, match=r"en-small_lora__step0.*does not have"):
            studies.read_runs("mini-seeds", [1])
    finally:
        file.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "config", "method"),
    [
        ("tune", {"method": "lora", "pretrain_on": "", "train_embeddings": False}, "lora"),
        ("tune", {"method": "lora", "pretrain_on": "articles"}, "cpt-lora"),
        ("tune", {"method": "lora", "train_embeddings": True}, "lora-emb"),
        ("evaluate", {"method": "lora", "quantisation": "nf4"}, "qlora"),
        ("evaluate", {"method": ""}, "none"),
    ],
)
def test_methods_are_named_by_what_was_done(kind, config, method):
    record = Record(kind, "x", "mini", 1, {"run_name": "x", **config}, git_commit="0" * 40)
    assert studies.method_of([record], "x") == method and studies.method_of([record], "another") == "none"


def test_a_published_base_has_size_and_language_from_the_registry():
    for base, language in (("qwen3-8b", "multilingual"), ("llama-2-70b-chat", "english"), ("open-calm-7b", "japanese")):
        size, centric = studies.base_facts([], base)
        assert size > 6e9 and centric == language


def test_a_local_folder_of_unknown_language_is_shown_and_said(study, tmp_path):
    with pytest.raises(JmedloraError, match="size and language"):
        studies.base_facts([], "no-such-base")
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", **sizes}), encoding="utf-8")
    size, centric = studies.base_facts([], str(tmp_path))
    assert size > 500 * 64 and centric == "unknown"
    config.write_text(json.dumps({"model_type": "mamba"}), encoding="utf-8")
    with pytest.raises(JmedloraError, match="its size is not known"):
        studies.base_facts([], str(tmp_path))
    tuned = Record("tune", "20_tune__x", "mini", 1, model={"base": str(tmp_path), "parameters": 123}, git_commit="0" * 40)
    assert studies.base_facts([tuned], str(tmp_path)) == (123, "unknown")
    frame = study.outcomes.astype({"base": str, "centric": str})
    frame.loc[frame["base"] == "ja-medium", ["base", "centric"]] = [str(tmp_path), "unknown"]
    strange = replace(study, outcomes=studies.compact(frame))
    assert f"The language that `{tmp_path.name}` is centred on is not known" in strange.banner() and str(tmp_path) not in strange.banner()
