from pathlib import Path

import pytest

from jmedlora_utils.core import paths


def test_workspace_is_named_after_preset_and_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JMEDLORA_RUNS", str(tmp_path))
    workspace = paths.Workspace("mini", 3)
    assert workspace.root == tmp_path / "mini" / "seed3"
    inside = [
        workspace.data,
        workspace.bases,
        workspace.adapters,
        workspace.records,
        workspace.answers,
        workspace.notebooks,
        workspace.logs,
    ]
    assert len(set(inside)) == 7
    assert all(folder.parent == workspace.root for folder in inside)


def test_runs_lie_in_the_repository_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JMEDLORA_RUNS", raising=False)
    assert paths.runs_root() == paths.ROOT / "runs"


def test_exam_data_comes_from_the_named_folder_or_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path))
    assert paths.exam_data_dir() == tmp_path
    monkeypatch.setenv("JMEDLORA_DATA", "")
    assert paths.exam_data_dir() == paths.ROOT / ".jmedlora_cache"


def test_relative_never_shows_a_folder_of_this_machine(tmp_path: Path) -> None:
    assert paths.relative(paths.ROOT / "runs" / "mini" / "a.json") == "runs/mini/a.json"
    assert paths.relative(tmp_path / "a.json") == "a.json"


def test_paths_do_not_depend_on_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert (paths.ROOT / "pyproject.toml").is_file()
    assert paths.PACKAGE_DATA.is_dir()
