"""Executed notebooks as pages: without traces of this machine or library noise, and with the evidence of each figure and table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jmedlora_utils.book import provenance
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.presets import declared_parameters, load_preset
from jmedlora_utils.core.records import read_json

COLAB_NOTEBOOKS = ("20_", "30_")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|Users|private|work|workspace|mnt|opt|var)/[\w.~-][^\s'\"<>)]*")
NUMBERED_TABLE = re.compile(r"^:::\{table\}.*?^:::$", re.MULTILINE | re.DOTALL)
# What libraries say on stderr whatever a notebook does: warnings with their own file and line, and bitsandbytes without its CPU kernels.
LIBRARY_NOISE = re.compile(
    r"^[^\n]*/site-packages/[^\n]*:\d+: \w*Warning: [^\n]*(?:\n  [^\n]*)?\n?|^[^\n]*from kernels-community[^\n]*\n?", re.MULTILINE
)

Notebook = dict[str, Any]


def page(path: Path, stem: str) -> tuple[Notebook, list[str]]:
    """The executed copy as it stands in the book, and what was left out of it, one line each.

    Left out are papermill's traces, whatever was written to stderr (it is in the notebook's log), and paths of this machine.

    Raises:
        JmedloraError: A cell raised or never ran.
    """
    notebook, warnings = read_json(path), []
    parameters = declared_parameters(stem) | notebook["metadata"].pop("papermill", {}).get("parameters", {})
    for number, cell in enumerate(notebook["cells"], start=1):
        where = f"{paths.relative(path)}, cell {number}"
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("hide-input")  # like the cell of defaults above it
        if cell["cell_type"] == "code":
            cell["outputs"], said = _clean(cell, where)
            warnings += said
    return _with_evidence(notebook, stem, parameters), warnings


def _clean(cell: dict[str, Any], where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """A code cell's outputs for a page, and what was left out."""
    if cell["execution_count"] is None and "".join(cell["source"]).strip():
        raise JmedloraError(f"{where}: the code was not executed; run the notebook again")
    kept, warnings = [], []

    def shorten(text: str) -> str:
        text = text.replace(f"{paths.ROOT}/", "")
        warnings.extend(f"{where}: the output shows {found}, a path of this machine" for found in MACHINE_PATH.findall(text))
        return MACHINE_PATH.sub(lambda found: f"…/{found[0].rstrip('/').rpartition('/')[2]}", text)

    for output in cell["outputs"]:
        if output["output_type"] == "error":
            raise JmedloraError(f"{where}: the code raised {output['ename']}; correct it and run the notebook again")
        if output.get("name") == "stderr":
            text = LIBRARY_NOISE.sub("", "".join(output["text"])).strip()
            warnings += [f"{where}: wrote to stderr: {text.splitlines()[0]}"] if text else []
        else:
            kept.append(_map_text(output, shorten))
    return kept, warnings


def _map_text(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """The value with every text changed, images left out; lists of lines are joined first."""
    if key.startswith("image/"):
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return change("".join(value)) if all(isinstance(v, str) for v in value) else [_map_text(v, change) for v in value]
    return {k: _map_text(v, change, k) for k, v in value.items()} if isinstance(value, dict) else value


def _with_evidence(notebook: Notebook, stem: str, parameters: dict[str, Any]) -> Notebook:
    """Puts a line under each figure and table of an analysis notebook: the files it rests on, and what made it.

    A cell names its files in its metadata, key `evidence`; otherwise those of the whole notebook count (`provenance.EVIDENCE_OF`).
    """
    if stem not in provenance.EVIDENCE_OF:
        return notebook
    cells = []
    for cell in notebook["cells"]:
        tables = [len(NUMBERED_TABLE.findall(_markdown(output))) for output in cell.get("outputs", [])]
        if not (sum(tables) or "figure" in cell["metadata"].get("mystnb", {})):
            cells.append(cell)
            continue
        line = provenance.evidence_line(stem, cell["metadata"].get("evidence") or provenance.EVIDENCE_OF[stem], parameters)
        cells.append(cell | {"outputs": [_between_tables(output, line) for output in cell["outputs"]]})
        cells.append({"cell_type": "markdown", "id": f"{cell['id'][:50]}-evidence", "metadata": {}, "source": line})
    return notebook | {"cells": cells}


def _markdown(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/markdown", ""))


def _between_tables(output: dict[str, Any], line: str) -> dict[str, Any]:
    """The output with the line under each of its tables but the last; the cell that follows serves that one."""
    shown = _markdown(output)
    if len(ends := [table.end() for table in NUMBERED_TABLE.finditer(shown)]) < 2:
        return output
    pieces = [shown[start:end] for start, end in itertools.pairwise([0, *ends[:-1], len(shown)])]
    return output | {"data": output["data"] | {"text/markdown": f"\n\n{line}\n".join(pieces)}}


def code_only(stem: str) -> Notebook:
    """A notebook as it stands in git, with a note that it was not run for this book."""
    notebook = read_json(paths.NOTEBOOKS / f"{stem}.ipynb")
    runs = {job.notebook: preset.name for preset in map(load_preset, ("hospital", "small", "mini")) for job in preset.jobs()}
    named = "" if runs[stem] == "mini" else f" PRESET={runs[stem]}"
    kept = runs[stem] if (paths.RESULTS / runs[stem] / "evidence.json").is_file() else ""
    records = f"Its records in the committed study are {{ref}}`listed on the status page <{provenance.LABEL}{kept}>`." if kept else ""
    note = (
        ":::{note}\n**Code only.** This copy of the book is built from committed evidence, so this notebook was not run for it. "
        f"`make reproduce{named}` runs it and shows its results here. {records or 'No run of it is committed yet.'}\n:::"
    )
    notebook["cells"].insert(1, {"cell_type": "markdown", "id": "not-run", "metadata": {}, "source": note})
    return notebook


def stub(stem: str, preset: str) -> str:
    """A page in place of a notebook that did not run, so that links to it hold."""
    title = "".join(read_json(paths.NOTEBOOKS / f"{stem}.ipynb")["cells"][0]["source"]).splitlines()[0]
    return f"{title}\n\nThis copy of the book was built from the preset `{preset}`, which does not run this notebook.\n"


def launch_cell(address: str, branch: str, stem: str) -> dict[str, Any]:
    """Colab, which has GPUs, for the notebooks that use one; Binder for the rest."""
    repository = address.removesuffix("/").removeprefix("https://github.com/")
    if stem.startswith(COLAB_NOTEBOOKS):
        link = f"[Open in Colab](https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{stem}.ipynb)"
    else:
        link = f"[Open in Binder](https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/notebooks/{stem}.ipynb)"
    return {"cell_type": "markdown", "id": "launch", "metadata": {}, "source": link}
