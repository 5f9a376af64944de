"""Figures of published models in pairs: every pair and every step of size on one axis, and points by size."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from jmedlora_utils.figures.style import HALO, NARROW, PALETTE, LineStyle, effect_axis, legend_above, looks, new_figure

LONG = 34
"""Characters of two names that fit one line."""
SIZE = "a larger model"
KINDS = {
    "LoRA": LineStyle(PALETTE["vermilion"], "D"),
    "fine-tuning": LineStyle(PALETTE["orange"], "s"),
    "continued pretraining": LineStyle(PALETTE["blue"], "o"),
    "reinforcement": LineStyle(PALETTE["green"], "^"),
    SIZE: LineStyle(PALETTE["grey"], "v"),
}


def forest(pairs: pd.DataFrame, steps: pd.DataFrame, margin: float) -> Figure:
    """Difference of every pair in points with its interval, and below them what a larger model of the same family brings.

    Args:
        pairs: Columns `exam, base, adapted, adaptation, difference, low, high` (shares) and `decides`; the others are hollow.
        steps: Columns `exam, smaller, larger, difference, low, high`.
        margin: Share; the band between minus and plus it is shaded.
    """
    larger = steps.rename(columns={"smaller": "base", "larger": "adapted"}).assign(adaptation=SIZE, decides=True)
    rows = pd.concat([pairs, larger], ignore_index=True)
    rows = rows.sort_values("adaptation", key=lambda kinds: kinds.map(list(KINDS).index), kind="stable", ignore_index=True)
    figure, axes = new_figure(NARROW, 1.2 + 0.68 * len(rows))
    ax, (low, high) = axes[0, 0], (100 * rows["low"].min(), 100 * rows["high"].max())
    effect_axis(ax, 100 * margin)
    for place, row in enumerate(rows.itertuples()):
        style = KINDS[row.adaptation]
        ax.hlines(place, 100 * row.low, 100 * row.high, color=style.colour, linewidth=2.4)
        filled = style.colour if row.decides else "white"
        dot = {"color": style.colour, "markerfacecolor": filled, "markeredgewidth": 1.8, "linestyle": "none", "zorder": 3}
        ax.plot(100 * row.difference, place, marker=style.marker, **dot)
        arrow = " →\n" if len(row.base + row.adapted) > LONG else " → "
        name = f"{row.exam}: {row.base}{arrow}{row.adapted}"
        ax.text(low - 1, place - 0.16, name, fontsize=9.5, va="bottom", linespacing=1.05, zorder=4, path_effects=HALO)
    ax.set(xlim=(low - 1.5, max(high, -low / 2) + 1), ylim=(len(rows) - 0.6, -0.9), xlabel="Difference in points (share right)", ylabel="")
    legend_above(figure, ax, named={kind: look for kind, look in KINDS.items() if kind in set(rows["adaptation"])})
    return figure


def ladder(points: pd.DataFrame) -> Figure:
    """Points of the examination against parameters, one line per family and setting.

    Args:
        points: Columns `family, setting, parameters, points` and `answers`; a total that is reported without answers is hollow.
    """
    shown = points.assign(series=points["family"] + ", " + points["setting"])
    figure, axes = new_figure(NARROW, 3.9)
    ax = axes[0, 0]
    for series, style in looks(shown["series"]).items():
        own = shown[shown["series"] == series]
        sns.lineplot(x=own["parameters"], y=own["points"], color=style.colour, ax=ax, linewidth=1.6)
        for answers, rows in own.groupby("answers"):
            fill = style.colour if answers else "white"
            dot = {"color": style.colour, "markerfacecolor": fill, "markeredgewidth": 1.8, "linestyle": "none"}
            ax.plot(rows["parameters"], rows["points"], marker=style.marker, label=series if answers else None, **dot)
    ax.set_xscale("log")
    ax.set_xticks([1e9, 3e9, 1e10, 3e10, 1e11])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e9:g}B"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="Parameters, all of them", ylabel="Points", ylim=(0, 505))
    legend_above(figure, ax, columns=1)
    return figure
