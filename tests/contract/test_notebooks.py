"""What every notebook in git keeps to: six beats, small cells, flat parameters, no outputs."""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import declared_parameters

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
DRAWS = re.compile(r"\b(?:\w+_plots|plt|sns)\.\w+\(|\w+_figure\(|\.figure\(\)")
TABLE = re.compile(r"^\|\s*reads\s*\|\s*writes\s*\|\s*needs\s*\|\s*takes\s*\|", re.MULTILINE)


def read(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"]), "tags": cell["metadata"].get("tags", [])} for cell in cells]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path) if cell["cell_type"] == "code"]


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert {"10", "11", "20", "30", "31", "33", "40"} <= {path.name[:2] for path in NOTEBOOKS}


@every_notebook
def test_name_is_two_digits_and_a_lower_case_act(path: Path) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)


@every_notebook
def test_one_h1_and_it_comes_first(path: Path) -> None:
    prose = [(number, cell["source"]) for number, cell in enumerate(read(path)) if cell["cell_type"] == "markdown"]
    assert [number for number, source in prose if re.search(r"^# ", source, re.MULTILINE)] == [0]
    assert read(path)[0]["source"].startswith("# ")


@every_notebook
def test_opens_with_purpose_card_parameters_and_one_set_up_cell(path: Path) -> None:
    cells = read(path)
    first_code = next(number for number, cell in enumerate(cells) if cell["cell_type"] == "code")
    opening = "\n".join(cell["source"] for cell in cells[:first_code])
    assert TABLE.search(opening), "no table `| reads | writes | needs | takes |` before the first code"
    assert len(TABLE.split(opening)[0].split()) > 25, "no purpose between the title and the table"
    code = code_cells(path)
    assert "parameters" in code[0]["tags"]
    assert "notebook.start(" in code[1]["source"] or "start(" in code[1]["source"]
    assert not [cell["id"] for cell in code[2:] if re.search(r"^(import|from) ", cell["source"], re.MULTILINE)], (
        "imports belong in the set-up cell"
    )


@every_notebook
def test_shows_a_result_soon(path: Path) -> None:
    """One piece of prose at most stands between the set-up and the first cell that does something."""
    code = [number for number, cell in enumerate(read(path)) if cell["cell_type"] == "code"]
    assert code[2] - code[1] <= 2


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.name > "11"], ids=lambda path: path.stem)
def test_says_that_it_is_for_research_only(path: Path) -> None:
    cells = read(path)
    opening = "\n".join(cell["source"] for cell in cells[: [cell["cell_type"] for cell in cells].index("code")])
    assert "research only" in opening.lower()


@every_notebook
def test_closes_with_what_was_written_and_the_versions(path: Path) -> None:
    assert "closing_card(" in code_cells(path)[-1]["source"]


@every_notebook
def test_parameters_are_flat_commented_literals_one_a_line(path: Path) -> None:
    declared = declared_parameters(path.stem)
    cell = next(cell for cell in code_cells(path) if "parameters" in cell["tags"])
    for line in cell["source"].splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.match(r"\w+(: [\w\[\], ]+)? = .+  # \S", line), f"not `name = literal  # comment`: {line!r}"
    for name, value in declared.items():
        flat = not isinstance(value, dict | tuple) and not (isinstance(value, list) and any(isinstance(v, list | dict) for v in value))
        assert flat, f"{name} is nested"
        assert value is not None, f"{name}: papermill cannot tell the type of None"


@every_notebook
def test_every_parameter_is_used_later(path: Path) -> None:
    used = set()
    for cell in code_cells(path):
        if "parameters" not in cell["tags"]:
            used |= {node.id for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.Name)}
    assert not set(declared_parameters(path.stem)) - used


@every_notebook
def test_papermill_sees_every_parameter(path: Path) -> None:
    import papermill

    hidden = set(declared_parameters(path.stem)) - set(papermill.inspect_notebook(str(path)))
    assert not hidden, "an equals sign in the comment hides a parameter from papermill's help"


@every_notebook
def test_cells_are_small(path: Path) -> None:
    sources = [cell["source"] for cell in code_cells(path) if "parameters" not in cell["tags"]]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
    assert statistics.median(lines) <= 8
    assert max(lines) <= 30


@every_notebook
def test_no_line_of_code_scrolls_sideways(path: Path) -> None:
    """A page shows 88 columns of code."""
    assert not [f"{cell['id']}: {line}" for cell in code_cells(path) for line in cell["source"].splitlines() if len(line) > 88]


@every_notebook
def test_code_stands_between_sentences(path: Path) -> None:
    """After the opening, no more than two cells (make it, show it) stand between two pieces of prose."""
    cells = read(path)
    code = [number for number, cell in enumerate(cells) if cell["cell_type"] == "code"]
    bare = [cells[n]["id"] for n in code[3:] if cells[n - 1]["cell_type"] == cells[n - 2]["cell_type"] == "code"]
    assert not bare


@every_notebook
def test_stored_clean(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "papermill" not in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)


@every_notebook
def test_a_figure_has_caption_name_and_alternative_text_and_one_output(path: Path) -> None:
    names = []
    for cell in code_cells(path):
        shown = cell["metadata"].get("mystnb", {})
        figure = shown.get("figure")
        if figure is not None:
            names.append(figure["name"])
            assert figure["caption"].strip()
            assert shown.get("image", {}).get("alt", "").strip(), f"{figure['name']} has no alternative text"
            assert "set_title(" not in cell["source"], "the caption is the title"
        draws = re.search(DRAWS, cell["source"]) and "use_style" not in cell["source"]
        assert figure is not None or not draws, f"cell {cell['id']} draws without a caption"
    assert len(set(names)) == len(names)


@every_notebook
def test_a_numbered_reference_points_into_its_own_notebook(path: Path) -> None:
    """A page that did not run stands in a book without its tables, so that no other page may count on them."""
    named = {cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") for cell in code_cells(path)}
    named |= {name for cell in code_cells(path) for name in re.findall(r"\"(tab-[\w-]+)\"", cell["source"])}
    prose = [cell["source"] for cell in read(path) if cell["cell_type"] == "markdown"]
    assert {name for text in prose for name in re.findall(r"\{numref\}`([\w-]+)`", text)} <= named


def test_figure_names_are_unique_in_the_book() -> None:
    names = [
        cell["metadata"]["mystnb"]["figure"]["name"]
        for path in NOTEBOOKS
        for cell in code_cells(path)
        if "figure" in cell["metadata"].get("mystnb", {})
    ]
    assert len(set(names)) == len(names)


def test_table_names_are_unique_in_the_book() -> None:
    """Also of tables that a page shows in some books only: no one build would show all of them beside each other."""
    sources = [cell["source"] for path in NOTEBOOKS for cell in code_cells(path)]
    sources += [path.read_text(encoding="utf-8") for path in paths.PACKAGE.rglob("*.py")]
    names = [name for source in sources for name in re.findall(r"[\"'](tab-[\w-]+)[\"']", source)]
    assert len(names) > 50 and len(set(names)) == len(names)


def test_every_notebook_and_page_stands_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert len(set(listed)) == len(listed)
    pages = [f"book/{path.stem}" for path in paths.BOOK.glob("*.md")]
    there = {f"notebooks/{path.stem}" for path in NOTEBOOKS} | set(pages)
    assert there == set(listed)


@pytest.mark.parametrize("path", sorted(paths.BOOK.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_opens_with_what_the_reader_gets(path: Path) -> None:
    """A sentence or more between the title and whatever comes first: a heading, a table, a directive."""
    title, _, rest = path.read_text(encoding="utf-8").partition("\n")
    assert title.startswith("# ")
    opening = re.split(r"^(?:#|\||:::|```|- )", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert len(opening.strip()) >= 20, f"{path.name} opens without a sentence"
