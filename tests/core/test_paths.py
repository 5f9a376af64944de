from pathlib import Path

import pytest

from jmedlora_utils.core import paths


def test_exam_data_comes_from_the_named_folder_or_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert paths.exam_data_dir() == tmp_path
    monkeypatch.setenv("JMEDLORA_DATA", "")
    assert paths.exam_data_dir() == paths.ROOT / ".jmedlora_cache"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JMEDLORA_DATA", "~/exam-data")
    assert paths.exam_data_dir() == tmp_path / "exam-data"


def test_relative_never_shows_a_folder_of_this_machine(tmp_path: Path) -> None:
    assert paths.relative(paths.ROOT / "runs" / "mini" / "a.json") == "runs/mini/a.json"
    assert paths.relative(tmp_path / "a.json") == "a.json"
