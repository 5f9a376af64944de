"""Checked settings, the command wrapper and the lock."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, field_validator

from jmedlora_utils.core import errors, locks
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.settings import Checked


class Layer(Checked):
    rank: int = Field(8, ge=1)
    name: str

    @field_validator("name")
    @classmethod
    def known(cls, value: str) -> str:
        if value != "q":
            raise ValueError("only q is known; write q")
        return value


class Model(Checked):
    layers: list[Layer] = Field(default=[])
    rate: float = 0.1
    seeds: dict[str, int] = Field(default={})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layer": []}, "run a: no field 'layer'; did you mean 'layers'?"),
        ({"zzz": 1}, "run a: no field 'zzz'; known: layers, rate, seeds"),
        ({"layers": [{"name": "q"}, {}]}, "run a: field 'layers.1.name' is missing; add it"),
        ({"layers": [{"name": "k"}]}, "run a: 'layers.0.name': only q is known; write q"),
        ({"layers": [{"name": "q", "rank": 0}]}, "'layers.0.rank': Input should be greater than or equal to 1, got 0"),
        ({"layers": [{"name": "q", "rank": "8"}]}, "'layers.0.rank': Input should be a valid integer, got '8'"),
        ({"rate": float("nan")}, "'rate': Input should be a finite number"),
        ({"rate": True}, "'rate'"),
        ({"seeds": {1: 1}}, "run a: the key 1 is no text; put it in quotes"),
        ([1], "run a: Input should be a valid dictionary"),
    ],
)
def test_the_first_fault_is_named_in_one_line(values: object, said: str) -> None:
    with pytest.raises(JmedloraError) as error:
        Model.read(values, "run a")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_settings_do_not_change_and_whole_numbers_serve_as_fractions() -> None:
    model = Model.read({"rate": 1}, "run a")
    assert model.rate == 1.0
    with pytest.raises(ValueError, match="frozen"):
        model.rate = 2.0


def raises(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 2, 2, ""),
        (lambda: raises(JmedloraError("a.yaml:3: no field 'x';\n  add it")), 1, "error: a.yaml:3: no field 'x'; add it\n"),
        (lambda: raises(OSError(errno.ENOSPC, "No space left on device", "/runs/a")), 1, "error: /runs/a: No space left on device\n"),
        (lambda: Path("/nowhere/settings.json").read_text(), 1, "error: /nowhere/settings.json: No such file or directory\n"),
        (lambda: raises(KeyboardInterrupt()), 130, "interrupted; run the same command again to go on\n"),
    ],
)
def test_a_command_ends_with_one_line_and_a_status(capsys: pytest.CaptureFixture[str], command, status: int, said: str) -> None:
    assert errors.exit_status(command) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_the_program_itself_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        errors.exit_status(lambda: 1 / 0)


def test_a_lock_is_held_as_long_as_a_child_that_inherited_it_and_needs_a_folder(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"

    def refused(lock: Path, said: str) -> None:
        with pytest.raises(JmedloraError, match=said), locks.alone(lock, "the adapter a"):
            pass

    with locks.alone(lock, "the adapter a") as descriptor:
        refused(lock, "the adapter a: another process is at work on it")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    refused(lock, "another process")
    child.communicate(b"\n")
    with locks.alone(lock, "the adapter a"):
        pass
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "below" / "a", r"file/below: cannot be written \(Not a directory\)")
