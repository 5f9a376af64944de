"""Numbers, tables and foreign text as a page shows them. Every room formats through this module."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# What Markdown, MyST or HTML would read as markup; and characters that hide or reorder text, or that no file can hold.
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-=.!|~^$:%@<>&\"'])")
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def nfkc(text: str) -> str:
    """Unicode NFKC: full-width digits and letters become ASCII ones."""
    return unicodedata.normalize("NFKC", text)


def percent(value: float, low: float | None = None, high: float | None = None, signed: bool = False) -> str:
    """`0.333, 0.1, 0.5` becomes `33.3 [10.0, 50.0]`: a share in percent (or points) with its interval."""
    form = "+z.1f" if signed else "z.1f"  # z: no minus before a zero
    text = f"{100 * value:{form}}"
    return text if low is None or high is None else f"{text} [{100 * low:{form}}, {100 * high:{form}}]"


def p_value(p: float) -> str:
    """A p value as printed: `< 0.001` below that, three decimals otherwise; empty for NaN."""
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def visible(text: object) -> str:
    """The text with a mark in place of every character that hides or reorders others, or that no file can hold."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def escape(text: object) -> str:
    """Foreign text (an answer, an article, a model's name, an error) for a Markdown page: shown as it is, never run as markup.

    Marks become HTML character references, so neither Markdown, MyST nor the browser reads them; line breaks become `<br>`.
    """
    marked = _MARKUP.sub(lambda found: f"&#{ord(found[0])};", visible(text).strip())
    return re.sub(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", "<br>", marked)


def code(text: object) -> str:
    """Foreign text as inline code, whatever backticks and line breaks it holds."""
    line = " ".join(visible(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def markdown(frame: pd.DataFrame, columns: dict[str, str] | None = None, foreign: Collection[str] = ()) -> str:
    """A Markdown pipe table: numbers to the right, text to the left; numbers are shown as they are, so format them before.

    Args:
        columns: Column to heading, in order; all columns where it is not given.
        foreign: Columns that hold text from elsewhere, such as a model's answers; they are escaped.
    """
    frame = frame.assign(**{column: frame[column].map(escape) for column in foreign})
    columns = columns or {c: str(c) for c in frame.columns}
    right = [frame[c].dtype.kind in "iuf" or _holds_numbers(frame[c]) for c in columns]
    rows = [[_cell(value) for value in row] for row in frame[list(columns)].itertuples(index=False)]
    rule = "|".join("---:" if r else ":---" for r in right)
    return "\n".join([_row(columns.values()), f"|{rule}|", *map(_row, rows)])


def numbered(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    columns: dict[str, str] | None = None,
    foot: str = "",
    foreign: Collection[str] = (),
) -> str:
    """A numbered, captioned table for a cell with `mystnb.markdown_format: myst`."""
    table = f":::{{table}} {caption}\n:name: {name}\n\n{markdown(frame, columns, foreign)}\n:::\n"
    return f"{table}\n{foot}\n" if foot else table


def _row(cells: Iterable[str]) -> str:
    """One line of a pipe table; without padding, so that a changed cell changes one line."""
    return f"| {' | '.join(cells)} |"


def _holds_numbers(column: pd.Series) -> bool:
    """Whether every text is a number, an interval, a pair of counts or a p value; or says that there is none."""
    texts = [str(value) for value in column if value is not None]
    numbers = [bool(re.fullmatch(r"(< )?[+-]?\d[\d.,\s%/\[\]+-]*", text)) for text in texts]
    return any(numbers) and all(number or text in ("", "not run") for number, text in zip(numbers, texts, strict=True))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).replace("|", "\\|").replace("\n", "<br>")
