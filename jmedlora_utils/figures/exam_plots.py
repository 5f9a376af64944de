"""Figures of the examination: points against the marks, accuracy by year, medical fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jmedlora_utils.analysis.exam_card import pass_marks
from jmedlora_utils.figures.plotting import CYCLE, MARKERS, PALETTE, WIDTH, legend_above, new_figure, percent_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BLOCKS = {"required": "Must-pass blocks B and E", "general": "Blocks A, C, D and F"}


def points_against_marks(card: pd.DataFrame) -> Figure:
    """Points of each system in both blocks, one group a year; a black bar is the year's mark."""
    figure, axes = new_figure(WIDTH, 3.6, columns=2)
    marks, years = pass_marks(), sorted(card["year"].unique())
    for panel, (block, label) in zip(axes[0], BLOCKS.items(), strict=True):
        for i, (system, rows) in enumerate(card.groupby("system", sort=False)):
            at = [years.index(y) + _offset(i, card["system"].nunique()) for y in rows["year"]]
            panel.plot(at, rows[block], MARKERS[i % 7], color=PALETTE[CYCLE[i % 7]], label=system if block == "required" else None)
        known = [(i, marks.loc[year, f"{block}_mark"]) for i, year in enumerate(years) if year in marks.index]
        for i, mark in known:
            first = block == "required" and i == known[0][0]
            panel.hlines(mark, i - 0.42, i + 0.42, color=PALETTE["black"], label="mark" if first else None)
        panel.set_xticks(range(len(years)), [str(y) for y in years])
        panel.set_xlabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(visible=False, axis="x")
    axes[0, 0].set_ylabel("Points")
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def accuracy_by_year(text_five: pd.DataFrame) -> Figure:
    """Accuracy on the text-only five-choice questions with 95 % intervals, one group a year."""
    return _accuracy(text_five.sort_values("year", kind="stable"), "year", "Examination")


def accuracy_by_students(shares: pd.DataFrame) -> Figure:
    """Accuracy with 95 % intervals by the share of students who were right, one group a band; `shares` as `exam_errors.shares`."""
    labelled = shares.assign(group=[f"{group}\nn = {n}" for group, n in zip(shares["group"], shares["n"], strict=True)])
    return _accuracy(labelled, "group", "Students who were right")


def _accuracy(table: pd.DataFrame, by: str, label: str) -> Figure:
    """One dot a system with its interval, one group a value of the column `by`, in the order of the table."""
    figure, axes = new_figure(WIDTH, 3.4)
    panel, groups, systems = axes[0, 0], list(dict.fromkeys(table[by])), list(dict.fromkeys(table["system"]))
    for i, system in enumerate(systems):
        rows = table[table["system"] == system]
        at = [groups.index(group) + _offset(i, len(systems)) for group in rows[by]]
        spread = [100 * (rows["accuracy"] - rows["low"]), 100 * (rows["high"] - rows["accuracy"])]
        look = {"color": PALETTE[CYCLE[i % 7]], "capsize": 2, "elinewidth": 1.2}
        panel.errorbar(at, 100 * rows["accuracy"], spread, fmt=MARKERS[i % 7], label=system, **look)
    panel.set_xticks(range(len(groups)), [str(group) for group in groups])
    panel.set_xlabel(label)
    panel.set_ylabel("Accuracy (%)")
    panel.grid(visible=False, axis="x")
    percent_axis(panel, high=103)
    legend_above(figure, panel, columns=3)
    return figure


def fields(categories: pd.DataFrame, systems: tuple[str, ...], most: int = 15) -> Figure:
    """Share of items right in the largest medical fields, one dot a system."""
    shown = categories.head(most).iloc[::-1]
    figure, axes = new_figure(WIDTH, 1.2 + 0.27 * len(shown))
    panel = axes[0, 0]
    order = [c for c in categories.columns if c not in ("category", "items")]
    for system in (s for s in systems if s in order):
        i = order.index(system)
        panel.plot(100 * shown[system], range(len(shown)), MARKERS[i % 7], color=PALETTE[CYCLE[i % 7]], label=system, clip_on=False)
    panel.set_yticks(range(len(shown)), [f"{c} ({n})" for c, n in zip(shown["category"], shown["items"], strict=True)])
    panel.set_xlabel("Items right (%)")
    percent_axis(panel, axis="x")
    legend_above(figure, panel, columns=3)
    return figure


def _offset(i: int, n: int) -> float:
    return (i - (n - 1) / 2) * 0.8 / max(n, 1)
