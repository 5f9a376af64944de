"""Scores that other people published stand beside scores of the same family only, and our own take their place when they exist."""

from __future__ import annotations

import pandas as pd
import pytest

from jmedlora_utils.analysis import views
from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Record, write_record


def test_every_reported_score_in_japanese_stands_in_one_family() -> None:
    reported = pd.read_csv(views.PUBLISHED / "reported.csv", keep_default_na=False)
    igaku = reported[reported["exam"].str.startswith("IgakuQA") & (reported["language"] == "ja") & (reported["unit"] == "%")]
    wanted = igaku[~igaku["group"].isin(["re-scored", "leaderboard shuffled"])]
    shown = views.sources_frame()
    assert (shown["family"].isin(["gestalt", "unknown"]).sum() + 3) == len(wanted)  # three are points of the whole examination
    assert set(igaku.loc[igaku["group"] == "re-scored", "system"]) == set(shown.loc[shown["family"] == "letters", "system"])
    assert shown.loc[shown["family"] == "ours", "percent"].isna().all()
    assert set(shown["family"]) == set(views.FAMILIES)


def asked_igakuqa(preset: str, run: str, right: int, **config: object) -> None:
    workspace = paths.Workspace(preset, 1)
    name = f"30_evaluate__{run}__step900__igakuqa_2018_2021__0shot"
    about = {"run_name": run, "step": 900, "exam": "igakuqa_2018_2021", "shots": 0, **config}
    scores = {"journal": {"all": {"accuracy": {"value": right / 1000, "n": 1000}}}}
    counts = {"questions": 1000, "excluded": {"longer than the context": 5}}
    made = {"device": "NVIDIA A100", "created": "2027-01-02T03:04:05+00:00"}
    write_record(workspace.records, Record("evaluate", name, preset, 1, about, scores, counts, **made))


def test_a_model_that_was_asked_igakuqa_takes_the_place_of_not_run(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    assert views.sources_table()["percent"].iloc[-1] == "not run" and "No model of this project" in views.sources_seen()
    asked_igakuqa("smoke", "toy", 999)
    asked_igakuqa("paper", "again", 400, variant_of="llama")
    assert views.sources_table()["percent"].iloc[-1] == "not run"
    asked_igakuqa("paper", "llama", 331)
    asked_igakuqa("modern", "newer", 512)
    table = views.sources_table()
    ours = table[table["family"].ne("").cumsum() == len(views.FAMILIES)].set_index("system")
    assert ours["percent"].to_dict() == {"llama, step 900, 0-shot": "33.1", "newer, step 900, 0-shot": "51.2"}
    row = ours.loc["llama, step 900, 0-shot"]
    assert row["metric"] == "Accuracy, journal" and row["subset"] == "igakuqa_2018_2021, 1,000 items asked, 5 left out"
    assert row["source"] == "this project, preset paper, seed 1, NVIDIA A100, 2027-01-02" and "none of our models" not in set(table["note"])
    assert "own: 2 scores" in views.sources_seen()


def test_points_are_shares_of_the_points_of_their_years() -> None:
    value = views.sources_frame().drop_duplicates(["family", "system"]).set_index(["family", "system"])["percent"]
    assert value["points5", "Preferred-MedSwallow-70B"] == pytest.approx(100 * (407 + 390 + 391 + 393 + 395) / 2485)
    assert value["points4", "gpt4"] == pytest.approx(100 * (382 + 385 + 387 + 398) / 1991)
    assert value["letters", "gpt4"] == pytest.approx(100 * (230 + 240 + 238 + 248) / 1158, abs=0.01)


def test_a_score_of_unknown_metric_is_never_put_beside_another_family() -> None:
    frame = views.sources_frame()
    assert set(frame.loc[frame["system"].str.startswith("JMedLoRA"), "family"]) == {"unknown"}
    said = views.sources_warning()
    assert "33.1 %" in said and "may be set against it" in said and "gpt4 82.6 % by letters and 78.0 % of the points" in said
