"""Go or no-go for an adapter tuned on one's own articles: the committed thresholds, and what a run says to each of them.

The rule is `resources/hospital_rule.yaml`; notebook 45 prints it. Code reads its numbers from there and nowhere else.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated

import pandas as pd
from pydantic import Field, model_validator

from jmedlora_utils.analysis import gains, small_models
from jmedlora_utils.analysis.gains import NotMeasuredError
from jmedlora_utils.core import paths, statistics
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_yaml
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.core.statistics import Interval

FILE = paths.PACKAGE_DATA / "hospital_rule.yaml"
QUIZ, QUIZ_RETRIEVAL, SAMPLE = "quiz", "quiz_bm25", "exam_sample"
HOLDS, FAILS, OPEN = "holds", "fails", "open"
NAMES = ("gain", "beyond_form", "beyond_retrieval", "examination", "prohibited", "unreadable")
SYSTEMS = {"base": (False, QUIZ), "adapter": (True, QUIZ), "retrieval": (False, QUIZ_RETRIEVAL), "both": (True, QUIZ_RETRIEVAL)}
"""The four systems: whether the adapter is on, and the exam they are asked."""


class Check(Checked):
    """One threshold."""

    says: str  #: What is measured
    reason: str  #: Why the limit is where it is
    at_least: float | None = None  #: The limit from below
    at_most: float | None = None  #: The limit from above
    on_value: bool = False  #: Whether the figure itself is compared, not its interval

    @model_validator(mode="after")
    def _has_one_limit(self) -> Check:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a check states either at_least or at_most")
        return self

    def state(self, found: Interval) -> str:
        """`holds` where the whole interval is on the right side of the limit, `fails` where it is on the wrong one, else `open`."""
        low, high = (found.value, found.value) if self.on_value else (found.low, found.high)
        if self.at_least is not None:
            return HOLDS if low >= self.at_least else FAILS if high < self.at_least else OPEN
        return HOLDS if high <= self.at_most else FAILS if low > self.at_most else OPEN


class Rule(Checked):
    """What was fixed before any score."""

    stated: str  #: Day of the commit
    scorer: str  #: Column of the answers
    level: Annotated[float, Field(gt=0, lt=1)]  #: Of every interval
    fewest_seeds: Annotated[int, Field(ge=2)]  #: With fewer, nothing is decided
    fewest_questions: Annotated[int, Field(ge=1)]  #: On each side of the quiz; with fewer, nothing is decided
    retrieval_enough: Annotated[float, Field(gt=0, le=1)]  #: Share of the quiz that ends the matter before tuning
    checks: dict[str, Check]  #: By the names of `NAMES`
    verdicts: dict[str, str]  #: What each verdict means
    stop: list[str]  #: When to stop

    @model_validator(mode="after")
    def _names_every_check(self) -> Rule:
        if tuple(self.checks) != NAMES or set(self.verdicts) != {"go", "no_go", "open", "rehearsal"}:
            raise ValueError(f"checks must be {', '.join(NAMES)}, verdicts go, no_go, open and rehearsal")
        return self


@cache
def read_rule() -> Rule:
    """The committed rule."""
    return Rule.read(read_yaml(FILE), FILE.name)


def asked(answers: pd.DataFrame, tuned: bool, exam: str, column: str) -> pd.Series:
    """A column of the answers of the base or, at its last step, of the adapter, indexed by (seed, facts, id).

    Ids are those of the plain quiz, so that a question with an article before it can be compared with the one without.

    Args:
        answers: The table of `hospital_answers.answers`, of one run.

    Raises:
        NotMeasuredError: The exam was not asked of it.
        JmedloraError: The answers are of several runs.
    """
    if len(runs := sorted(answers["run"].unique())) > 1:
        raise JmedloraError(f"answers of {len(runs)} runs ({', '.join(runs)}) cannot be judged at once; choose those of one")
    found = answers[(answers["steps"] > 0 if tuned else answers["steps"] == 0) & (answers["exam"] == exam)]
    found = found[found["steps"] == found["steps"].max()]
    if found.empty:
        raise NotMeasuredError(f"no answers of the {'adapter' if tuned else 'base'} to {exam}; run the preset to its end")
    named = found.assign(id=found["id"].str.replace(f"{QUIZ_RETRIEVAL}-", f"{QUIZ}-", regex=False))
    return named.set_index(["seed", "facts", "id"])[column].astype(float).sort_index()


def _compared(answers: pd.DataFrame) -> dict[str, pd.Series]:
    """One number for each answer that a check rests on, by name: adapter minus base, or whether it is unreadable."""

    def change(exam: str, column: str = read_rule().scorer) -> pd.Series:
        adapter, base = (asked(answers, tuned, exam, column).dropna() for tuned in (True, False))
        return gains.difference(adapter, base, f"{exam}: adapter", "base")

    gain = change(QUIZ)
    return {
        "gain": gain[gain.index.get_level_values("facts") == "taught"],
        "beyond_form": gain,
        "beyond_retrieval": change(QUIZ_RETRIEVAL),
        "examination": change(SAMPLE),
        "prohibited": change(SAMPLE, "prohibited"),
        "unreadable": 1 - asked(answers, *SYSTEMS["adapter"], "readable"),
    }


def measures(answers: pd.DataFrame) -> dict[str, Interval]:
    """What the checks compare with their limits, by name."""
    return _measured(_compared(answers))


def _measured(compared: dict[str, pd.Series]) -> dict[str, Interval]:
    level = read_rule().level
    found = {"beyond_form": small_models.taught_minus_untaught(compared["beyond_form"], level)}
    found["unreadable"] = statistics.wilson(float(compared["unreadable"].sum()), len(compared["unreadable"]))
    return {name: found.get(name) or gains.interval(values, level) for name, values in compared.items()}


def judge(answers: pd.DataFrame) -> pd.DataFrame:
    """The checks, one row each: `check`, `says`, `value`, `low`, `high`, `n` (answers compared), `limit` and `state`."""
    compared, rows = _compared(answers), []
    found = _measured(compared)
    for name, check in read_rule().checks.items():
        limit = check.at_least if check.at_least is not None else check.at_most
        row = {"check": name, "says": check.says, **found[name]._asdict(), "n": len(compared[name]), "limit": limit}
        rows.append(row | {"state": check.state(found[name])})
    return pd.DataFrame(rows)


def verdict(judged: pd.DataFrame, answers: pd.DataFrame) -> str:
    """`go`, `no_go`, `open`, or `rehearsal` where the run is smaller than the rule asks for."""
    rule, quiz = read_rule(), answers[(answers["exam"] == QUIZ) & (answers["steps"] == 0)]
    fewest = quiz.groupby(["seed", "facts"])["id"].nunique().min()
    if quiz["seed"].nunique() < rule.fewest_seeds or fewest < rule.fewest_questions:
        return "rehearsal"
    states = set(judged["state"])
    return "no_go" if FAILS in states else "go" if states == {HOLDS} else "open"
