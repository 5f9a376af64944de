"""Costs kept beside the answers: added over runs, told apart by keys, and not spoilt by a kill."""

from __future__ import annotations

from jmedlora_utils.evaluation.costs import Ledger, sum_costs


def test_laps_of_several_runs_add_up(tmp_path) -> None:
    for stage in ("load", "generate", "generate"):
        ledger = Ledger(tmp_path / "new" / "a.jsonl", ["k1", "k2"])
        ledger._since -= 2  # as if two seconds had passed
        ledger.lap(stage)
    total = Ledger(tmp_path / "new" / "a.jsonl", ["k1", "k2"]).total()
    assert list(total["timing"]) == ["load", "generate"] and 2 <= total["timing"]["load"] < 3 and 4 <= total["timing"]["generate"] < 5
    assert 6 <= total["wall_seconds"] < 7 and total["peak_memory_bytes"] > 2**20
    ledger.close()
    assert not ledger.path.exists() and ledger.total()["wall_seconds"] == 0
    ledger.close()


def test_what_other_settings_cost_is_not_counted(tmp_path) -> None:
    Ledger(tmp_path / "a.jsonl", ["other"]).lap("generate")
    assert Ledger(tmp_path / "a.jsonl", ["mine"]).total() == {"timing": {}, "wall_seconds": 0, "peak_memory_bytes": 0}


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path) -> None:
    ledger = Ledger(tmp_path / "a.jsonl", ["k"])
    ledger.lap("generate")
    text = ledger.path.read_text(encoding="utf-8")
    ledger.path.write_text(text + text[: len(text) // 2], encoding="utf-8")
    ledger.lap("likelihood")
    assert list(ledger.total()["timing"]) == ["generate", "likelihood"]


def test_costs_add_seconds_and_keep_the_largest_memory() -> None:
    one = {"timing": {"load": 1.0, "generate": 2.0}, "wall_seconds": 3.0, "peak_memory_bytes": 9}
    two = {"timing": {"generate": 0.5}, "wall_seconds": 0.5, "peak_memory_bytes": 7}
    assert sum_costs([one, two]) == {"timing": {"load": 1.0, "generate": 2.5}, "wall_seconds": 3.5, "peak_memory_bytes": 9}
