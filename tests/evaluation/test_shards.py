"""Shards: put together they are one run, byte for byte; what does not belong together is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import sha256_file
from jmedlora_utils.evaluation import evaluator, generation, likelihood, shards
from jmedlora_utils.evaluation.evaluator import EvalSettings
from jmedlora_utils.models import loading
from tests import tiny

ASK = EvalSettings(base="llama", shots=(0, 1), template="plain_ja", batch_size=4, likelihood=True)
STEM = "base__step0__mini_trained__0shot"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of runs with a base and an exam; its answers are those of one unsplit run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        workspace = tiny.make_workspace(tmp_path_factory.mktemp("runs"), monkeypatch, "llama")
        records = evaluator.evaluate(ASK, "base", workspace)
        yield workspace.answers, records, paths.runs_root()


@pytest.fixture
def fresh(home, tmp_path, monkeypatch):
    """The same, with nothing answered yet."""
    shutil.copytree(home[2], tmp_path / "runs", ignore=shutil.ignore_patterns("answers", "records"))
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path / "runs"))
    return paths.Workspace("smoke", 1)


def whole(answers) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in answers.iterdir() if ".shard" not in f.name}


@pytest.mark.parametrize("order", [(0,), (1, 0), (2, 0, 1)], ids=lambda order: f"{len(order)} shards")
def test_the_union_of_shards_is_one_run_byte_for_byte(home, fresh, order: tuple[int, ...]) -> None:
    answers, expected, _ = home
    for n, index in enumerate(order, start=1):
        records = evaluator.evaluate(replace(ASK, shard_index=index, num_shards=len(order)), "base", fresh)
        if n < len(order):
            assert not whole(fresh.answers) and not fresh.records.exists(), "no record before the whole is there"
            assert {r.config["shard"] for r in records} == {f"{index} of {len(order)}"}
            assert 0 < records[0].counts["questions"] < 24
            questions, responses = evaluator.asked_questions(records[0], fresh)
            assert records[0].metrics["strict"] == evaluator.score_groups(questions, responses)["strict"]
            for table in (evaluator.accuracy_table, evaluator.scorer_table, evaluator.position_table, evaluator.example_table):
                assert len(table(records, fresh)), "the page of a shard shows its own questions"
    assert whole(fresh.answers) == whole(answers)
    assert [r.comparable() for r in records] == [r.comparable() for r in expected]
    assert {f.name for f in fresh.records.iterdir()} == {f"{r.name}.json" for r in expected}


def test_the_union_of_shards_holds_each_row_as_one_run_wrote_it(home, fresh) -> None:
    for index in (0, 1):
        evaluator.evaluate(replace(ASK, shard_index=index, num_shards=2, shots=(0,)), "base", fresh)
    lines = [(fresh.answers / f"{STEM}.shard{i}of2.jsonl").read_bytes().splitlines() for i in (0, 1)]
    assert len(lines[0]) == len(lines[1]) == 12 and sorted(lines[0] + lines[1]) == sorted(
        (home[0] / f"{STEM}.jsonl").read_bytes().splitlines()
    )


KILLED = """
import os, signal, sys
from jmedlora_utils.core import paths
from jmedlora_utils.evaluation import evaluator, generation
from dataclasses import replace
from tests.evaluation.test_shards import ASK
inner = generation.generate
def dies(*args, **kwargs):
    dies.calls += 1
    if dies.calls > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*args, **kwargs)
dies.calls = 0
generation.generate = dies
evaluator.evaluate(replace(ASK, shard_index=1, num_shards=2), "base", paths.Workspace("smoke", 1))
"""


@pytest.mark.slow
def test_a_killed_shard_goes_on_and_the_union_is_the_same(home, fresh) -> None:
    evaluator.evaluate(replace(ASK, shard_index=0, num_shards=2), "base", fresh)
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1", "JMEDLORA_PROGRESS": "0"}
    command = [sys.executable, "-W", "ignore", "-c", KILLED]
    died = subprocess.run(command, env=environment, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    partial = fresh.answers / f"{STEM}.shard1of2.jsonl.partial"
    assert partial.read_bytes().count(b"\n") == 8, "two batches of four were kept"
    records = evaluator.evaluate(replace(ASK, shard_index=1, num_shards=2), "base", fresh)
    assert whole(fresh.answers) == whole(home[0]) and [r.comparable() for r in records] == [r.comparable() for r in home[1]]


def test_a_done_shard_loads_nothing_and_costs_are_added(fresh, monkeypatch) -> None:
    ask = replace(ASK, shots=(0,), likelihood=False)
    evaluator.evaluate(replace(ask, shard_index=0, num_shards=2), "base", fresh)
    note = json.loads((fresh.answers / f"{STEM}.shard0of2.json").read_text(encoding="utf-8"))
    [record] = evaluator.evaluate(replace(ask, shard_index=1, num_shards=2), "base", fresh)
    assert record.timing["generate"] > note["cost"]["timing"]["generate"] > 0
    monkeypatch.setattr(loading, "load_base", lambda *a, **k: pytest.fail("loaded"))
    for settings in (replace(ask, shard_index=0, num_shards=2), ask):
        assert evaluator.evaluate(settings, "base", fresh) == [record]


def test_the_last_to_end_merges_what_ended_meanwhile(home, fresh, monkeypatch) -> None:
    """Both shards ran at once: the other ends while this one asks its last exam, so this one finds it at the end."""
    other, inner, calls = replace(ASK, shard_index=1, num_shards=2), generation.generate, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # the first exam of shard 0 is done
            monkeypatch.setattr(generation, "generate", inner)
            evaluator.evaluate(other, "base", fresh)
        return inner(*args, **kwargs)

    monkeypatch.setattr(generation, "generate", slow)
    records = evaluator.evaluate(replace(ASK, num_shards=2), "base", fresh)
    assert not [r for r in records if "shard" in r.config] and whole(fresh.answers) == whole(home[0])


@pytest.mark.parametrize(
    ("later", "by_hand"),
    [({}, False), ({"shard_index": 0, "num_shards": 2}, False), ({"shard_index": 1, "num_shards": 2}, False), ({}, True)],
    ids=["unsplit", "first", "second", "by hand"],
)
def test_shards_that_ended_unseen_by_each_other_are_put_together_by_whatever_runs_next(home, fresh, monkeypatch, later, by_hand) -> None:
    """On a network file system, two shards that end together may both take the other for unfinished."""
    with monkeypatch.context() as blind:
        blind.setattr(shards, "_finished", lambda path, keys: [])
        for index in (0, 1):
            records = evaluator.evaluate(replace(ASK, shard_index=index, num_shards=2), "base", fresh)
            assert {r.config["shard"] for r in records} == {f"{index} of 2"}
    assert not whole(fresh.answers) and not fresh.records.exists()
    assert {f.removesuffix("__likelihood") for f in shards.unjoined(fresh.answers)} == {STEM, STEM.replace("0shot", "1shot")}
    if by_hand:
        assert len(shards.merge_folder(fresh.answers)) == 4 and whole(fresh.answers) == whole(home[0])
    monkeypatch.setattr(loading, "load_base", lambda *a, **k: pytest.fail("every answer is there"))
    records = evaluator.evaluate(replace(ASK, **later), "base", fresh)
    assert whole(fresh.answers) == whole(home[0]) and [r.comparable() for r in records] == [r.comparable() for r in home[1]]
    assert all(r.timing[stage] > 0 for r in records for stage in ("generate", "likelihood")), "their cost is not lost either"
    before = {f: (sha256_file(f), f.stat().st_mtime_ns) for f in (*fresh.answers.iterdir(), *fresh.records.iterdir())}
    assert evaluator.evaluate(replace(ASK, **later), "base", fresh) == records and not shards.unjoined(fresh.answers)
    assert {f: (sha256_file(f), f.stat().st_mtime_ns) for f in (*fresh.answers.iterdir(), *fresh.records.iterdir())} == before


def test_an_unsplit_run_asks_only_what_no_shard_has_answered(home, fresh, monkeypatch) -> None:
    ask = replace(ASK, shots=(0,))
    evaluator.evaluate(replace(ask, shard_index=1, num_shards=2), "base", fresh)
    asked, inner = [], generation.generate

    def counts(model: Any, tokenizer: Any, rows: Any, *args: Any) -> Any:
        asked.append(len(rows))
        return inner(model, tokenizer, rows, *args)

    monkeypatch.setattr(generation, "generate", counts)
    [record] = evaluator.evaluate(ask, "base", fresh)
    assert asked == [4, 4, 4] and record.comparable() == home[1][0].comparable()
    assert {f: b for f, b in whole(home[0]).items() if "0shot" in f} == whole(fresh.answers)


def test_what_killed_and_resumed_shards_cost_is_added_for_answers_and_likelihood(fresh, monkeypatch) -> None:
    """Each batch of either takes a quarter of a second more; a kill after two batches of three loses none of it."""
    ask = replace(ASK, shots=(0,), num_shards=2)
    calls: dict[str, int] = {}

    def slow(module: Any, name: str) -> None:
        inner = getattr(module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            if calls[name] == 3:
                raise KeyboardInterrupt
            time.sleep(0.25)
            return inner(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    slow(generation, "generate")
    slow(likelihood, "score_batch")
    for _ in range(2):  # ended in the answers, then in the likelihood
        with pytest.raises(KeyboardInterrupt):
            evaluator.evaluate(ask, "base", fresh)
    for index in (0, 1):
        [record] = evaluator.evaluate(replace(ask, shard_index=index), "base", fresh)
    assert calls == {"generate": 7, "score_batch": 7}, "three batches a shard, and one that was cut off"
    notes = {f.name: json.loads(f.read_text(encoding="utf-8"))["cost"] for f in fresh.answers.glob("*.json")}
    assert len(notes) == 4 and all(sum(cost["timing"].values()) >= 0.75 for cost in notes.values())
    assert all(not {"generate", "likelihood"} <= set(cost["timing"]) for cost in notes.values()), "each is paid once"
    for stage in ("load", "generate", "likelihood"):
        assert record.timing[stage] == pytest.approx(sum(cost["timing"].get(stage, 0) for cost in notes.values()), abs=0.01)
    assert record.wall_seconds >= sum(record.timing[stage] for stage in ("load", "generate", "likelihood")) >= 3
    assert record.peak_memory_bytes >= max(cost["peak_memory_bytes"] for cost in notes.values())
    assert not list(fresh.answers.glob("*.cost"))


# --- what is refused ------------------------------------------------------------------------------------------------


def merge(folder) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jmedlora_utils.evaluation.shards", "merge", str(folder)]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)


def test_shards_carried_to_one_folder_are_merged_by_hand_and_incomplete_ones_refused(home, fresh, tmp_path) -> None:
    for index in (0, 1):
        evaluator.evaluate(replace(ASK, shard_index=index, num_shards=2), "base", fresh)
        carried = tmp_path / "carried"
        carried.mkdir(exist_ok=True)
        for file in fresh.answers.glob("*.shard*"):
            shutil.copy(file, carried)
        done = merge(carried)
        if index == 0:
            assert done.returncode == 1
            assert "1 of 2 shards are not done, first base__step0__mini_trained__0shot.shard1of2.jsonl" in done.stderr
            assert "run notebook 30 with shard_index=1, num_shards=2" in done.stderr and not whole(carried)
    assert done.returncode == 0 and whole(carried) == whole(home[0])


def test_mixed_shards_are_refused(fresh, tmp_path) -> None:
    ask = replace(ASK, shots=(0,), likelihood=False, num_shards=2)
    evaluator.evaluate(ask, "base", fresh)
    # The other shard was asked with another answer budget: its keys are others, so notebook 30 waits and the merge refuses.
    [record] = evaluator.evaluate(replace(ask, shard_index=1, max_new_tokens=3), "base", fresh)
    assert record.config["shard"] == "1 of 2" and not whole(fresh.answers)
    with pytest.raises(JmedloraError, match=r"shard1of2.jsonl was written with other settings"):
        shards.merge(fresh.answers / f"{STEM}.jsonl", 2)
    evaluator.evaluate(replace(ask, num_shards=3), "base", fresh)
    with pytest.raises(JmedloraError, match="splits into 2 and 3 shards lie side by side"):
        shards.merge_folder(fresh.answers)
    with pytest.raises(JmedloraError, match="no finished shard in it"):
        shards.merge_folder(tmp_path / "nowhere")


def test_a_shard_with_a_row_twice_or_gone_is_refused(fresh) -> None:
    ask = replace(ASK, shots=(0,), likelihood=False, num_shards=2)
    for index in (0, 1):
        evaluator.evaluate(replace(ask, shard_index=index), "base", fresh)
    first, second = ((fresh.answers / f"{STEM}.shard{i}of2.jsonl") for i in (0, 1))
    rows = second.read_text(encoding="utf-8").splitlines(keepends=True)
    second.write_text("".join(rows[:-1]), encoding="utf-8")
    with pytest.raises(JmedloraError, match="1 of 24 answers are in no shard"):
        shards.merge(fresh.answers / f"{STEM}.jsonl", 2)
    (fresh.answers / f"{STEM}.jsonl").unlink()
    with pytest.raises(JmedloraError, match="run the shards again"):
        evaluator.evaluate(replace(ask, shard_index=0), "base", fresh)
    evaluator.evaluate(replace(ask, shard_index=1), "base", fresh)
    assert (fresh.answers / f"{STEM}.jsonl").is_file(), "the damaged shard asks what it lacks, and is then put together"
    second.write_text("".join(rows) + first.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    with pytest.raises(JmedloraError, match="is in another shard too"):
        shards.merge(fresh.answers / f"{STEM}.jsonl", 2)


def test_shards_that_cannot_be_are_refused(fresh) -> None:
    with pytest.raises(JmedloraError, match="num_shards is 7, but 'mini_trained' has only 6 batches of 4"):
        evaluator.evaluate(replace(ASK, num_shards=7), "base", fresh)
    for index, of in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(JmedloraError, match=f"shard_index is {index} of num_shards {of}"):
            replace(ASK, shard_index=index, num_shards=of)


def test_the_notice_says_what_the_page_speaks_of(home, fresh) -> None:
    assert evaluator.shard_notice(ASK, home[1]) == ""
    for index, said in ((1, "2 of 2 evaluations wait for others"), (0, "All 2 shards are done and merged")):
        settings = replace(ASK, shard_index=index, num_shards=2)
        assert said in evaluator.shard_notice(settings, evaluator.evaluate(settings, "base", fresh))
