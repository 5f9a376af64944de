"""Scores that other people published stand beside scores of the same family only, and our own take their place when they exist."""

import json

import pandas as pd
import pytest

from jmedlora_utils.analysis import reported_scores
from jmedlora_utils.core import paths
from jmedlora_utils.core.manifest import write_manifest
from jmedlora_utils.core.records import Record, write_record


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    """No committed study of this project, and no run."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    return paths.RESULTS


def test_every_reported_score_in_japanese_stands_in_one_family() -> None:
    reported = pd.read_csv(reported_scores.PUBLISHED / "reported.csv", keep_default_na=False)
    igaku = reported[reported["exam"].str.startswith("IgakuQA") & (reported["language"] == "ja") & (reported["unit"] == "%")]
    wanted = igaku[~igaku["group"].isin(["re-scored", "leaderboard shuffled"])]
    shown = reported_scores.sources_frame()
    assert (shown["family"].isin(["gestalt", "unknown"]).sum() + 3) == len(wanted)  # three are points of the whole examination
    assert set(igaku.loc[igaku["group"] == "re-scored", "system"]) == set(shown.loc[shown["family"] == "letters", "system"])
    assert shown.loc[shown["family"] == "ours", "percent"].isna().all()
    assert set(shown["family"]) == set(reported_scores.FAMILIES)
    assert set(shown.loc[shown["system"].str.startswith("JMedLoRA"), "family"]) == {"unknown"}, "its metric is not known"


def asked_igakuqa(preset: str, run: str, right: int, **config: object) -> None:
    workspace = paths.Workspace(preset, 1)
    name = f"30_evaluate__{run}__step900__igakuqa_2018_2021__0shot"
    about = {"run_name": run, "step": 900, "exam": "igakuqa_2018_2021", "shots": 0, **config}
    scores = {"journal": {"all": {"accuracy": {"value": right / 1000, "n": 1000}}}}
    counts = {"questions": 1000, "excluded": {"longer than the context": 5}}
    made = {"device": "NVIDIA A100", "created": "2027-01-02T03:04:05+00:00"}
    write_record(workspace.records, Record("evaluate", name, preset, 1, about, scores, counts, **made))


def own() -> pd.DataFrame:
    shown = reported_scores.sources_frame()
    return shown[shown["family"] == "ours"].set_index("system")


def test_a_model_that_a_preset_names_takes_the_place_of_not_run(monkeypatch) -> None:
    planned = {("llama", 900, "igakuqa_2018_2021", 0), ("newer", 900, "igakuqa_2018_2021", 0)}
    monkeypatch.setattr(reported_scores, "evaluations", lambda preset: planned)
    asked_igakuqa("smoke", "llama", 999)
    asked_igakuqa("paper", "llama", 400, variant_of="llama")
    asked_igakuqa("paper", "an-old-name", 400)
    asked_igakuqa("a-preset-that-went", "llama", 400)
    assert own().index.tolist() == ["any model"] and own()["percent"].isna().all()
    asked_igakuqa("paper", "llama", 331)
    asked_igakuqa("modern", "newer", 512)
    ours = own()
    assert ours["percent"].to_dict() == pytest.approx({"llama, step 900, 0-shot": 33.1, "newer, step 900, 0-shot": 51.2})
    row = ours.loc["llama, step 900, 0-shot"]
    assert row["metric"] == "Accuracy, journal" and row["subset"] == "igakuqa_2018_2021, 1,000 items asked, 5 left out"
    assert row["source"] == "this project, preset paper, seed 1, NVIDIA A100, 2027-01-02"


def test_committed_scores_stand_there_unless_the_preset_ran_here(results, monkeypatch) -> None:
    folder = results / "bases"
    folder.mkdir(parents=True)
    about = {"preset": "paper", "device": "CPU, 2 cores", "created": "2026-11-30T07:00:00+00:00"}
    (folder / "evidence.json").write_text(json.dumps(about), encoding="utf-8")
    lines = ["base,steps,shots,seed,exam,metric,value,n", "tiny,0,1,1,igakuqa,accuracy,0.215,1158"]
    lines += ["tiny,0,1,1,igakuqa,strict_accuracy,0.1,1158", "tiny,0,1,1,jjsimqa,accuracy,0.3,459"]
    (folder / "summary.csv").write_text("\n".join(lines), encoding="utf-8")
    write_manifest(folder)
    ours = own()
    assert ours["percent"].to_dict() == pytest.approx({"tiny, step 0, 1-shot": 21.5})
    row = ours.loc["tiny, step 0, 1-shot"]
    assert row["metric"] == "Accuracy, journal" and row["subset"] == "igakuqa, 1,158 items asked"
    assert row["source"] == "this project, preset paper, seed 1, CPU, 2 cores, 2026-11-30"
    monkeypatch.setattr(reported_scores, "evaluations", lambda preset: {("llama", 900, "igakuqa_2018_2021", 0)})
    asked_igakuqa("paper", "llama", 331)
    assert own().index.tolist() == ["llama, step 900, 0-shot"]


def test_a_record_of_an_older_schema_is_passed_over_with_a_word(tmp_path) -> None:
    asked_igakuqa("paper", "llama", 331)
    (file,) = tmp_path.rglob("30_evaluate__*.json")
    file.write_text(file.read_text(encoding="utf-8").replace('"schema_version": 1', '"schema_version": 0'), encoding="utf-8")
    (said,) = reported_scores.sources_frame().attrs["passed_over"]
    assert file.name in said and "schema version 0" in said


def test_points_are_shares_of_the_points_of_their_years() -> None:
    value = reported_scores.sources_frame().drop_duplicates(["family", "system"]).set_index(["family", "system"])["percent"]
    assert value["points5", "Preferred-MedSwallow-70B"] == pytest.approx(100 * (407 + 390 + 391 + 393 + 395) / 2485)
    assert value["points4", "gpt4"] == pytest.approx(100 * (382 + 385 + 387 + 398) / 1991)
    assert value["letters", "gpt4"] == pytest.approx(100 * (230 + 240 + 238 + 248) / 1158, abs=0.01)
