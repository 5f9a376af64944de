"""Text from elsewhere is shown as it is and never read as markup, in a table and in a paragraph."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from jmedlora_utils.core import formatting
from tests.hostile import HOSTILE


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.text += "\n" if tag == "br" else ""

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True, "linkify": True, "typographer": True}).enable("table").render(markdown))


def words(text: str) -> list[str]:
    return re.sub(r"[\x00-\x08\x0e-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text).split()


@pytest.mark.parametrize("text", HOSTILE)
def test_marks_of_an_answer_are_shown_and_do_nothing(text: str) -> None:
    paragraph = rendered(f"before\n\n{formatting.escape(text)}\n\nafter")
    assert set(paragraph.tags) <= {"p", "br"} and paragraph.tags.count("p") == 3
    assert words(paragraph.text) == ["before", *words(text), "after"]
    frame = pd.DataFrame({"answer": [text], "right": [1]})
    table = rendered(formatting.markdown(frame, foreign=["answer"]))
    assert [tag for tag in table.tags if tag != "br"] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert words(table.text) == ["answer", "right", *words(text), "1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_name_stays_one_piece_of_code(text: str) -> None:
    found = rendered(f"before {formatting.code(text)} after")
    assert found.tags == ["p", "code"]
    assert words(found.text) == ["before", *words(text), "after"]


@given(st.text())
def test_any_text_stays_one_cell_of_a_table(text: str) -> None:
    table = rendered(formatting.markdown(pd.DataFrame({"answer": [text]}), foreign=["answer"]))
    assert [tag for tag in table.tags if tag != "br"] == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
