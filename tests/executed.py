"""Runs a notebook of the project in a test, as papermill does in a preset."""

import subprocess
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import check_parameters
from tests.servers import run_python


def execute(stem: str, target: Path, monkeypatch: Any, **parameters: Any) -> str:
    """Runs a notebook and returns all text that it shows."""
    monkeypatch.setenv("JMEDLORA_PROGRESS", "0")
    check_parameters(stem, parameters)
    source = paths.NOTEBOOKS / f"{stem}.ipynb"
    papermill.execute_notebook(source, target, parameters=parameters, kernel_name="python3", progress_bar=False, cwd=paths.ROOT)
    return shown(target)


def run_papermill(stem: str, folder: Path, data: Path | None = None, **parameters: Any) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs a notebook by papermill's command, in a folder that is not the repository's, with its runs in `folder/runs`."""
    environment = {"JMEDLORA_RUNS": str(folder / "runs"), "JMEDLORA_PROGRESS": "0", "PYTHONPATH": str(paths.ROOT)}
    environment |= {"JMEDLORA_DATA": str(data)} if data else {}
    output = folder / f"{stem}.ipynb"
    command = ["-m", "papermill", "--no-progress-bar", str(paths.NOTEBOOKS / f"{stem}.ipynb"), str(output)]
    command += ["-y", yaml.safe_dump(parameters)] if parameters else []
    return run_python(*command, cwd=folder, **environment), output


def shown(notebook: Path) -> str:
    """All text that a reader sees in an executed notebook."""
    outputs = [output for cell in nbformat.read(notebook, as_version=4).cells for output in cell.get("outputs", [])]
    found = [(o.get("text"), o.get("data", {}).get("text/markdown"), o.get("data", {}).get("text/plain")) for o in outputs]
    return "\n".join(next(filter(None, texts), "") for texts in found)
