"""Text from elsewhere is shown as it is and never read as markup, in a table and in a paragraph."""

import math
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


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formatting.percent(1 / 3), "33.3"),
        (formatting.percent(1 / 3, 0.1, 0.5), "33.3 [10.0, 50.0]"),
        (formatting.percent(0.05, -0.01, 0.11, signed=True), "+5.0 [-1.0, +11.0]"),
        (formatting.percent(0.05, -1e-17, 0.11, signed=True), "+5.0 [+0.0, +11.0]"),
        (formatting.p_value(0.0004), "< 0.001"),
        (formatting.p_value(0.0304), "0.030"),
        (formatting.p_value(math.nan), ""),
        (formatting.nfkc("Ａ１　ｱ"), "A1 ア"),
    ],
)
def test_values_read_as_printed(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_table_aligns_numbers_right_leaves_missing_cells_empty_and_may_have_numbers_as_columns() -> None:
    frame = pd.DataFrame({"run": ["a|b", None], "score": ["33.3 [10.0, 50.0]", "not run"], "n": [8, 9]})
    _, rule, first, second = formatting.markdown(frame, {"run": "Run", "score": "Score", "n": "n"}).splitlines()
    left, *right = rule.strip("|").split("|")
    assert left.startswith(":") and all(cell.endswith(":") and not cell.startswith(":") for cell in right)
    assert "a\\|b" in first and "None" not in second
    numbered = formatting.numbered(frame, "tab-a", "What is seen.", foot="Foot.")
    assert numbered.startswith(":::{table} What is seen.\n:name: tab-a\n\n|") and numbered.endswith(":::\n\nFoot.\n")
    assert formatting.markdown(pd.DataFrame({"run": ["a"], 0: ["1.0"]})).splitlines()[0] == "| run | 0 |"


@pytest.mark.parametrize("text", HOSTILE)
def test_marks_of_an_answer_are_shown_and_do_nothing(text: str) -> None:
    paragraph = rendered(f"before\n\n{formatting.escape(text)}\n\nafter")
    assert set(paragraph.tags) <= {"p", "br"} and paragraph.tags.count("p") == 3
    assert words(paragraph.text) == ["before", *words(text), "after"]
    name = rendered(f"before {formatting.code(text)} after")
    assert name.tags == ["p", "code"] and words(name.text) == ["before", *words(text), "after"]
    frame = pd.DataFrame({"answer": [text], "right": [1]})
    table = rendered(formatting.markdown(frame, foreign=["answer"]))
    assert [tag for tag in table.tags if tag != "br"] == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert words(table.text) == ["answer", "right", *words(text), "1"]


@given(st.text())
def test_any_text_stays_one_cell_of_a_table(text: str) -> None:
    table = rendered(formatting.markdown(pd.DataFrame({"answer": [text]}), foreign=["answer"]))
    assert [tag for tag in table.tags if tag != "br"] == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
