import errno
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmedlora_utils.core import records
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import Record


def make(**changes: object) -> Record:
    return Record(**({"kind": "tune", "name": "20_tune__a", "preset": "mini", "seed": 1} | changes))


def test_a_record_survives_the_round_trip_and_equal_runs_compare_equal_but_for_time_and_machine(tmp_path: Path) -> None:
    record = make(config={"rank": 8, "base": "en-large"}, metrics={"loss": [{"step": 1, "loss": 2.5}]}, counts={"rows": 10})
    path = records.write_record(tmp_path, record)
    assert path == tmp_path / "20_tune__a.json" and records.read_record(path) == record
    one, two = make(wall_seconds=1.0, device="CPU, 2 cores"), make(wall_seconds=2.0, device="1 x H200", peak_memory_bytes=5)
    assert one != two and one.comparable() == two.comparable() != make(seed=2).comparable()


@pytest.mark.parametrize("failing", ["fsync", "replace", "fdopen", "mkstemp"])
def test_a_full_disk_or_no_number_leaves_the_old_record_and_nothing_else(tmp_path: Path, monkeypatch, failing: str) -> None:
    path = records.write_record(tmp_path, make(counts={"rows": 1}))
    before = path.read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.tempfile if failing == "mkstemp" else os, failing, full)
    with pytest.raises(JmedloraError, match=r"20_tune__a\.json: could not be written \(No space left on device\); free some space"):
        records.write_record(tmp_path, make(counts={"rows": 2}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_record(tmp_path, make(metrics={"loss": float("nan")}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw | {"extra": 1}, "no field 'extra'"),
        (lambda raw: {k: v for k, v in raw.items() if k != "seed"}, "field 'seed' is missing"),
        (lambda raw: raw | {"kind": "tuning"}, "'kind': Input should be 'prepare'"),
        (lambda raw: raw | {"schema_version": 99}, "schema version 99, this code reads 1"),
        (lambda raw: [raw], "got [{"),
    ],
)
def test_a_malformed_record_is_named(tmp_path: Path, change, said: str) -> None:
    path = records.write_record(tmp_path, make())
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(JmedloraError, match=r"20_tune__a\.json: .*run its step again") as error:
        records.read_record(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b'{"kind":\n oops}', "a.json:2: not valid JSON"), (b"", "a.json:1: not valid JSON"), (None, "a.json: no such file")],
)
def test_a_file_that_is_no_json_is_named_with_its_line(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    for read in (records.read_record, records.read_json):
        with pytest.raises(JmedloraError, match=re.escape(said)):
            read(path)


def test_analysis_loads_finished_records_and_refuses_smoke(tmp_path: Path) -> None:
    folder = tmp_path / "seed1" / "records"
    records.write_record(folder, make())
    records.write_record(folder, make(name="b", status="cancelled"))
    records.write_record(folder, make(name="c", kind="evaluate"))
    records.write_record(tmp_path / "elsewhere", make(name="d"))
    assert [r.name for r in records.load_records(tmp_path)] == ["20_tune__a", "c"]
    assert [r.name for r in records.load_records([folder], kind="evaluate")] == ["c"]
    records.write_record(folder, make(name="e", preset="smoke"))
    with pytest.raises(JmedloraError, match="smoke runs test the code and are no evidence"):
        records.load_records(tmp_path)
    assert len(records.load_records(tmp_path, allow_smoke=True)) == 3
    with pytest.raises(JmedloraError, match="no finished score record below"):
        records.load_records(tmp_path, kind="score")


ROW = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=20), st.booleans(), st.none()), max_size=4)


@given(rows=st.lists(ROW, max_size=5))
def test_rows_survive_jsonl(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    assert records.read_jsonl(records.write_jsonl(path, rows)) == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"a": 1', "not valid JSON"), ("[1]", "expected a JSON object, found list"), ('{"a": "\\ud83d"}', "half of a surrogate pair")],
)
def test_jsonl_may_open_with_a_byte_order_mark_and_hold_blank_lines_and_a_broken_line_is_named(tmp_path, line, said) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\ufeff{"a": 1}\n\n{"a": 2}\r\n', encoding="utf-8")
    assert list(records.iter_jsonl(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text(f'{{"a": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(JmedloraError, match=rf"a\.jsonl:2: {said}.*fix or remove the line"):
        records.read_jsonl(path)


def test_a_run_hands_one_commit_to_its_notebooks_and_without_git_none_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMEDLORA_GIT_COMMIT", "abc")
    monkeypatch.setenv("JMEDLORA_GIT_DIRTY", "1")
    assert records.git_state() == ("abc", True)
    assert make().git_commit == "abc"
    monkeypatch.delenv("JMEDLORA_GIT_COMMIT")
    monkeypatch.setenv("PATH", "")
    assert records.git_state() == ("", False)
