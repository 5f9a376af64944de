"""The registered study: one number per seed, Student's interval over seeds, and the words of the committed rule."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from jmedlora_utils.analysis import evidence, registered
from jmedlora_utils.analysis.studies import METRICS, QUESTION, Study
from jmedlora_utils.core import paths
from jmedlora_utils.core.manifest import write_manifest
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.data.invented_world import World, WorldSettings
from jmedlora_utils.data.study_records import half_of_facts

RULE = registered.read_registration()
SIZES = {"en-small": 2**17, "en-medium": 2**19, "en-large": 2**21}
Share = Callable[[str, str, str, int, int], float]


def make_study(share: Share, seeds: tuple[int, ...] = (11, 12, 13), n: int = 40) -> Study:
    """A study in which `share(run, exam, facts, shots, steps)` of the answers are right, of every run of the preset."""
    rows = []
    for run, seed in itertools.product(load_preset("mini-seeds").runs, seeds):
        base, asked = run.evaluate["base"], {"exams": ["mini_trained", "mini_heldout"], "shots": [0, 1]} | run.evaluate
        about = {"seed": seed, "run": run.name, "base": base, "centric": "english", "size_params": SIZES.get(base, 2**19)}
        for exam, shots, step in itertools.product(asked["exams"], asked["shots"], asked["steps"]):
            for facts in ("general",) if exam == "mini_general" else ("taught", "untaught"):
                right = round(n * share(run.name, exam, facts, shots, step))
                name = "taught_held_out_phrasing" if (exam, facts) == ("mini_heldout", "taught") else facts
                known = about | {"exam": exam, "shots": shots, "steps": step, "facts": name}
                rows += [known | {"id": f"{exam}-{facts}{i}", "accuracy": float(i < right)} for i in range(n)]
    frame = pd.DataFrame(rows)
    frame = frame.assign(**{metric: frame["accuracy"] for metric in METRICS})
    empty = pd.DataFrame(columns=["seed", *QUESTION, "text", "choices", "gold"])
    said = pd.DataFrame(columns=["seed", "run", "steps", "exam", "id", "response"])
    return Study("mini-seeds", "run", frame, [], said, empty, pd.DataFrame(), {"device": "", "created": ""})


def learned(run: str, exam: str, facts: str, shots: int, step: int) -> float:
    """Tuning stores taught facts in every run but the placebo; the other wording keeps 3/4 of it, a worked example half."""
    if step == 0 or "placebo" in run or facts == "untaught":
        return 0.2
    return 0.2 + 0.6 * (0.75 if exam != "mini_trained" else 1) * (0.5 if shots else 1)


def claim(number: int, study: Study) -> registered.Finding:
    return registered.findings(study)[number - 1]


def by_name(found: registered.Finding) -> dict[str, registered.Estimate]:
    return {e.name: e for e in found.estimates}


def test_knowledge_is_what_true_records_add_to_taught_facts_alone() -> None:
    found = by_name(claim(1, make_study(learned)))
    each = np.mean([0.6, 0.45, 0.3, 0.225])
    assert found["knowledge"].interval.value == pytest.approx(each, abs=0.01) and found["knowledge"].verdict == registered.SUPPORTED
    assert found["untaught facts"].verdict == registered.SMALL
    alone = found["true records alone: taught minus untaught"].interval.value
    assert alone == pytest.approx(each, abs=0.01), "this placebo stays at chance"
    partly = found["partially: lost with another wording or an example"]
    assert partly.interval.value == pytest.approx((0.15 + 0.3) / 2, abs=0.01) and partly.verdict == registered.SUPPORTED
    assert registered.verdict(1, list(found.values())) == registered.SUPPORTED


def test_of_what_is_lost_only_the_part_beyond_full_tuning_is_loras() -> None:
    def full_keeps_the_example(run: str, exam: str, facts: str, shots: int, step: int) -> float:
        return learned(run, exam, facts, 0 if "full" in run else shots, step)

    found = by_name(claim(1, make_study(full_keeps_the_example)))
    assert found["LoRA minus full tuning: lost, mean of both"].interval.value == pytest.approx(0.3 / 2, abs=0.01)


def test_a_gain_that_the_placebo_shares_is_no_knowledge() -> None:
    form = make_study(lambda run, exam, facts, shots, step: 0.2 if step == 0 else 0.6)
    found = by_name(claim(1, form))
    assert found["knowledge"].verdict == registered.NOT_SUPPORTED and found["placebo on taught facts"].interval.value == pytest.approx(0.4)
    assert found["untaught facts"].verdict == registered.NOT_SMALL and "[90 %: +" in found["untaught facts"].text()
    assert registered.verdict(1, list(found.values())) == registered.NOT_SUPPORTED


def test_the_slope_of_size_is_in_logits_per_doubling() -> None:
    def by_size(run: str, exam: str, facts: str, shots: int, step: int) -> float:
        return 1 / (1 + math.exp(-{"en-small": -1.0, "en-medium": 0.0, "en-large": 2.0}.get(run.split("_")[0], 0.0)))

    main, half, equal, points, *steps = claim(2, make_study(by_size, n=400)).estimates
    share = {name: 1 / (1 + math.exp(-x)) for name, x in (("small", -1.0), ("middle", 0.0), ("large", 2.0))}
    assert main.interval.value == pytest.approx(0.75, abs=0.05) and main.verdict == registered.SUPPORTED
    assert [e.verdict for e in (half, equal, points, *steps)] == [""] * 6
    assert points.interval.value == pytest.approx(share["large"] - share["small"], abs=0.01)
    expected = [share["middle"] - share["small"], *[share["large"] - share["middle"]] * 2]
    assert [e.interval.value for e in steps] == pytest.approx(expected, abs=0.01)
    flat = claim(2, make_study(lambda *_: 1.0)).estimates
    assert flat[0].interval.value == pytest.approx(0) and flat[0].verdict == registered.NOT_SUPPORTED, "full marks have a finite logit"


def test_language_and_tokenizer_are_told_apart() -> None:
    gains = {"en-medium_lora": 0.5, "en-medium-shared_lora": 0.4, "ja-medium_lora": 0.1, "ja-medium-shared_lora": 0.2}
    study = make_study(lambda run, exam, facts, shots, step: 0.2 + (gains.get(run, 0.0) if step else 0.0))
    found = by_name(claim(3, study))
    value = {name: round(e.interval.value, 3) for name, e in found.items()}
    assert value["English minus Japanese"] == 0.3 and value["own minus shared tokenizer"] == 0.0
    assert value["language by tokenizer"] == 0.2 and value["Japanese-centric short of half"] == pytest.approx(0.45 / 2 - 0.15)
    assert value["own tokenizers: English minus Japanese"] == 0.4
    assert registered.verdict(3, list(found.values())) == registered.SUPPORTED
    close = make_study(lambda run, exam, facts, shots, step: 0.2 + ({**gains, "ja-medium_lora": 0.4}.get(run, 0.0) if step else 0.0))
    assert by_name(claim(3, close))["Japanese-centric short of half"].verdict == registered.NOT_SUPPORTED


def answers(*responses: str) -> Study:
    """The run on sentences, asked one question with the right choice アカ and the wrong ones アオ, キイロ, and so on."""
    asked = {"exam": "mini_trained", "facts": "taught", "category": "drug", "n_select": 1, "chance": 0.2}
    asked |= {"text": "どれか。", "choices": ["アカ", "アオ", "キイロ", "ミドリ", "シロ"], "gold": "a"}
    ids = [f"q{i}" for i in range(len(responses))]
    questions = pd.DataFrame([asked | {"seed": 11, "id": i} for i in ids])
    said = [{"seed": 11, "run": "en-large_sentences", "steps": 96, "exam": "mini_trained", "id": i} for i in ids]
    examples = pd.DataFrame(said).assign(response=list(responses))
    return replace(make_study(learned, (11, 12)), questions=questions, examples=examples)


def test_answers_are_read_by_what_they_assert() -> None:
    study = answers("アカ", "アカである。", "アオではなく、アカである。", "アカではなく、アオである。", "アオ")
    counts = registered.answer_counts(study).iloc[0].to_dict()
    assert {k: counts[k] for k in ("n", "non_copies", "right", "right_not_exact", "wrong")} == {
        "n": 5, "non_copies": 3, "right": 3, "right_not_exact": 2, "wrong": 2,
    }  # fmt: skip
    assert counts["credited_wrong"] <= 1


def test_a_model_that_copies_choices_cannot_test_the_metrics(monkeypatch) -> None:
    copies = pd.DataFrame(
        {"seed": [11, 12], "exam": "mini_trained", "n": 20, "non_copies": 0, "right": 15, "right_not_exact": 0, "wrong": 5}
    )
    monkeypatch.setattr(registered, "answer_counts", lambda study: copies.assign(credited_wrong=0))
    assert claim(4, make_study(learned, (11, 12))).verdict == registered.NOT_TESTABLE


def test_one_seed_has_no_verdict_and_a_missing_arm_is_named() -> None:
    alone = claim(1, make_study(learned, (11,)))
    assert alone.verdict == registered.ONE_SEED and math.isnan(alone.estimates[0].interval.low)
    assert {e.verdict for e in alone.estimates} == {registered.ONE_SEED, ""}
    study = make_study(learned)
    found = claim(1, replace(study, outcomes=study.outcomes[study.outcomes["run"] != "en-large_placebo"]))
    assert found.verdict == registered.NOT_MEASURED
    assert "no answers of en-large_placebo to mini_trained, taught facts, 0-shot; run the preset to its end" in found.missing
    assert "knowledge" not in by_name(found) and by_name(found)["untaught facts"].verdict == registered.SMALL


def test_a_word_is_fragile_where_one_world_or_the_scorer_changes_it() -> None:
    shares = {11: 0.9, 12: 0.9, 13: 0.9, 14: 0.25}

    def world(seed: int) -> pd.DataFrame:
        def share(run: str, exam: str, facts: str, shots: int, step: int) -> float:
            return shares[seed] if (run, facts, step) == ("en-large_lora", "taught", 32) else 0.2

        return make_study(share, (seed,)).outcomes

    frame = pd.concat([world(seed) for seed in shares], ignore_index=True)
    study = replace(make_study(learned), outcomes=frame.assign(strict_accuracy=frame["accuracy"]))
    words = registered.changed_verdicts(study)
    assert {number: len(changed) for number, changed in words.items()} == {1: 5, 2: 5, 3: 5, 4: 4}, "four worlds, one scorer"
    assert words[4] == [registered.NOT_MEASURED] * 4, "its answers are read, whatever the scorer"
    sure = make_study(learned)
    sure = replace(sure, outcomes=sure.outcomes.assign(strict_accuracy=sure.outcomes["accuracy"]))
    assert set(registered.changed_verdicts(sure)[1]) == {claim(1, sure).verdict}
    fooled = replace(sure, outcomes=sure.outcomes.assign(strict_accuracy=0.2))
    assert registered.changed_verdicts(fooled)[1][-1] == registered.NOT_SUPPORTED


def test_a_study_that_is_not_whole_says_so() -> None:
    assert "provisional" in registered.provisional(make_study(learned)) and "3 of the 12" in registered.provisional(make_study(learned))
    assert "no evidence" in registered.provisional(make_study(learned, (101, 102)))
    assert registered.provisional(make_study(learned, tuple(RULE.seeds), n=4)) == ""


def test_the_smallest_detectable_effect_is_found_with_the_power_that_it_says() -> None:
    rng, spread, n = np.random.default_rng(0), 0.1, 12
    made = registered.estimate(1, "x", pd.Series(rng.normal(0, spread, n)))
    scale = made.detectable * spread / float(made.by_seed.std(ddof=1))  # at the true spread
    hits = [registered.estimate(1, "x", pd.Series(rng.normal(scale, spread, n))).interval.low > 0 for _ in range(400)]
    assert abs(np.mean(hits) - RULE.power) < 0.08


def test_the_preset_is_the_registered_one_and_no_development_world_is_counted() -> None:
    preset, development = load_preset("mini-seeds"), load_preset("mini-dev")
    assert list(preset.seeds) == RULE.seeds and len(RULE.seeds) == 12
    assert list(development.seeds) == RULE.development_seeds and not set(RULE.seeds) & set(RULE.development_seeds)
    earlier = pd.concat(pd.read_csv(paths.RESULTS / "studies" / f"study{n}.csv") for n in (1, 2))
    assert not set(RULE.seeds) & set(range(1, 6)) and earlier["seeds"].max() == 5, "fresh seeds"
    assert development.runs == preset.runs and development.prepare == preset.prepare
    world = World(WorldSettings(11, **preset.prepare["10_prepare_instructions"]))
    assert RULE.facts == {"main": len(world.facts_of("taught")), "half": len(half_of_facts(world))}


def test_a_seed_whose_answers_are_all_wrong_or_all_right_does_not_hide_the_others(monkeypatch) -> None:
    counts = pd.DataFrame({"seed": [11, 12, 13], "exam": "mini_trained", "n": 20, "non_copies": 20, "right": [0, 10, 20]})
    counts = counts.assign(right_not_exact=[0, 10, 20], wrong=[20, 10, 0], credited_wrong=[4, 2, 0])
    monkeypatch.setattr(registered, "answer_counts", lambda study: counts)
    strict, lenient, _ = claim(4, make_study(learned)).estimates
    assert list(strict.by_seed) == [1.0, 1.0] and list(lenient.by_seed) == [0.2, 0.2]


def test_evidence_in_another_folder_is_judged_by_its_own_answers(tmp_path) -> None:
    folder = shutil.copytree(paths.RESULTS / "mini", tmp_path / "mini")
    counts = pd.read_csv(folder / registered.ANSWERS).assign(credited_wrong=0)
    counts.to_csv(folder / registered.ANSWERS, index=False)
    write_manifest(folder)
    assert not registered.answer_counts(evidence.read_evidence(folder))["credited_wrong"].any()
