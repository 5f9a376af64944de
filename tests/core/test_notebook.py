import os
from pathlib import Path

import pytest

from jmedlora_utils.core import notebook, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import EVALUATE_NOTEBOOK, TUNE_NOTEBOOK, Preset


def preset(name: str, device: str = "any") -> Preset:
    return Preset(name=name, about="", device=device, seeds=(7, 8), prepare={}, runs=(), analyse={}, show="")


def test_start_opens_the_workspace_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "load_preset", preset)
    assert notebook.start("mini", 3) == paths.Workspace("mini", 3)
    assert notebook.start("mini") == paths.Workspace("mini", 7)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_start_refuses_a_preset_for_cards_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(notebook, "load_preset", lambda name: preset(name, device="cuda"))
    with pytest.raises(JmedloraError, match="needs a CUDA GPU"):
        notebook.start("paper", 1, card=True)
    assert notebook.start("paper", 1) == paths.Workspace("paper", 1), "data are prepared and scores are read without one"


def test_only_the_notebooks_that_tune_and_ask_want_a_card() -> None:
    asking = {path.stem for path in paths.NOTEBOOKS.glob("*.ipynb") if "card=True" in path.read_text(encoding="utf-8")}
    assert asking == {TUNE_NOTEBOOK, EVALUATE_NOTEBOOK}


def test_start_refuses_a_misspelt_preset() -> None:
    with pytest.raises(JmedloraError, match="no preset 'smokee'"):
        notebook.start("smokee", 1)


def test_trap_13_no_progress_bar_under_papermill(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    assert list(notebook.progress(range(3), "rows")) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("JMEDLORA_PROGRESS")
    assert list(notebook.progress(range(3), "rows")) == [0, 1, 2]
    assert "rows" in capfd.readouterr().err


def test_the_closing_card_shows_versions_and_files_but_no_folder_of_this_machine(tmp_path: Path) -> None:
    card = notebook.closing_card([paths.ROOT / "runs" / "mini" / "records" / "a.json", tmp_path / "b.json"])
    assert "`runs/mini/records/a.json`" in card
    assert "`b.json`" in card
    assert "numpy" in card
    assert str(paths.ROOT) not in card
    assert str(tmp_path) not in card
