"""Paired answers: counts, gains and tests against values worked out by hand; kept examples."""

import pandas as pd
import pytest
import synthetic_study

from jmedlora_utils.analysis import flips, studies
from jmedlora_utils.analysis.flips import FLIPS


def test_counts_give_back_the_questions_and_their_paired_gain() -> None:
    counts = pd.DataFrame([("easy", 20, 5, 10, 5), ("hard", 1, 2, 3, 4)], columns=["group", *FLIPS.values()])
    questions = flips.questions_of(counts)
    assert len(questions) == 50 and questions["after"].sum() - questions["before"].sum() == 14
    easy, hard = flips.flip_counts(questions, "group").to_dict("records")
    assert [easy[name] for name in ("group", *FLIPS.values(), "n")] == ["easy", 20, 5, 10, 5, 40]
    assert easy["value"] == pytest.approx(15 / 40) and 0 < easy["low"] < easy["value"] < easy["high"]
    # Of 25 changed questions 20 to 5: twice the binomial tail, 2 * 68406 / 2**25; of 3, 1 to 2: 1.
    assert easy["p"] == pytest.approx(2 * 68406 / 2**25)
    assert hard["p"] == 1 and hard["value"] == pytest.approx(-1 / 10)


def test_thirds_are_about_equal_and_named_by_their_ends() -> None:
    groups = flips.thirds(pd.Series([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    assert groups.value_counts().tolist() == [3, 3, 3]
    assert list(groups.cat.categories) == ["10 to 37 characters", "38 to 63 characters", "64 to 90 characters"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    runs = [r for r in synthetic_study.RUNS if r.name == "en-large_lora"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JMEDLORA_RUNS", str(tmp_path_factory.mktemp("runs")))
        synthetic_study.use_preset(patch, (1, 2), runs)
        synthetic_study.write_study("mini-seeds", (1, 2), runs, answers=6)
        yield studies.read_runs("mini-seeds")


def test_no_fact_counts_twice_among_the_flips(study) -> None:
    flipped = flips.question_flips(study, "en-large_lora")
    facts = flipped["id"].str.removeprefix("mini_trained-").str.removeprefix("mini_heldout-")
    assert not flipped.assign(fact=facts).duplicated(["seed", "facts", "fact"]).any()
    shown = flips.flip_counts(flipped, "facts").set_index("facts")["n"]
    assert shown["untaught"] == shown["untaught held out phrasing"] == flipped["facts"].str.startswith("untaught").sum() / 2


def test_an_example_comes_from_the_kept_answers(study) -> None:
    flipped = flips.question_flips(study, "en-large_lora")
    example = flips.kept_example(study, "en-large_lora", flipped, flipped["flip"].iloc[0])
    assert len(example["choices"]) == 5 and {"exam", "text", "gold", "before", "after"} <= set(example)
    assert flips.kept_example(study, "en-large_lora", flipped, "no such flip") == {}
