"""The forest plot of the front page: claims as panels, rungs of evidence as colours."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

import pandas as pd
from matplotlib.figure import Figure

from jmedlora_utils.figures.style import HALO, NARROW, PALETTE, LineStyle, effect_axis, legend_above, new_figure

LETTERS = 58
"""Letters of one line of text across the figure."""
RUNGS = {
    "miniature": LineStyle(PALETTE["blue"], "o"),
    "small real models": LineStyle(PALETTE["vermilion"], "D"),
    "published models": LineStyle(PALETTE["green"], "s"),
}


def forest(table: pd.DataFrame, titles: Mapping[int, str], margin: float) -> Figure:
    """Every effect as a point with its interval, one panel per claim.

    Args:
        table: Columns `claim`, `rung` (a key of `RUNGS`), `what`, `value`, `low`, `high` (shares, drawn in points) and `verdict`.
        titles: Number of a claim to its title; one panel each.
        margin: Share; the band between minus and plus it is shaded.
    """
    rows = {claim: table[table["claim"] == claim] for claim in titles}
    heights = [0.5 + max(1, len(own)) for own in rows.values()]
    figure, axes = new_figure(NARROW, 0.62 * sum(heights) + 0.9, rows=len(titles), sharex=True, height_ratios=heights)
    for ax, (claim, own) in zip(axes[:, 0], rows.items(), strict=True):
        effect_axis(ax, 100 * margin)
        for place, row in enumerate(own.itertuples()):
            look = RUNGS[row.rung]
            ax.hlines(place, 100 * row.low, 100 * row.high, color=look.colour, linewidth=2.4)
            ax.plot(100 * row.value, place, look.marker, color=look.colour, markersize=7)
            said = wrap(f"{row.what}: {row.verdict}", LETTERS)
            where = {"xycoords": ("axes fraction", "data"), "xytext": (2, 6), "textcoords": "offset points", "fontsize": 8.5}
            look = {"color": look.colour, "linespacing": 1.0, "zorder": 4, "path_effects": HALO, "in_layout": False}
            ax.annotate("\n".join(said), (0, place), **look, **where)
        ax.set_title("\n".join(wrap(titles[claim], LETTERS)), loc="left", fontsize=10)
        ax.set(ylim=(max(1, len(own)) - 0.6, -0.9), xlabel="", ylabel="")
    axes[-1, 0].set_xlabel("Points")
    legend_above(figure, axes[0, 0], named={rung: look for rung, look in RUNGS.items() if rung in set(table["rung"])})
    return figure
