"""Arms of the study with small models: gains of known size, what its rule decides, and the columns of the summary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from jmedlora_utils.__main__ import main
from jmedlora_utils.analysis import evidence, scores, small_models, small_models_rule
from jmedlora_utils.analysis.gains import NotMeasuredError
from jmedlora_utils.analysis.studies import CONDITION, METRICS, QUESTION, Study
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import Record
from jmedlora_utils.core.settings import with_expert

BASE, OTHER, N = "smollm2-135m-instruct", "gemma-3-270m", 20
RECORDS = {"exam": "exam", "exam-placebo": "exam_placebo", "facts": "facts_ja", "facts-placebo": "facts_ja_placebo", "facts-en": "facts_en"}
# Right answers of each group of N, taught first, by run.
RIGHT = {"exam": (16, 5), "exam-placebo": (2, 5), "base": (4, 4), "facts": (18, 4), "facts-placebo": (4, 4), "facts-en": (8, 4)}


def make_study(seeds: tuple[int, ...] = (1, 2, 3), bases: tuple[str, ...] = (BASE,)) -> Study:
    rows, records, examples, questions = [], [], [], []
    for seed in seeds:
        for base in bases:
            for name, right in RIGHT.items():
                run = f"{base.split('-')[0]}_{name}"
                tuned = name in RECORDS
                if tuned:
                    config = {"run_name": run, "records": RECORDS[name], "method": "lora"}
                    records.append(Record("tune", run, "small", seed, config, {"epochs": 4.0}, {"tokens": 100}))
                exams = ["small_exam_1", "small_exam_2", "small_transfer"] if name != "facts" else []
                exams += ["mini_trained", "mini_heldout"] if "exam" not in name else []
                exams += ["mini_bm25"] if name == "base" else []
                for exam in exams:
                    for group, n_right in zip(("taught", "untaught"), right, strict=True):
                        facts = "small_transfer" if exam == "small_transfer" else group
                        facts = "taught_held_out_phrasing" if (exam, group) == ("mini_heldout", "taught") else facts
                        for n in range(N):
                            condition = (seed, run, base, 1, "english", "lora", "none", "plain_ja", 80 if tuned else 0, 0)
                            rows.append((*condition, exam, facts, f"{group}{n}", "", 1, 0.2, *[float(n < n_right)] * len(METRICS)))
    for n, said in enumerate(("甲" * 12, "乙" * 12 + "ではない", "丙" * 12, "？")):
        examples.append({"seed": 1, "run": "smollm2_exam", "steps": 80, "exam": "mini_trained", "id": f"q{n}", "response": said})
        choices = [c * 12 for c in "甲乙丙丁戊"]
        asked = {"seed": 1, "exam": "mini_trained", "facts": "taught", "id": f"q{n}", "category": "", "n_select": 1, "chance": 0.2}
        questions.append(asked | {"text": "どれか。", "choices": choices, "gold": "a"})
    outcomes = pd.DataFrame(rows, columns=[*CONDITION, *QUESTION, *METRICS])
    about = {"device": "none", "created": "2026-11-24", "evaluate_seconds": {"smollm2_exam": 10.0 * len(seeds)}}
    forms = pd.DataFrame([{"seed": seed, "run": "smollm2_exam"} for seed in seeds])
    asked = outcomes[["seed", *QUESTION]].drop_duplicates(["seed", "exam", "id"])
    asked = asked.assign(text="どれか。", choices=[[c * 12 for c in "甲乙丙丁戊"]] * len(asked), gold="a")
    every = pd.concat([asked, pd.DataFrame(questions)], ignore_index=True)
    return Study("small", "run", outcomes, records, pd.DataFrame(examples), every, forms, about)


def test_claim_1_is_taught_minus_untaught_true_minus_placebo() -> None:
    found = small_models.claim_1(make_study(), [BASE]).set_index("questions")
    exam, facts = found.loc[small_models.MEMORISED], found.loc["invented facts, taught wording"]
    assert exam["value"] == pytest.approx((16 - 2) / N - (5 - 5) / N) and exam["true_only"] == pytest.approx((16 - 4) / N - (5 - 4) / N)
    assert facts["value"] == pytest.approx((18 - 4) / N)
    assert (found["low"] > 0).all() and (found["verdict"] == "supported").all()
    assert set(small_models.claim_1(make_study((1, 2)), [BASE])["verdict"]) == {"too few seeds"}
    assert small_models.without_one_seed(make_study(), [BASE]) == ["", "", ""]
    assert small_models.without_one_seed(make_study((1, 2, 3, 4)), [BASE]) == ["4 of 4"] * 3


def test_a_card_of_claims_has_effects_and_words_of_each_model() -> None:
    study = make_study(bases=(BASE, OTHER))
    said = small_models.glance(study, small_models.answer_counts(study))
    assert sorted(said) == [1, 2, 3, 4] and said[1].count("**supported**") == 2 and "; 3 seeds. Memorised means memory" in said[1]
    assert f"{BASE}, **supported**: real questions, memorised +70.0 [" in said[1] and said[1].index(BASE) < said[1].index(OTHER)
    assert "**not measured**" in said[2] and "**described**" in said[3] and "+0.0 [" in said[3], "both bases gain alike"
    assert "1 of 4 kept answers, those of bases and placebos included, deny a choice" in said[4]
    study = make_study((1,))
    alone = small_models.glance(study, small_models.answer_counts(study))
    assert "**too few seeds**" in alone[1] and "; 1 seed." in alone[1] and "**not measured**" in alone[3]


def test_transfer_looks_at_questions_that_were_not_taught_alone() -> None:
    found = small_models.transfer(make_study(), [BASE]).set_index("questions")
    assert found.loc["untaught years", "value"] == pytest.approx((5 - 4) / N)
    assert found.loc["untaught years", ["n", "answers"]].tolist() == [N, 3 * N]
    assert found.loc["untaught years", "placebo"] == pytest.approx((5 - 4) / N)
    assert found.loc["JJSIMQA", ["n", "answers"]].tolist() == [2 * N, 3 * 2 * N]
    assert set(found["verdict"]) == {"not shown to be small"}


def test_seeds_that_ask_the_same_questions_do_not_narrow_the_interval_of_transfer() -> None:
    one, three = (small_models.transfer(make_study(seeds), [BASE]) for seeds in ((1,), (1, 2, 3)))
    assert (three["high"] - three["low"] >= one["high"] - one["low"] - 1e-9).all()


def test_the_interaction_compares_what_japanese_records_add_in_two_models() -> None:
    study = make_study(bases=(BASE, OTHER))
    assert small_models.interaction(study, BASE, OTHER).value == pytest.approx(0.0)
    gained = (study.outcomes["run"] == "gemma_facts-en") & (study.outcomes["facts"] == "taught")
    study.outcomes.loc[gained, "strict_accuracy"] = 0.0
    assert small_models.interaction(study, BASE, OTHER).value == pytest.approx(8 / N)


def test_the_summary_has_the_columns_of_the_miniature_and_the_arms() -> None:
    found = small_models.summary(make_study())
    assert list(found.columns) == [*scores.SUMMARY_COLUMNS, "arm", "material", "language_taught", "exposure"]
    assert set(found.loc[found["exam"] == "mini_bm25", "arm"]) == {"retrieval, BM25"}
    english = found[found["language_taught"] == "english"]
    assert set(english["arm"]) == {"lora"} and set(english["exposure"]) == {4.0} and set(english["material"]) == {"facts"}
    assert set(found.loc[found["arm"] == "placebo", "material"]) == {"facts", "examination"}


def test_answers_are_counted_by_what_is_wrong_with_them() -> None:
    counted = small_models.answer_counts(make_study()).iloc[0]
    assert (counted["n"], counted["unreadable"], counted["denying"]) == (4, 1, 1)
    assert counted["other"] == 2, "one names another choice; one denies one, and is read as naming it"


def test_arms_are_shown_on_the_questions_of_their_material_beside_chance() -> None:
    found = small_models.by_arm(make_study()).set_index(["material", "arm", "group"])
    assert found.loc[("real questions", "LoRA", "taught"), ["value", "chance", "n"]].tolist() == pytest.approx([16 / N, 0.2, 2 * 3 * N])
    assert found.loc[("invented facts", "LoRA, in English", "taught, other wording"), "value"] == pytest.approx(8 / N)
    assert found.loc[("invented facts", "retrieval, BM25", "taught"), "value"] == pytest.approx(4 / N)
    assert found.loc[("invented facts", "LoRA", "untaught"), "n"] == 3 * N, "an untaught fact counts once, in the taught wording"
    arms = list(dict.fromkeys(arm for _, arm, _ in found.index))
    assert arms[0] == "base" and "small_transfer" not in {name for key in found.index for name in key}


def test_the_example_is_the_longest_taught_question_of_the_first_seed_as_letters() -> None:
    study = make_study()
    asked = (study.questions["exam"] == "small_exam_1") & (study.questions["facts"] == "taught")
    study.questions.loc[asked & (study.questions["id"] == "taught3"), "text"] = "次のうち、正しいものはどれか。"
    said = {"smollm2_exam": "乙" * 12, "smollm2_base": "？", "smollm2_facts": "甲" * 12}
    rows = [{"seed": 1, "run": run, "steps": 80, "exam": "small_exam_1", "id": "taught3", "response": text} for run, text in said.items()]
    found = small_models.shown_answers(replace(study, examples=pd.concat([study.examples, pd.DataFrame(rows)], ignore_index=True)))
    assert found.astype(str).to_numpy().tolist() == [["1", BASE, "lora", "taught3", "b"], ["1", BASE, "base", "taught3", ""]]


def test_an_arm_that_is_missing_is_named() -> None:
    with pytest.raises(NotMeasuredError, match=r"gemma-3-270m: no run of arm 'lora' on examination japanese"):
        small_models.claim_1(make_study(), [OTHER])


def test_the_preset_is_the_one_that_the_rule_speaks_of() -> None:
    rule, preset = small_models_rule.read_rule(), load_preset("small")
    assert set(preset.seeds) <= set(rule.splits) and len(preset.seeds) >= rule.fewest_seeds
    assert rule.development_seed not in rule.splits and len(rule.text) > 5
    for run in preset.runs:
        if run.tune is not None:
            assert run.tune["learning_rate"] == rule.learning_rates[run.tune["base"]], run.name
            assert with_expert(run.tune, run.name)["records"] in {*RECORDS.values(), "facts_ja_shot"}
    with pytest.raises(JmedloraError, match="seed 1: the examination split is 0000"):
        small_models_rule.check_splits("small", 1, {"examination": "0" * 64})
    with pytest.raises(JmedloraError, match="no split of seed 77 was committed"):
        small_models_rule.check_splits("small", 77, {})
    small_models_rule.check_splits("small-smoke", 1, {"examination": "0" * 64})


def test_seeds_of_several_machines_are_frozen_one_after_another_with_their_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_models, "load_records", lambda *_, **__: [])  # no text was measured
    monkeypatch.setattr(evidence, "check_finished", lambda *_: None)  # the made-up study has few arms

    def freeze(seeds: tuple[int, ...], folder: str, *more: str) -> Study:
        study = make_study(seeds)
        for module in (evidence, small_models):
            monkeypatch.setattr(module, "read_runs", lambda *_: study)
        assert main(["freeze", "--preset", "small", "--folder", str(tmp_path / folder), *more]) == 0
        return evidence.read_evidence(tmp_path / folder)

    whole = freeze((1, 2, 3), "whole")
    check_manifest(tmp_path / "whole")
    freeze((1,), "parts", "--add")
    parts = freeze((2, 3), "parts", "--add")
    again = freeze((2, 3), "parts", "--add")
    order = ["seed", "run", "exam", "id"]
    for found in (parts, again):
        assert found.seeds == [1, 2, 3] and len(found.records) == len(whole.records)
        both = [s.outcomes.astype({c: str for c in order}).sort_values(order, ignore_index=True) for s in (found, whole)]
        assert both[0].astype(str).equals(both[1].astype(str))
        assert small_models.claim_1(found, [BASE]).equals(small_models.claim_1(whole, [BASE]))
        assert sorted(found.forms["seed"]) == [1, 2, 3]
    assert parts.about["evaluate_seconds"] == {"smollm2_exam": pytest.approx((10 + 2 * 20) / 3, abs=0.1)}
    summaries = [pd.read_csv(tmp_path / folder / "summary.csv") for folder in ("parts", "whole")]
    assert len(summaries[0]) == len(summaries[1])
    assert {"arm", "material", "language_taught", "exposure"} <= set(summaries[1].columns)
    assert {"base", "lora", "placebo", "retrieval, BM25"} <= set(summaries[1]["arm"])
