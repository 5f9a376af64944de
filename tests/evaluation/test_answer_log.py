"""Answers and their cost on disk: whole batches survive a kill, and the cost of each answer is counted once."""

from types import SimpleNamespace

import pytest

from jmedlora_utils.evaluation import answer_log
from jmedlora_utils.evaluation.answer_log import AnswerLog, sum_costs

KEYS, BATCHES = ["k0", "k1", "k2", "k3"], [[3, 1], [0, 2]]


def rows(batch) -> list[dict]:
    return [{"key": KEYS[i], "response": f"答え{i}\u2028続き"} for i in batch]


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_wherever_a_kill_cuts_the_file_it_ends_as_if_never_killed(tmp_path, cut: int) -> None:
    whole = AnswerLog(tmp_path / "whole.jsonl", KEYS)
    assert [r["key"] for r in whole.fill(BATCHES, rows, "generate")] == KEYS and not whole.partial.exists()
    log = AnswerLog(tmp_path / "a.jsonl", KEYS)
    asked = []

    def dies(batch):
        asked.append(batch)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return rows(batch)

    with pytest.raises(KeyboardInterrupt):
        log.fill(BATCHES, dies, "generate")
    log.partial.write_bytes(log.partial.read_bytes()[:cut])
    AnswerLog(log.path, KEYS).fill(BATCHES, lambda batch: asked.append(batch) or rows(batch), "generate")
    assert log.path.read_bytes() == whole.path.read_bytes()
    assert log.complete() is not None and AnswerLog(log.path, [*KEYS[:3], "other"]).complete() is None


@pytest.mark.parametrize("damage", [b"[]\n", b'"text"\n', b"\xff\xfe\n", b"{\n"])
def test_a_damaged_answers_file_counts_as_not_asked(tmp_path, damage: bytes) -> None:
    log = AnswerLog(tmp_path / "a.jsonl", KEYS)
    log.fill(BATCHES, rows, "generate")
    log.path.write_bytes(damage + log.path.read_bytes())
    assert log.complete() is None


def test_every_run_that_worked_on_an_answers_file_is_in_its_cost(tmp_path) -> None:
    for _ in range(2):
        log = AnswerLog(tmp_path / "a.jsonl", KEYS)
        log.lap("load")
        log.lap("generate")
    AnswerLog(tmp_path / "a.jsonl", ["other settings"]).lap("generate")
    text = log.cost.read_text(encoding="utf-8")
    log.cost.write_text(text + text[: len(text) // 2], encoding="utf-8")  # a line that a kill cut off damages no other
    log.lap("likelihood")
    assert list(log.spent()["timing"]) == ["load", "generate", "likelihood"] and log.spent()["peak_memory_bytes"] > 2**20
    log.forget_cost()
    assert log.spent() == {"timing": {}, "wall_seconds": 0, "peak_memory_bytes": 0}


def test_costs_add_seconds_and_keep_the_largest_memory() -> None:
    one = {"timing": {"load": 1.0, "generate": 2.0}, "wall_seconds": 3.0, "peak_memory_bytes": 9}
    two = {"timing": {"generate": 0.5}, "wall_seconds": 0.5, "peak_memory_bytes": 7}
    assert sum_costs([one, two]) == {"timing": {"load": 1.0, "generate": 2.5}, "wall_seconds": 3.5, "peak_memory_bytes": 9}


def test_what_was_done_before_the_start_is_none_of_a_logs_cost(tmp_path, monkeypatch) -> None:
    """Logs of writing and likelihood are opened together; the seconds of the first must not count again in the second."""
    monkeypatch.setattr(answer_log, "time", SimpleNamespace(perf_counter=iter([0.0, 100.0, 101.0]).__next__))
    log = AnswerLog(tmp_path / "a.jsonl", KEYS)
    log.start()
    log.lap("load")
    assert log.spent()["timing"] == {"load": 1.0} and log.spent()["wall_seconds"] == 1.0
