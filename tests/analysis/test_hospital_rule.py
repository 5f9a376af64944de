"""Go and no-go for an adapter on one's own articles: known differences, the words of the rule, and what decides nothing."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from jmedlora_utils.__main__ import main
from jmedlora_utils.analysis import evidence, hospital_answers, hospital_rule
from jmedlora_utils.analysis.gains import NotMeasuredError
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import write_text
from jmedlora_utils.core.statistics import Interval

N = 200
# Right answers of N on each side (taught, untaught), by system; an adapter that does what it should.
GOOD = {"base": (40, 40), "adapter": (120, 40), "retrieval": (110, 110), "both": (150, 130)}


def make_answers(right=GOOD, seeds=(1, 2, 3), n=N, sample=(30, 30), harm=(2, 2), unreadable=0, asked=60) -> pd.DataFrame:
    rows = []
    for seed in seeds:
        for system, (tuned, exam) in hospital_rule.SYSTEMS.items():
            for side, correct in zip(("taught", "untaught"), right[system], strict=True):
                for i in range(n):
                    readable = int(not (system == "adapter" and i >= n - unreadable))
                    where = ("lora", seed, 80 * tuned, exam, side, f"{exam}-{side[0]}{i:03d}", "a")
                    rows.append((*where, "a" if readable else "", readable, float(i < correct), None))
        for tuned in (False, True):
            for i in range(asked):
                made = int(i < harm[tuned]) if i < asked // 2 else None
                where = ("lora", seed, 80 * tuned, "exam_sample", "exam_sample", f"q{i}", "a")
                rows.append((*where, "b", 1, float(i < sample[tuned]), made))
    return pd.DataFrame(rows, columns=hospital_answers.ANSWERS).astype({"prohibited": float})


def states(answers: pd.DataFrame) -> dict[str, str]:
    return hospital_rule.judge(answers).set_index("check")["state"].to_dict()


def verdict(answers: pd.DataFrame) -> str:
    return hospital_rule.verdict(hospital_rule.judge(answers), answers)


def test_the_measures_are_the_differences_that_they_say() -> None:
    found = hospital_rule.measures(make_answers(sample=(30, 27), harm=(2, 3), unreadable=10))
    assert found["gain"].value == pytest.approx((120 - 40) / N)
    assert found["beyond_form"].value == pytest.approx((120 - 40) / N - (40 - 40) / N)
    assert found["beyond_retrieval"].value == pytest.approx((150 + 130 - 220) / (2 * N))
    assert found["examination"].value == pytest.approx((27 - 30) / 60)
    assert found["prohibited"].value == pytest.approx((3 - 2) / 30)
    assert found["unreadable"].value == pytest.approx(20 / (2 * N))


def test_an_adapter_that_helps_and_harms_nothing_is_a_go() -> None:
    answers = make_answers()
    assert set(states(answers).values()) == {"holds"}
    assert verdict(answers) == "go"


@pytest.mark.parametrize(
    ("check", "changed"),
    [
        ("gain", {"right": GOOD | {"adapter": (42, 40)}}),
        ("beyond_form", {"right": GOOD | {"adapter": (90, 150)}}),
        ("beyond_retrieval", {"right": GOOD | {"both": (60, 60)}}),
        ("examination", {"sample": (50, 10)}),
        ("prohibited", {"harm": (2, 3)}),
        ("unreadable", {"unreadable": 60}),
    ],
)
def test_each_check_alone_ends_in_a_no_go(check: str, changed: dict) -> None:
    answers = make_answers(**changed)
    assert states(answers)[check] == "fails"
    assert verdict(answers) == "no_go"


def test_a_check_that_the_data_cannot_settle_is_open() -> None:
    mixed = make_answers(right=GOOD | {"adapter": (60, 40)})
    assert states(mixed)["gain"] == "open"
    assert verdict(mixed) == "open"


def test_too_few_seeds_or_questions_of_any_seed_decide_nothing() -> None:
    answers = make_answers()
    short = (answers["seed"] == 3) & (answers["facts"] == "taught") & (answers["id"].str[-3:].astype(str) >= "050")
    quarter = {system: (taught // 4, untaught // 4) for system, (taught, untaught) in GOOD.items()}
    for small in (make_answers(seeds=(1,)), make_answers(right=quarter, n=50), answers[~short]):
        assert verdict(small) == "rehearsal"


@pytest.mark.parametrize(
    ("limit", "interval", "state"),
    [
        ({"at_least": 0.1}, (0.2, 0.1, 0.3), "holds"),
        ({"at_least": 0.1}, (0.1, 0.05, 0.2), "open"),
        ({"at_least": 0.1}, (0.05, 0.0, 0.09), "fails"),
        ({"at_most": 0.0}, (0.0, 0.0, 0.0), "holds"),
        ({"at_most": 0.0}, (0.1, -0.1, 0.2), "open"),
        ({"at_most": 0.0, "on_value": True}, (0.1, -0.1, 0.2), "fails"),
        ({"at_most": 0.05}, (0.2, 0.1, 0.3), "fails"),
    ],
)
def test_the_whole_interval_decides_unless_the_rule_says_otherwise(limit: dict, interval: tuple, state: str) -> None:
    check = hospital_rule.Check(says="-", reason="-", **limit)
    assert check.state(Interval(*interval)) == state


def test_the_committed_rule_gives_a_reason_for_every_limit_and_refuses_one_without() -> None:
    raw = yaml.safe_load(hospital_rule.FILE.read_text(encoding="utf-8"))
    rule = hospital_rule.read_rule()
    assert list(raw["checks"]) == list(hospital_rule.NAMES) and all(check.reason for check in rule.checks.values())
    for broken in ({"at_least": None}, {"at_most": 0.1}):
        with pytest.raises(JmedloraError, match="either at_least or at_most"):
            hospital_rule.Rule.read(raw | {"checks": raw["checks"] | {"gain": raw["checks"]["gain"] | broken}}, "rule")
    with pytest.raises(JmedloraError, match="checks must be gain"):
        hospital_rule.Rule.read(raw | {"checks": {"gain": raw["checks"]["gain"]}}, "rule")


def test_answers_that_are_not_there_are_named_and_those_of_two_runs_are_not_mixed() -> None:
    answers = make_answers()
    with pytest.raises(NotMeasuredError, match="no answers of the adapter to quiz_bm25"):
        hospital_rule.judge(answers[(answers["exam"] != "quiz_bm25") | (answers["steps"] == 0)])
    with pytest.raises(JmedloraError, match=r"answers of 2 runs .*choose those of one"):
        hospital_rule.judge(pd.concat([answers, answers.assign(run="other")]))


def test_frozen_answers_are_read_back_and_another_seed_joins_them(tmp_path, monkeypatch) -> None:
    ran = {1: make_answers(seeds=(1,), n=20), 2: make_answers(seeds=(2,), n=20)}
    monkeypatch.setattr(paths, "RESULTS", tmp_path)
    monkeypatch.setattr(hospital_answers, "_of_run", lambda preset, seeds: ran[seeds[0]])
    monkeypatch.setattr(evidence, "check_finished", lambda *_: None)  # there is no run behind these answers
    monkeypatch.setattr(evidence, "freeze", lambda *given: [write_text(tmp_path / "hospital" / "evidence.json", "{}")])
    assert main(["freeze", "--preset", "hospital", "--seeds", "1"]) == 0
    pd.testing.assert_frame_equal(hospital_answers.answers("hospital", "committed"), ran[1], check_dtype=False)
    assert main(["freeze", "--preset", "hospital", "--seeds", "2", "--add"]) == 0
    both = hospital_answers.answers("hospital", "committed")
    joined = hospital_rule.judge(pd.concat(ran.values()))
    assert set(both["seed"]) == {1, 2} and hospital_rule.judge(both)["state"].eq(joined["state"]).all()
    (tmp_path / "hospital" / "answers.csv").write_text("run\n", encoding="utf-8")
    with pytest.raises(JmedloraError, match=r"answers\.csv: its content differs"):
        hospital_answers.answers("hospital", "committed")


def test_a_preset_without_a_quiz_is_refused() -> None:
    assert hospital_answers.has_quiz("hospital") and not hospital_answers.has_quiz("smoke")
    with pytest.raises(JmedloraError, match="preset 'smoke' asks no quiz"):
        hospital_answers.answers("smoke")
