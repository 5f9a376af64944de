import os
import re
from pathlib import Path

import pytest

from jmedlora_utils.core import notebook, paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import Preset
from tests.servers import run_python


def preset(name: str, device: str = "any") -> Preset:
    return Preset(name=name, about="", device=device, seeds=(7, 8), prepare={}, runs=(), analyse={}, show="")


def test_start_opens_the_workspace_of_the_seed_and_refuses_a_run_name_that_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "load_preset", preset)
    assert notebook.start("mini", 3) == paths.Workspace("mini", 3)
    assert notebook.start("mini") == paths.Workspace("mini", 7)
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    with pytest.raises(JmedloraError, match=r"parameter run_name '\.\./\.\./x': a name has letters"):
        notebook.start("mini", 1, "../../x")


def test_start_refuses_a_preset_for_cards_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(notebook, "load_preset", lambda name: preset(name, device="cuda"))
    with pytest.raises(JmedloraError, match="needs a CUDA GPU and torch sees none; use PRESET=mini"):
        notebook.start("paper", 1, card=True)
    assert notebook.start("paper", 1) == paths.Workspace("paper", 1), "data are prepared and scores are read without one"


def test_no_progress_bar_under_papermill(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    assert list(notebook.progress(range(3), "rows")) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    monkeypatch.delenv("JMEDLORA_PROGRESS")
    assert list(notebook.progress(range(3), "rows")) == [0, 1, 2]
    assert "rows" in capfd.readouterr().err


def test_the_closing_card_shows_versions_and_files_but_no_folder_of_this_machine(tmp_path: Path) -> None:
    card = notebook.closing_card([paths.ROOT / "runs" / "mini" / "records" / "a.json", tmp_path / "b.json"])
    assert all(part in card for part in ("`runs/mini/records/a.json`", "`b.json`", "numpy"))
    assert str(paths.ROOT) not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["", "towns = 6", "# Parameters\ntowns = 8\n"], ""),
        (["", "towns = 6", "import os", "town = 3"], ""),  # a cell of the reader's own, no parameter of papermill
        (["", "towns = 6", "# Parameters\ntown = 6\n"], "papermill: this notebook has no parameter 'town'; did you mean 'towns'?"),
        (["", "towns = 6", '# Parameters\ntowns = "six"\n'], "parameter 'towns' of this notebook takes int"),
        (["", "years = [2018]", '# Parameters\nyears = ["all"]\n'], "takes list of int"),
        ([], ""),
    ],
)
def test_what_papermill_injects_must_be_declared(cells: list[str], said: str) -> None:
    if said:
        with pytest.raises(JmedloraError, match=re.escape(said)):
            notebook.check_injected(cells)
    else:
        notebook.check_injected(cells)


def test_papermill_by_hand_with_a_misspelt_parameter_is_refused_by_the_notebook(tmp_path: Path) -> None:
    command = ["-m", "papermill", str(paths.NOTEBOOKS / "11_prepare_exams.ipynb"), str(tmp_path / "out.ipynb")]
    done = run_python(*command, "-p", "exam", "mini", "-k", "python3", cwd=paths.NOTEBOOKS, PYTHONPATH=os.environ.get("PYTHONPATH"))
    assert done.returncode != 0 and "has no parameter 'exam'; did you mean 'exams'?" in done.stderr
