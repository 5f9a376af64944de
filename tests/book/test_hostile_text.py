"""A book of hostile answers: each is shown as text, runs nothing, and breaks no table, even where a notebook forgot to escape it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project

from jmedlora_utils.book import builder
from jmedlora_utils.book.answer_sources import AnswerSet, AnswerSource
from jmedlora_utils.book.explorer import Explorer
from jmedlora_utils.core import formatting
from jmedlora_utils.core.presets import load_preset
from jmedlora_utils.data.questions import Question
from jmedlora_utils.workflow import runner
from tests.hostile import HOSTILE
from tests.servers import serve_files

from .conftest import DESKTOP
from .test_builder import ran  # noqa: F401  (a fixture)

pytestmark = pytest.mark.book
ASKED = Question("q1", "made_up", "ja", HOSTILE[0], tuple(HOSTILE[:5]), frozenset("b"), section=HOSTILE[1])


def explored(text: str) -> str:
    answer = AnswerSet("made_up", text, "records", lambda: {"q1": {"response": text}}, base=text)
    return Explorer(AnswerSource("", "nowhere", (answer,), lambda _: {"q1": ASKED})).card()


def cell(number: int, kind: str, text: str) -> dict:
    output = {"output_type": "display_data", "metadata": {}, "data": {kind: text}}
    metadata = {"mystnb": {"markdown_format": "myst"}}
    return {"cell_type": "code", "id": f"h{number}", "metadata": metadata, "source": "1", "outputs": [output], "execution_count": 1}


@pytest.fixture
def page(ran: Project, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    frame = pd.DataFrame({"answer": HOSTILE, "right": range(len(HOSTILE))})
    shown = [formatting.numbered(frame, "tab-hostile", "Hostile answers.", foreign=["answer"])]
    cells = [cell(number, "text/markdown", text) for number, text in enumerate(shown)]
    cells += [cell(100 + number, "text/html", explored(text)) for number, text in enumerate(HOSTILE)]
    cells += [cell(200 + number, "text/markdown", f"{text.encode(errors='replace').decode()}\n") for number, text in enumerate(HOSTILE)]
    step = next(step for step in runner.steps(load_preset("mini")) if step.job.notebook == "20_tune_lora")
    notebook = json.loads(step.target.read_text())
    notebook["cells"] += cells
    step.target.write_text(json.dumps(notebook))
    (ran.root / "book" / "status.md").write_text("# Status\n")
    built = builder.build("mini", tmp_path / "html")
    with serve_files(built.index.parent) as address:
        yield f"{address}/notebooks/20_tune_lora.html"


def test_hostile_answers_do_nothing_and_break_nothing(browser, look, page: str) -> None:
    look(page, DESKTOP)
    assert browser.execute_script("return window.hit") is None
    assert browser.execute_script('return document.querySelectorAll(".bd-article section :is(script, iframe, img)").length') == 0
    assert browser.execute_script('return document.querySelectorAll("[onerror], [href^=javascript]").length') == 0
    rows = browser.execute_script(
        'return [...document.querySelectorAll("#tab-hostile tbody tr")].map((row) => [...row.cells].map((cell) => cell.innerText))'
    )
    assert [row[1] for row in rows] == [str(number) for number in range(len(HOSTILE))]
    for (shown, _), text in zip(rows, HOSTILE, strict=True):
        assert shown.split() == text.replace("\u202e", "\ufffd").replace("\x00", "\ufffd").replace("\ud800", "\ufffd").split()
    cards = 'return [...document.querySelectorAll(".jm-card tr")].map((row) => row.cells.length)'
    rows_of_a_card = 1 + len(ASKED.choices)
    assert browser.execute_script(cards) == [4] * rows_of_a_card * len(HOSTILE), "a card of the explorer lost or gained a cell"
