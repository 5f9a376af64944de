"""What every notebook in git keeps to: six beats, small cells, flat parameters, no outputs."""

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import papermill
import pytest
import yaml

from jmedlora_utils.core import paths
from jmedlora_utils.core.presets import declared_parameters
from jmedlora_utils.workflow.runner import READ_EXAMINATIONS

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
DRAWS = re.compile(r"\b(?:\w+_plots|plt|sns)\.\w+\(|\w+_figure\(|\.figure\(\)")
TABLE = re.compile(r"^\|\s*reads\s*\|\s*writes\s*\|\s*needs\s*\|\s*takes\s*\|", re.MULTILINE)
NAMES = re.compile(r"[\"'](tab-[\w-]+)[\"']")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"]), "tags": cell["metadata"].get("tags", [])} for cell in cells]


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path) if cell["cell_type"] == "code"]


def figures(path: Path) -> list[dict[str, Any]]:
    return [cell["metadata"]["mystnb"]["figure"] for cell in code_cells(path) if "figure" in cell["metadata"].get("mystnb", {})]


@every_notebook
def test_a_page_that_loads_the_examination_is_made_again_when_it_arrives(path: Path) -> None:
    # A step of the preparation stops without the examination; an analysis goes on without it.
    loads = path.stem >= "31" and any("load_igakuqa" in cell["source"] for cell in code_cells(path))
    assert not loads or path.stem.startswith(READ_EXAMINATIONS)


@every_notebook
def test_opens_with_title_purpose_card_parameters_one_set_up_cell_and_an_early_result(path: Path) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    cells, code = read(path), code_cells(path)
    titles = [n for n, cell in enumerate(cells) if cell["cell_type"] == "markdown" and re.search(r"^# ", cell["source"], re.MULTILINE)]
    assert titles == [0] and cells[0]["source"].startswith("# "), "one H1, and it comes first"
    places = [number for number, cell in enumerate(cells) if cell["cell_type"] == "code"]
    opening = "\n".join(cell["source"] for cell in cells[: places[0]])
    assert TABLE.search(opening), "no table `| reads | writes | needs | takes |` before the first code"
    assert len(TABLE.split(opening)[0].split()) > 25, "no purpose between the title and the table"
    assert path.name < "11" or "research only" in opening.lower()
    assert "parameters" in code[0]["tags"] and "start(" in code[1]["source"]
    imports = [cell["id"] for cell in code[2:] if re.search(r"^(import|from) ", cell["source"], re.MULTILINE)]
    assert not imports, "imports belong in the set-up cell"
    assert places[2] - places[1] <= 2, "more than one piece of prose between the set-up and the first cell that does something"
    assert "closing_card(" in code[-1]["source"], "the end says what was written and the versions"


@every_notebook
def test_parameters_are_flat_commented_literals_one_a_line_that_papermill_sees_and_the_notebook_uses(path: Path) -> None:
    declared = declared_parameters(path.stem)
    assert len(declared) <= 20 or path.stem[:2] not in ("20", "30"), "expert settings belong in the preset"
    cell = next(cell for cell in code_cells(path) if "parameters" in cell["tags"])
    for line in cell["source"].splitlines():
        if line.strip() and not line.startswith("#"):
            assert re.match(r"\w+(: [\w\[\], ]+)? = .+  # \S", line), f"not `name = literal  # comment`: {line!r}"
    for name, value in declared.items():
        flat = not isinstance(value, dict | tuple) and not (isinstance(value, list) and any(isinstance(v, list | dict) for v in value))
        assert flat, f"{name} is nested"
        assert value is not None, f"{name}: papermill cannot tell the type of None"
    later = [ast.parse(cell["source"]) for cell in code_cells(path) if "parameters" not in cell["tags"]]
    assert not set(declared) - {node.id for tree in later for node in ast.walk(tree) if isinstance(node, ast.Name)}
    hidden = set(declared) - set(papermill.inspect_notebook(str(path)))
    assert not hidden, "an equals sign in the comment hides a parameter from papermill's help"


@every_notebook
def test_cells_are_small_stand_between_sentences_and_are_stored_clean(path: Path) -> None:
    """A page shows 88 columns of code; no more than two cells (make it, show it) stand between two pieces of prose."""
    cells, code = read(path), code_cells(path)
    sources = [cell["source"] for cell in code if "parameters" not in cell["tags"]]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
    assert statistics.median(lines) <= 8 and max(lines) <= 30
    assert not [f"{cell['id']}: {line}" for cell in code for line in cell["source"].splitlines() if len(line) > 88]
    places = [number for number, cell in enumerate(cells) if cell["cell_type"] == "code"]
    assert not [cells[n]["id"] for n in places[3:] if cells[n - 1]["cell_type"] == cells[n - 2]["cell_type"] == "code"]
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert "papermill" not in metadata and metadata["kernelspec"]["name"] == "python3"
    assert not [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")]
    assert len({cell["id"] for cell in cells}) == len(cells)


@every_notebook
def test_a_figure_has_caption_name_and_alternative_text_and_references_stay_in_the_notebook(path: Path) -> None:
    """A page that did not run stands in a book without its tables, so that no other page may count on them."""
    for cell in code_cells(path):
        shown = cell["metadata"].get("mystnb", {})
        if figure := shown.get("figure"):
            assert figure["name"] and figure["caption"].strip()
            assert shown.get("image", {}).get("alt", "").strip(), f"{figure['name']} has no alternative text"
            assert "set_title(" not in cell["source"], "the caption is the title"
        draws = re.search(DRAWS, cell["source"]) and "use_style" not in cell["source"]
        assert figure or not draws, f"cell {cell['id']} draws without a caption"
    named = {figure["name"] for figure in figures(path)} | {n for cell in code_cells(path) for n in NAMES.findall(cell["source"])}
    prose = [cell["source"] for cell in read(path) if cell["cell_type"] == "markdown"]
    assert {name for text in prose for name in re.findall(r"\{numref\}`([\w-]+)`", text)} <= named


def test_names_of_figures_and_tables_are_unique_in_the_book() -> None:
    """Also of tables that a page shows in some books only: no one build would show all of them beside each other."""
    drawn = [figure["name"] for path in NOTEBOOKS for figure in figures(path)]
    sources = [cell["source"] for path in NOTEBOOKS for cell in code_cells(path)]
    sources += [path.read_text(encoding="utf-8") for path in paths.PACKAGE.rglob("*.py")]
    tables = [name for source in sources for name in NAMES.findall(source)]
    assert len(set(drawn)) == len(drawn) and len(tables) > 50 and len(set(tables)) == len(tables)


def test_every_notebook_and_page_stands_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((paths.ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    there = [f"notebooks/{path.stem}" for path in NOTEBOOKS] + [f"book/{path.stem}" for path in paths.BOOK.glob("*.md")]
    assert sorted(there) == sorted(listed)


@pytest.mark.parametrize("path", sorted(paths.BOOK.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_opens_with_what_the_reader_gets(path: Path) -> None:
    """A sentence or more between the title and whatever comes first: a heading, a table, a directive."""
    title, _, rest = path.read_text(encoding="utf-8").partition("\n")
    assert title.startswith("# ")
    opening = re.split(r"^(?:#|\||:::|```|- )", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert len(opening.strip()) >= 20, f"{path.name} opens without a sentence"
