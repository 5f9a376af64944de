"""What prose pages include: every fragment has a maker, and says what it should with and without evidence or examination."""

from __future__ import annotations

import json
import os
import re

import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_data

from jmedlora_utils.analysis import tables, views
from jmedlora_utils.book import fragments
from jmedlora_utils.core import paths
from jmedlora_utils.core.records import Record, read_record, write_record
from jmedlora_utils.data import fetch, prompts
from jmedlora_utils.data.exams import load_igakuqa


def test_every_include_of_a_page_has_a_maker_and_every_maker_a_page() -> None:
    named = {n for page in paths.BOOK.glob("*.md") for n in re.findall(r"_generated/(\w+)\.md", page.read_text(encoding="utf-8"))}
    assert named == {*fragments.FRAGMENTS, *fragments.STATUS}


def test_the_settings_of_the_paper_come_from_the_committed_table(tmp_path) -> None:
    whole = fragments.paper_settings(tmp_path)
    assert "| learning rate | 5e-5 | 2e-4 |" in whole and "journal Table 1" in whole
    assert "learning rate" not in fragments.models(tmp_path) and "| r | 8 | 64 |" in fragments.models(tmp_path)


def test_without_the_examination_an_invented_question_stands_in_and_the_page_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert "`make exams` fetches them" in fragments.question(tmp_path) and "鱗条病" in fragments.question(tmp_path)
    assert fragments.prompt(tmp_path).startswith("```text\n") and fragments.prompt(tmp_path).endswith("### 応答:\n```")


def test_half_a_download_is_no_examination(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    year = fragments.EXAMPLE[0]
    there = tmp_path / next(name for name in fetch.sums() if name.startswith(f"IgakuQA/data/{year}/"))
    there.parent.mkdir(parents=True)
    there.write_text("", encoding="utf-8")
    assert fragments.example()[1] is False
    assert "not at hand" in fragments.question(tmp_path)


@pytest.mark.parametrize("real", [False, True])
def test_the_five_responses_earn_what_the_page_says_of_them(tmp_path, monkeypatch, real) -> None:
    if real and not os.environ.get("JMEDLORA_DATA"):
        pytest.skip("JMEDLORA_DATA is not set")
    if not real:
        monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert fragments.example()[1] is real
    rows = [line.split("|")[-4:-1] for line in fragments.responses(tmp_path).splitlines()[2:]]
    earned = [[int(cell) for cell in row][:2] for row in rows]
    assert earned == [[1, 1], [0, 1], [0, 1], [0, 0], [0, 0]]
    assert int(rows[-1][2]) == 1, "`strict` reads the letter"


@pytest.mark.parametrize("name", ["tuning", "evaluation"])
def test_the_speed_tables_hold_every_arm_of_the_record_and_set_it_beside_ours(name) -> None:
    record = read_record(fragments.BENCHMARKS / f"{name}.json")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in fragments.speed(name).splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [arm["arm"] for arm in record.metrics["arms"]]
    ratio = {row[0]: float(row[4]) for row in rows}
    assert all(ratio[arm] == 1 for arm in ratio if arm.split(": ")[-1] == "ours")
    for arm, row in zip(record.metrics["arms"], rows, strict=True):
        assert float(row[1]) == pytest.approx(arm["seconds"], abs=0.01) and float(row[1]) <= float(row[2]) <= float(row[3])
    by_medians = record.metrics.get("ours_times_as_fast_by_medians", {})
    if "likelihood" in by_medians:
        assert ratio["likelihood: five full prompts"] == pytest.approx(by_medians["likelihood"], rel=0.02)


def test_a_record_says_what_it_leaves_out(tmp_path) -> None:
    record = Record(
        "benchmark", "tuning", "", 1, {"note": "half a run"}, {"all_seconds": {"ours": [2.0, 1.0, 4.0], "other": [6.0, 3.0, 9.0]}}
    )
    write_record(tmp_path, record)
    shown = fragments.speed("tuning", tmp_path)
    assert shown.startswith("Note of the record: half a run") and "| other | 3.00 | 6.00 | 9.00 | 3.00 |" in shown


def test_every_folder_of_evidence_is_listed_with_files_that_exist() -> None:
    listed = fragments.evidence_lists(None)
    for folder in (p for p in paths.RESULTS.iterdir() if any(f.name != "README.md" for f in p.rglob("*") if f.is_file())):
        assert f"(evidence-{folder.name})=" in listed
    files = re.findall(r"</book/results/([^>]+)>", listed)
    assert files and all((paths.RESULTS / name).is_file() for name in files)
    about = json.loads((paths.RESULTS / "cluster" / "cluster.json").read_text(encoding="utf-8"))
    assert f"{about['node']}, {about['day']}, commit `{about['git_commit'][:10]}`, slurm {about['versions']['slurm']}" in listed
    assert "No file here names a day or a device; {download}`published/README.md" in listed


def test_every_benchmark_is_listed_with_day_device_and_versions() -> None:
    listed = fragments.evidence_lists(None)
    found = sorted(fragments.BENCHMARKS.glob("*.json"))
    assert len(found) >= 2
    for path in found:
        record = read_record(path)
        (row,) = (line for line in listed.splitlines() if f"</benchmarks/results/{path.name}>" in line)
        assert record.device in row and record.created[:10] in row and f"torch {record.versions['torch']}" in row


def test_committed_evidence_is_linked_and_a_run_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: tmp_path / "mini")
    run = fragments.evidence_line("40_findings", ["outcomes"], {"preset": "mini", "source": "auto"})
    assert "`runs/mini/`" in run
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "evidence.json").write_text("{}")
    line = fragments.evidence_line(
        "42_cost", ["outcomes", "records", "jmedlora_utils/models/planner.py", "metrics/"], {"preset": "mini", "source": "auto"}
    )
    assert "</book/results/mini/summary.csv>" in line and "<evidence-mini>" in line
    assert "the code, `jmedlora_utils/models/planner.py`" in line and "{ref}`results/metrics/ <evidence-metrics>`" in line


def test_the_explorer_links_the_answers_that_it_reads() -> None:
    (entry,) = fragments.EVIDENCE_OF["50_explore"]
    line = fragments.evidence_line("50_explore", [entry], {"preset": "mini", "source": "committed"})
    assert "</book/results/mini/seed1/examples.jsonl>" in line and "</book/results/mini/seed1/questions.jsonl>" in line
    assert "`runs/mini/`" in fragments.evidence_line("50_explore", [entry], {"preset": "mini", "source": "run"})


def test_without_evidence_the_pages_say_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(tables, "evidence_folder", lambda preset: tmp_path)
    assert fragments.story(tmp_path) == fragments.verdicts(tmp_path) == fragments.NO_EVIDENCE
    assert "含まれていません" in fragments.verdicts_ja(tmp_path)


# --- other people's numbers -----------------------------------------------------------------------------------------


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


@needs_data
def test_with_the_examination_the_page_quotes_the_question_and_the_prompt(tmp_path) -> None:
    asked = next(q for q in load_igakuqa(data_dir(), [2018]) if q.id == "112C11")
    shown = fragments.question(tmp_path)
    assert f"> {asked.text}" in shown and all(choice in shown for choice in asked.choices) and f"**c. {asked.choice('c')}**" in shown
    prompt = prompts.build_exam_prompt(asked, "alpaca_ja")
    assert prompt in fragments.prompt(tmp_path)
    assert f"{prompt}⟦{asked.choice('c')}<EOS>⟧" in fragments.training_row(tmp_path)
    assert asked.points == 1 and not asked.prohibited and asked.gold == {"c"}
