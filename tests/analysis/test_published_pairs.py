"""Published models in pairs: totals and pairs of the real files, what is paired with what, the rule, and broken input."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from exam_fixtures import data_dir, needs_recent_data, question

from jmedlora_utils.analysis import published_pairs as pairs
from jmedlora_utils.analysis import verdicts
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.statistics import Interval
from jmedlora_utils.data import fetch, published_answers
from jmedlora_utils.data.published_answers import Answer, known_models, read_runs

EXAMS = ("igakuqa119", "jmle2026")
# Points and right items by system, as the repositories' own tables state them.
TOTALS = {
    "CA-DSR1-DQ32B-JP-sft": (374, 294), "CA-DSR1-DQ32B-JP-base": (364, 282), "CA-DSR1-DQ32B-JP-cpt": (356, 278),
    "pfn-medllm-qwen-72b": (332, 272), "qwen2_5-72b": (398, 314), "Qwen3-32B": (451, 355), "Qwen3-32B (no-think)": (416, 326),
    "Preferred-MedRECT-32B": (449, 357), "GPT-OSS-Swallow-120B-RL-v0.1": (473, 379), "Qwen3-Swallow-32B-RL-v0.2": (459, 365),
    "gpt-oss-120b (high)": (467, 373), "gpt-oss-120b (medium)": (453, 363), "gpt-oss-120b (low)": (433, 343),
    "gpt-oss-20b (medium)": (428, 342), "gpt-oss-20b (low)": (383, 303), "Qwen3.5-27B (no-think)": (464, 366),
    "Qwen3.5-35B-A3B (no-think)": (457, 367), "Qwen3.5-122B-A10B (no-think)": (460, 368),
}  # fmt: skip
# Base, adapted, right of each, only base, only adapted, p to the digits that the reference gives.
SEVEN = [
    ("Qwen3-32B", "Preferred-MedRECT-32B", 355, 357, 22, 24, "0.88"),
    ("CA-DSR1-DQ32B-JP-base", "CA-DSR1-DQ32B-JP-cpt", 282, 278, 56, 52, "0.77"),
    ("CA-DSR1-DQ32B-JP-base", "CA-DSR1-DQ32B-JP-sft", 282, 294, 46, 58, "0.28"),
    ("qwen2_5-72b", "pfn-medllm-qwen-72b", 314, 272, 73, 31, "5e-05"),
    ("gpt-oss-120b (high)", "GPT-OSS-Swallow-120B-RL-v0.1", 373, 379, 5, 11, "0.21"),
    ("gpt-oss-120b (medium)", "GPT-OSS-Swallow-120B-RL-v0.1", 363, 379, 7, 23, "0.005"),
    ("Qwen3-32B", "Qwen3-Swallow-32B-RL-v0.2", 355, 365, 15, 25, "0.15"),
]


@pytest.fixture(scope="module")
def found():
    return pairs.examine(pairs.read_material(str(data_dir()), EXAMS))


@needs_recent_data
def test_all_eighteen_totals_are_those_of_the_repositories(found):
    table = found.systems.set_index("system")
    assert {name: (row.points, row.right) for name, row in table.iterrows()} == TOTALS
    assert set(table["max_points"]) == {500} and set(table["items"]) == {400}
    assert dict(table.groupby("exam")["text_items"].first()) == {119: 297, 120: 302}
    stated = table[["required", "general", "text_right"]].loc["Qwen3-32B"].tolist()
    assert stated == [188, 263, 274]  # summary of the file itself


@needs_recent_data
def test_nobody_passes_without_published_prohibited_choices_and_a_missed_mark_still_fails(found):
    passed = found.systems.set_index("system")["passed"]
    assert not passed.fillna(False).any()
    failed = {"CA-DSR1-DQ32B-JP-sft", "CA-DSR1-DQ32B-JP-base", "CA-DSR1-DQ32B-JP-cpt", "pfn-medllm-qwen-72b", "gpt-oss-20b (low)"}
    assert set(passed[passed.notna()].index) == failed


@needs_recent_data
def test_the_seven_pairs_to_the_last_digit(found):
    assert tuple(found.pairs.columns) == pairs.PAIR_COLUMNS and tuple(found.systems.columns) == pairs.SYSTEM_COLUMNS
    assert len(found.pairs) == len(SEVEN)
    table = found.pairs.set_index(["base", "adapted"])
    for base, adapted, *counts, p in SEVEN:
        row = table.loc[base, adapted]
        assert [row.right_base, row.right_adapted, row.only_base, row.only_adapted] == counts
        assert f"{row.p:.{len(p.removeprefix('0.'))}f}" == p or f"{row.p:.0e}" == p
        assert row.low <= row.difference <= row.high and row.p_holm >= row.p


@needs_recent_data
def test_the_rule_on_the_real_pairs(found):
    words = {1: verdicts.NOT_SUPPORTED, 2: verdicts.NOT_MEASURED, 3: verdicts.NOT_SUPPORTED, 4: verdicts.SUPPORTED}
    assert pairs.claim_verdicts(found.verdicts) == words
    deciding = found.verdicts[found.verdicts["decides"]]["adapted"].dropna().tolist()
    assert deciding == ["Preferred-MedRECT-32B", "GPT-OSS-Swallow-120B-RL-v0.1", "Qwen3-Swallow-32B-RL-v0.2"]
    assert "serving: OpenRouter / Ollama" in found.pairs.set_index("adapted").loc["pfn-medllm-qwen-72b", "confounds"]


def test_the_column_of_the_claims_page_says_what_each_verdict_rests_on():
    said = pairs.glance()
    assert said[1].startswith("**not supported**; gain by a medical LoRA: ") and "not to add knowledge" in said[1]
    assert said[2] == "**not measured**" and said[3].count("→") == 2 and "Exact match at most 0.0 %" in said[4]


@needs_recent_data
def test_cuts_add_up_and_texts_are_read_as_their_publisher_read_them_almost_always(found):
    for _, cuts in found.cuts.groupby(["base", "adapted"]):
        assert set(cuts.groupby("cut")["n"].sum()) == {400}
        assert cuts.groupby("cut")["right_adapted"].sum().nunique() == 1
    readings = found.readings.set_index("system")
    assert readings.loc["pfn-medllm-qwen-72b", "no_choice"] == 26
    assert readings.loc["gpt-oss-120b (low)", ["read_differently", "right_reread"]].tolist() == [3, 345]
    assert readings["read_differently"].max() == 6


@needs_recent_data
def test_a_file_of_results_under_another_name_appears_without_a_change_of_code(tmp_path):
    for name in EXAMS:
        folder = pairs.fetch.source_of(name).folder
        shutil.copytree(data_dir() / folder, tmp_path / folder)
    results = tmp_path / "JMLE2026-Bench" / "results"
    thinking = json.loads((results / "Qwen_Qwen3-32B.json").read_text(encoding="utf-8"))
    shutil.copy(results / "Qwen_Qwen3-32B.json", results / "again.json")
    thinking["metadata"] |= {"model": "Qwen/Qwen3.5-27B", "display_name": "Qwen3.5-27B", "image_mode": "vision"}
    (results / "Qwen_Qwen3.5-27B.json").write_text(json.dumps(thinking), encoding="utf-8")
    thinking["metadata"] |= {"model": "someone/unknown-8B", "display_name": "unknown-8B"}
    (results / "someone_unknown-8B.json").write_text(json.dumps(thinking), encoding="utf-8")
    material = pairs.read_material(str(tmp_path), ["jmle2026"])
    runs = {run.system: run for run in material.runs["jmle2026"]}
    assert {"Qwen3-32B", "Qwen3-32B (again)", "Qwen3.5-27B", "unknown-8B"} <= set(runs) and len(runs) == 16
    assert (runs["Qwen3.5-27B"].thinking, runs["Qwen3.5-27B"].facts.parameters, runs["Qwen3.5-27B"].commit) == (True, 27e9, "not stated")
    assert material.outcomes("jmle2026")["Qwen3.5-27B"].sum() == 355
    said = "\n".join(material.notices)
    assert "3 files have no published sum" not in said and "unknown-8B: nothing is known of its model, so it is in no pair." in said
    partners = [(a.system, b.system) for a, b in pairs._partners(material.runs["jmle2026"])]
    assert ("Qwen3-32B (again)", "Preferred-MedRECT-32B") in partners and not any("unknown" in name for pair in partners for name in pair)


@needs_recent_data
def test_the_committed_tables_are_those_of_the_real_files(found, tmp_path):
    committed = pairs.read_tables(EXAMS)
    pairs.write_tables(tmp_path, found)
    for path in sorted(tmp_path.glob("*.csv")):
        assert path.read_text(encoding="utf-8") == (pairs.FOLDER / path.name).read_text(encoding="utf-8"), path.name
    assert len(pairs.read_tables(["jmle2026"]).pairs) == 4 < len(committed.pairs)


# --- broken input ---------------------------------------------------------------------------------------------------

QUESTIONS = [question(id="120A1"), question(id="120A2", gold=frozenset("b"))]


def result(name="120A-1", said=("a",), **change):
    return {"question_id": name, "predicted": list(said), "correct": said == ("a",), "raw_response": "【回答】a"} | change


def write_results(folder, *rows, name="m.json", **metadata):
    about = {"model": "m", "image_mode": "blind", "extra_body": None} | metadata
    target = folder / "JMLE2026-Bench" / "results" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"metadata": about, "results": rows}, ensure_ascii=False), encoding="utf-8")
    return target


def write_graded(folder, *rows, name="119_m_grading_results.csv", mark="\ufeff", mixed=False):
    lines = [
        "question_number,model,model_answer,is_correct",
        *(f'{q},{"n" if mixed and i else "m"},"{a}",True' for i, (q, a) in enumerate(rows)),
    ]
    target = folder / "IgakuQA119" / "results" / "demo" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(mark + "\n".join(lines) + "\n", encoding="utf-8")
    return target


def rewrite(path, change):
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


@pytest.mark.parametrize(
    ("exam", "write", "message"),
    [
        ("jmle2026", lambda f: rewrite(write_results(f, result()), lambda text: text[:-20]), r"m\.json:1: not valid JSON"),
        ("jmle2026", lambda f: write_results(f, result(), result()), r"m\.json, result 2: a second answer to 120A1"),
        ("jmle2026", lambda f: write_results(f, result("118A-1")), r"m\.json, result 1: 118A1 is no question of jmle2026"),
        ("jmle2026", lambda f: write_results(f, {"question_id": "120A-1"}), r"m\.json, result 1: field 'predicted' is missing"),
        ("jmle2026", lambda f: write_results(f, result(said="a") | {"predicted": "a"}), "result 1: field 'predicted' is no list"),
        ("jmle2026", lambda f: write_results(f, result(), name="notes.txt"), r"notes\.txt: no results of JMLE2026-Bench"),
        ("jmle2026", lambda f: rewrite(write_results(f), lambda _: "[]"), r"m\.json: no results of JMLE2026-Bench"),
        ("jmle2026", lambda f: None, "no file of results; fetch JMLE2026-Bench"),
        ("igakuqa119", lambda f: write_graded(f, ("119A1", "a"), ("119A1", "b")), r"results\.csv:3: a second answer to 119A1"),
        ("igakuqa119", lambda f: write_graded(f, ("120A1", "a")), r"results\.csv:2: 120A1 is no question of igakuqa119"),
        ("igakuqa119", lambda f: write_graded(f, ("119A1", "a"), name="119_m_wrong_answers.csv"), "wrong_answers.csv: no results"),
        ("igakuqa119", lambda f: rewrite(write_graded(f, ("119A1", "a")), lambda t: t.replace("model_answer", "said")), "'model_answer'"),
        ("igakuqa119", lambda f: write_graded(f, ("119A1", "a"), ("119A2", "b"), mixed=True), "2 models"),
    ],
)
def test_a_broken_or_unknown_file_is_refused_by_name(tmp_path, exam, write, message):
    write(tmp_path)
    known = [question(id=name.replace("120", "119")) for name in ("120A1", "120A2")] if exam == "igakuqa119" else QUESTIONS
    with pytest.raises(JmedloraError, match=message):
        read_runs(tmp_path, exam, known)


def test_a_missing_question_counts_as_wrong_and_an_unknown_letter_is_counted(tmp_path):
    write_results(tmp_path, result(said=("g",)))
    (tmp_path / "JMLE2026-Bench" / "results" / "leaderboard.png").write_bytes(b"")
    run = read_runs(tmp_path, "jmle2026", QUESTIONS)[0]
    assert [pairs.is_right(q, run.answers.get(q.id)) for q in QUESTIONS] == [False, False]
    said = "\n".join(pairs._said_of(run, QUESTIONS))
    for counted in ("questions without an answer", "answers that name a letter of no choice"):
        assert f"m: {counted}, counted as wrong: 1." in said


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_csv_is_read_with_and_without_its_byte_order_mark(tmp_path, mark):
    write_graded(tmp_path, ("119A1", "c, a"), mark=mark)
    run = read_runs(tmp_path, "igakuqa119", [question(id="119A1", gold=frozenset("ac"), n_select=2)])[0]
    assert run.answers["119A1"].letters == frozenset("ac") and run.answers["119A1"].right


def test_a_folder_without_a_pair_gives_empty_tables_with_their_columns(tmp_path):
    write_results(tmp_path, result())
    questions = [question(id="120A1", edition=120, section="A", required=False)]
    material = pairs.Material({"jmle2026": questions}, {"jmle2026": read_runs(tmp_path, "jmle2026", questions)}, ())
    found = pairs.examine(material)
    assert (len(found.pairs), len(found.cuts), len(found.steps), len(found.systems)) == (0, 0, 0, 1)
    assert pairs.claim_verdicts(found.verdicts)[3] == verdicts.NOT_MEASURED and not pairs.ladder(found)["answers"].any()
    for table in (found.pairs, found.cuts, found.steps):
        assert {"pair", "only first / only second right", "points [95 %]", "p"} <= set(pairs.readable(table))


# --- what is paired, marked and decided -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "letters", "number", "right"),
    [
        ({"gold": frozenset("ac")}, "ac", "", True),
        ({"gold": frozenset("ac")}, "a", "", False),
        ({"gold": frozenset("ac"), "rule": "any"}, "c", "", True),
        ({"gold": frozenset("ac"), "rule": "any"}, "ac", "", False),
        ({"rule": "always"}, "", "", True),
        ({"choices": (), "gold": frozenset(), "rule": "number", "number": "0.40"}, "", "0.40", True),
        ({"choices": (), "gold": frozenset(), "rule": "number", "number": "0.40"}, "", "0.4", False),  # as the pinned files mark it
    ],
)
def test_an_answer_is_marked_as_its_publisher_marks_it(asked, letters, number, right):
    assert pairs.is_right(question(**asked), Answer(frozenset(letters), number, None, None)) is right


@pytest.mark.parametrize(
    ("asked", "text", "letters", "number"),
    [
        ({}, "考えると a だが、\n【回答】b】", "b", ""),
        ({}, "**【回答】d**", "d", ""),
        ({}, "【回答】a\n【回答】e", "e", ""),
        ({}, "b. 気胸", "b", ""),
        ({}, "[選んだ回答(単数/複数/数値)]", "", ""),
        ({"n_select": 2, "gold": frozenset("ac")}, "【回答】a,c", "ac", ""),
        ({"choices": (), "gold": frozenset(), "rule": "number", "number": "0.40"}, "【回答】0.400", "", "0.40"),
        ({"choices": (), "gold": frozenset(), "rule": "number", "number": "28"}, "【回答】28.1", "", "28.1"),
    ],
)
def test_letters_are_read_again_from_the_text(asked, text, letters, number):
    again = pairs.reread(question(**asked), Answer(frozenset(), "", text, None))
    assert ("".join(sorted(again.letters)), again.number) == (letters, number)


@pytest.mark.parametrize(
    ("base", "adapted", "paired"),
    [
        ({}, {}, True),
        ({}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, False),
        ({"extra_body": {"reasoning_effort": "high"}}, {"extra_body": {"reasoning_effort": "low"}}, True),
        ({"extra_body": {"reasoning_effort": "low"}}, {"extra_body": {"reasoning_effort": "high"}}, False),
        ({"model": "Qwen/Qwen3.5-27B"}, {}, False),
    ],
)
def test_a_base_is_paired_at_the_same_kind_of_thinking_and_no_less_effort(tmp_path, base, adapted, paired):
    write_results(tmp_path, result(reasoning="…"), name="b.json", **{"model": "Qwen/Qwen3-32B"} | base)
    write_results(tmp_path, result(reasoning="…"), name="a.json", **{"model": "pfnet/Preferred-MedRECT-32B"} | adapted)
    assert bool(pairs._partners(read_runs(tmp_path, "jmle2026", QUESTIONS))) is paired


@pytest.mark.parametrize(
    ("domain", "adaptation", "effect", "p_holm", "decides", "expected"),
    [
        ("medicine", "LoRA", (0.08, 0.02, 0.14), 0.001, True, (1, True, verdicts.SUPPORTED)),
        ("medicine", "LoRA", (0.08, 0.02, 0.14), 0.04, True, (1, True, verdicts.UNDECIDED)),
        ("medicine", "LoRA", (0.01, -0.02, 0.04), 1.0, True, (1, True, verdicts.NOT_SUPPORTED)),
        ("medicine", "LoRA", (0.01, -0.02, 0.06), 1.0, False, (1, False, verdicts.UNDECIDED)),
        ("medicine", "fine-tuning", (0.01, -0.02, 0.04), 1.0, True, (1, False, verdicts.NOT_SUPPORTED)),
        ("Japanese", "reinforcement", (-0.08, -0.14, -0.02), 0.001, True, (3, True, verdicts.SUPPORTED)),
        ("Japanese", "reinforcement", (0.08, 0.02, 0.14), 0.001, True, (3, True, verdicts.NOT_SUPPORTED)),
    ],
)
def test_the_rule_decides_a_pair(domain, adaptation, effect, p_holm, decides, expected):
    row = {"exam": 120, "base": "b", "adapted": "a", "adaptation": adaptation, "p_holm": p_holm}
    row |= dict(zip(("difference", "low", "high"), effect, strict=True))
    details = pd.DataFrame([{"domain": domain, "decides": decides, "caveat": "", "equivalence_p": 0.5}])
    found = pairs._verdicts(pd.DataFrame([row]), details, None).iloc[0]
    assert (found["claim"], found["decides"], found["verdict"]) == expected


def test_claim_4_is_decided_by_its_interval_alone():
    found = pairs._verdicts(pd.DataFrame(columns=pairs.PAIR_COLUMNS), pd.DataFrame(), Interval(0.02, 0.01, 0.03))
    assert pairs.claim_verdicts(found)[4] == verdicts.NOT_SUPPORTED and pairs.claim_verdicts(found)[1] == verdicts.NOT_MEASURED


@pytest.mark.parametrize(("gained", "lost", "n", "small"), [(24, 22, 400, True), (52, 56, 400, False), (0, 0, 9, True), (9, 0, 9, False)])
def test_equivalence_is_more_than_no_difference_found(gained, lost, n, small):
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * (n - gained - lost))
    assert (pairs.equivalence(differences) < pairs.EQUIVALENCE_LEVEL) is small


def test_every_fact_of_a_model_has_a_source_and_a_misspelt_one_is_refused(monkeypatch, tmp_path):
    models, totals = known_models()
    assert all(facts.sources for facts in models.values()) and all(total.source for total in totals)
    assert all("adaptation" in facts.sources for facts in models.values() if facts.base)
    file = tmp_path / "published_models.yaml"
    for text, message in (("{m: {familly: x}}", "did you mean 'family'"), ("{m: {base: lost}}", "base 'lost' is no model")):
        file.write_text(f"models: {text}\ntotals: []\n", encoding="utf-8")
        monkeypatch.setattr(published_answers, "MODELS_FILE", file)
        known_models.cache_clear()
        with pytest.raises(JmedloraError, match=message):
            known_models()
    known_models.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", ["usmle"], "", "error"), "parameter exams: no exam 'usmle'"),
        (("", [], "", "error"), "parameter exams"),
        (("", EXAMS, "key.csv", "error"), "parameter corrections"),
        (("", EXAMS, "", "skip"), "parameter on_missing"),
    ],
)
def test_a_wrong_parameter_is_named(arguments, message):
    with pytest.raises(JmedloraError, match=message):
        pairs.tables(*arguments)


def test_a_corrected_key_is_never_answered_with_the_committed_tables(monkeypatch):
    monkeypatch.setattr(fetch, "available", lambda exams: False)
    monkeypatch.setattr(pairs, "read_material", lambda folder, exams, corrections: corrections)
    monkeypatch.setattr(pairs, "examine", lambda material: material)
    assert pairs.tables("", ["jmle2026"], "key.csv", "committed") == "key.csv"
    assert isinstance(pairs.tables("", ["jmle2026"], "", "committed"), pairs.Tables)
