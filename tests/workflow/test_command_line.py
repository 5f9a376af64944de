"""What a user types wrong ends in one line that says what is wrong; nothing is written."""

from pathlib import Path

import pytest

from jmedlora_utils.__main__ import main
from jmedlora_utils.models import planner
from jmedlora_utils.tuning import training

A_FILE = {"JMEDLORA_RUNS": "a-file"}
NO_FOLDER = {"JMEDLORA_DATA": "no/such/folder"}
COMMANDS = [
    (main, "exams --example", NO_FOLDER, "no/such/folder is not a folder"),
    (main, "reproduce --preset smoke --html html", A_FILE, "a-file/smoke: cannot be written"),
    (main, "reproduce --preset smoke --html html --profile nowhere", {}, "no profile 'nowhere'"),
    (main, "reproduce --preset smoke --html thesis", {}, "thesis"),
    (main, "book --html thesis", {}, "thesis"),
    (main, "reproduce --preset nowhere --html html", {}, "no preset 'nowhere'"),
    (main, "run --preset smoke --output nope", {}, "has no notebook 'nope'"),
    (main, "run --preset smoke --output 10_prepare_instructions --seed 9", {}, "with seed 1, not with seed 9; correct --seed"),
    (main, "export --adapter nowhere --out out", {}, "nowhere is no checkpoint"),
    (main, "fetch --preset nowhere", {}, "no preset 'nowhere'"),
    (main, "plan --preset paper", {"JMEDLORA_MODELS": "no/such.yaml"}, "such.yaml: no such file"),
    (training.main, "--settings nowhere", {}, "nowhere"),
    (main, "freeze --preset smoke", {}, "smoke"),
    (planner.main, "--preset nowhere", {}, "no preset 'nowhere'"),
]
USAGE = ["reproduce --preset smoke --jobs 0", "export --adapter a --out b --dtype int3", "export --adapter a", "bok", "plan"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("two years of work", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("command", "words", "changes", "said"), COMMANDS)
def test_a_wrong_word_ends_in_one_line_and_nothing_is_written(folder, capsys, command, words, changes, said) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({"JMEDLORA_RUNS": str(folder / "runs")} | changes).items():
            patch.setenv(name, value)
        status = command(words.split())
    error = capsys.readouterr().err
    assert status in (1, 2) and said in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert sorted(p.name for p in folder.rglob("*")) == ["a-file", "thesis", "thesis.txt"]


@pytest.mark.parametrize("words", USAGE)
def test_a_wrong_option_prints_how_the_command_is_used(folder: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    said = capsys.readouterr().err
    assert said.startswith("usage: ") and "error: " in said.splitlines()[-1]
