"""Every trap of evaluation, prompting, scoring, data and tuning that the project knows of has a test that names it."""

from __future__ import annotations

import re

from jmedlora_utils import paths

TRAPS = range(1, 53)
# Tests of pages, presets and paths number other lists in the same way.
OTHER_LISTS = {"test_book", "test_config", "test_notebook", "test_notebooks", "test_paths", "test_project", "test_workflow"}


def test_every_trap_has_a_test_by_name() -> None:
    named: set[int] = set()
    for file in (paths.ROOT / "tests").rglob("test_*.py"):
        if file.stem not in OTHER_LISTS:
            for name in re.findall(r"^\s*def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
                named |= {int(number) for number in re.findall(r"trap_0?(\d+)", name)}
    assert not set(TRAPS) - named
