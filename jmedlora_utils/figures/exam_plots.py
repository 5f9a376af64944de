"""Figures of examinations: points against the pass marks, accuracy by group of questions, medical fields, published scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from jmedlora_utils.analysis.exam_card import pass_marks
from jmedlora_utils.figures.style import PALETTE, WIDTH, legend_above, looks, new_figure, percent_axis, points

BLOCKS = {"required": "Must-pass blocks B and E", "general": "Blocks A, C, D and F"}


def points_against_marks(card: pd.DataFrame) -> Figure:
    """Points of each system in both blocks, one group per year; a black bar is the year's mark."""
    figure, axes = new_figure(WIDTH, 3.6, columns=2)
    marks, years = pass_marks(), sorted(card["year"].unique())
    for ax, (block, label) in zip(axes[0], BLOCKS.items(), strict=True):
        shown = card.assign(value=card[block] / 100)  # `points` draws percent
        points(ax, shown, looks(card["system"]), x="year", y="value", hue="system", order=years, dodge=0.64)
        for place, year in enumerate(years):
            if year in marks.index:
                ax.hlines(marks.loc[year, f"{block}_mark"], place - 0.42, place + 0.42, color=PALETTE["black"], label="mark")
        ax.set(xlabel=label, ylabel="Points" if block == "required" else "")
        ax.set_ylim(bottom=0)
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def accuracy_by_year(text_five: pd.DataFrame) -> Figure:
    """Accuracy on the text-only five-choice questions with 95 % intervals, one group per year."""
    return _accuracy(text_five.sort_values("year", kind="stable"), "year", "Examination")


def accuracy_by_students(shares: pd.DataFrame) -> Figure:
    """Accuracy with 95 % intervals by the share of students who were right; columns `system, group, n, accuracy, low, high`."""
    labelled = shares.assign(group=[f"{group}\nn = {n}" for group, n in zip(shares["group"], shares["n"], strict=True)])
    return _accuracy(labelled, "group", "Students who were right")


def _accuracy(table: pd.DataFrame, by: str, label: str) -> Figure:
    figure, axes = new_figure(WIDTH, 3.4)
    ax = axes[0, 0]
    shown = table.rename(columns={"accuracy": "value"})
    groups = list(dict.fromkeys(table[by]))
    points(ax, shown, looks(table["system"]), x=by, y="value", hue="system", order=groups, dodge=0.64, capsize=0.06)
    ax.set(xlabel=label, ylabel="Accuracy (%)")
    percent_axis(ax, high=103)
    legend_above(figure, ax, columns=3)
    return figure


def fields(categories: pd.DataFrame, systems: Sequence[str], most: int = 15) -> Figure:
    """Share of items right in the largest medical fields, one dot per system."""
    everyone = looks([c for c in categories.columns if c not in ("category", "items")])
    shown = categories.head(most)
    long = shown.assign(field=[f"{c} ({n})" for c, n in zip(shown["category"], shown["items"], strict=True)])
    long = long.melt("field", [s for s in systems if s in everyone], "system")
    figure, axes = new_figure(WIDTH, 1.2 + 0.27 * len(shown))
    ax = axes[0, 0]
    points(ax, long, everyone, x="value", y="field", hue="system")
    ax.set(xlabel="Items right (%)", ylabel="")
    percent_axis(ax, axis="x", high=101)
    legend_above(figure, ax, columns=3)
    return figure


def published_scores(frame: pd.DataFrame, families: Mapping[str, str]) -> Figure:
    """Scores from several sources, one panel per family that may be compared within itself.

    Args:
        frame: Columns `family` (a key of `families`), `system`, `percent` (0 to 100; rows without a number are not drawn).
        families: Family to title, in order.
    """
    drawn = frame.dropna(subset=["percent"])
    shown = [family for family in families if family in set(drawn["family"])]
    counts = [int((drawn["family"] == family).sum()) for family in shown]
    sizes = {"height_ratios": [count + 1.2 for count in counts], "sharex": True}
    figure, axes = new_figure(height=0.55 * len(shown) + 0.23 * sum(counts), rows=len(shown), **sizes)
    for family, ax, style in zip(shown, axes[:, 0], looks(shown).values(), strict=True):
        rows = drawn[drawn["family"] == family].iloc[::-1].reset_index(drop=True)
        sns.scatterplot(x=rows["percent"], y=rows.index, marker=style.marker, color=style.colour, s=42, ax=ax, clip_on=False, zorder=3)
        ax.set_yticks(rows.index, rows["system"], fontsize=9)
        ax.set_ylim(len(rows) - 0.3, -0.7)
        ax.set_title(families[family], loc="right", fontsize=9.5, pad=4)
        ax.set(xlabel="Score (%)", ylabel="")
        percent_axis(ax, axis="x")
    return figure
