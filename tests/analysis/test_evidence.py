"""The committed evidence of the registered study: complete, consistent, and younger than its registration."""

from __future__ import annotations

import subprocess
from datetime import datetime

import pandas as pd
import pytest
import yaml

from jmedlora_utils.analysis import evidence, registered, scores
from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.core.records import read_record

FOLDER = paths.RESULTS / "mini"
RULE = registered.read_registration()


@pytest.fixture(scope="module")
def study():
    return evidence.read_evidence(FOLDER)


def test_summary_follows_from_the_outcomes(study):
    keys = [c for c in scores.SUMMARY_COLUMNS if c not in ("value", "n")]
    written = pd.read_csv(FOLDER / "summary.csv").sort_values(keys, ignore_index=True)
    computed = scores.summary(study.outcomes).sort_values(keys, ignore_index=True)
    assert written[keys].astype(str).equals(computed[keys].astype(str))
    assert written["n"].tolist() == computed["n"].tolist()
    assert (written["value"] - computed["value"]).abs().max() < 0.001


def test_every_seed_is_a_registered_one_and_holds_every_condition(study):
    conditions = study.outcomes.groupby("seed")[["run", "steps", "shots", "exam"]].apply(lambda g: len(g.drop_duplicates()))
    assert conditions.nunique() == 1 and set(study.outcomes["run"]) == {run.name for run in load_preset(RULE.preset).runs}
    assert study.preset == RULE.preset and set(study.seeds) <= set(RULE.seeds) and len(study.seeds) >= 2
    assert bool(registered.provisional(study)) == (set(study.seeds) != set(RULE.seeds))


def test_evidence_is_small_and_names_no_machine():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 6_000_000
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not any(f in text for f in ("/root/", "/home/", "/tmp/", "/work/")), path


def test_rule_and_settings_are_those_committed_before_the_first_model_was_trained():
    def git(*command):
        return subprocess.run(["git", *command], cwd=paths.ROOT, capture_output=True, text=True, check=False)

    trained = [read_record(path) for path in FOLDER.glob("seed*/records/*.json") if path.stem[:2] in ("19", "20")]
    first = min((record.created for record in trained), key=datetime.fromisoformat)
    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("this copy has no history of its own, so the order of its commits cannot be seen")
    commit = git("log", "-1", "--format=%H", f"--before={first}").stdout.strip()
    assert commit, "every commit is younger than the first trained model"
    for path in (registered.FILE, paths.PRESETS / "mini.yaml", paths.PRESETS / "mini-seeds.yaml"):
        then = yaml.safe_load(git("show", f"{commit}:{paths.relative(path)}").stdout)
        now = yaml.safe_load(path.read_text(encoding="utf-8"))
        for settings in (then, now):
            settings.pop("analyse", None)  # pages that show the results, not how they came about
        assert then == now, path.name


def test_the_effects_are_those_that_were_committed(study):
    """A change of code must not move them unseen; new evidence may."""
    written = pd.read_csv(FOLDER / "estimates.csv", keep_default_na=False).astype({"value": float, "low": float, "high": float})
    computed = registered.table([e for finding in registered.findings(study) for e in finding.estimates])
    keys = ["claim", "estimand", "unit", "worlds", "verdict"]
    assert written[keys].astype(str).equals(computed[keys].astype(str))
    numbers = ["value", "low", "high"]
    assert (written[numbers] - computed[numbers]).abs().max().max() < 1e-4


def test_the_placebo_learned_the_form_and_not_the_facts(study):
    """Its answers copy listed choices as the true arm's do, and it is no better than a guess on taught facts."""
    taught = registered.correct(study, "en-large_placebo", "mini_trained", "taught")
    assert (taught < 0.2 + 0.1).all() and taught.mean() < registered.correct(study, "en-large_lora", "mini_trained", "taught").mean() - 0.3
    forms = study.forms[study.forms["run"].isin(["en-large_lora", "en-large_placebo"])]
    shares = forms.groupby("run")[["n", "as_asked"]].sum()
    assert (shares["as_asked"] / shares["n"] > 0.9).all()
