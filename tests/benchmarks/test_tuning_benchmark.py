"""The tuning benchmark: its arms do the same work, with invented records, in seconds. Times are for an idle machine."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from jmedlora_utils.core import paths


@pytest.fixture
def script(monkeypatch) -> Any:
    spec = importlib.util.spec_from_file_location("tuning_benchmark", paths.ROOT / "benchmarks" / "tuning.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("JMEDLORA_DATA", raising=False)
    monkeypatch.setattr(module, "ROWS", 16)
    return module


@pytest.mark.slow
def test_the_arms_do_the_same_work(script, tmp_path) -> None:
    bench = script.Bench(tmp_path, "plain_ja")
    assert bench.source.startswith("invented") and len(bench.rows) == 16
    arms = script.make_arms(bench, with_trl=False)
    first = script.assert_equal_first_step(arms, bench.rows)
    assert set(first) == {"ours", "qlora.py-like"} and first["ours"] == pytest.approx(first["qlora.py-like"], abs=script.LOSS_TOLERANCE)
    seconds, losses = script.run(arms["ours"](bench.rows))
    assert seconds > 0 and len(losses) == 2


def test_arms_that_differ_are_refused(script, tmp_path, monkeypatch) -> None:
    bench = script.Bench(tmp_path, "plain_ja")
    arms = script.make_arms(bench, with_trl=False)
    monkeypatch.setattr(script, "run", lambda trainer: (1.0, [8.0 if type(trainer).__name__ == "Trainer" else 8.1]))
    with pytest.raises(SystemExit, match="do not do the same work"):
        script.assert_equal_first_step(arms, bench.rows)


def test_invented_records_have_the_lengths_of_the_exam(script, monkeypatch) -> None:
    monkeypatch.setattr(script, "ROWS", 400)
    lengths = sorted(len(r["instruction"]) for r in script.make_records("plain_ja")[0])
    assert lengths[40] < 30 < lengths[200] < 120 < lengths[380] < 920
