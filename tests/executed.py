"""Runs a notebook of the project in a test, as papermill does in a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import check_parameters


def execute(stem: str, target: Path, monkeypatch: Any, **parameters: Any) -> str:
    """Runs a notebook and returns all text that it shows."""
    import papermill

    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    check_parameters(stem, parameters)
    source = paths.NOTEBOOKS / f"{stem}.ipynb"
    papermill.execute_notebook(source, target, parameters=parameters, kernel_name="python3", progress_bar=False, cwd=paths.ROOT)
    shown = []
    for cell in nbformat.read(target, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            shown.append(output.get("text") or data.get("text/markdown") or data.get("text/plain") or "")
    return "\n".join(shown)
