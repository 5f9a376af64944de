"""The figure of the registered study: one dot per world for each estimand, and the interval over worlds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import seaborn as sns
from matplotlib.figure import Figure

from jmedlora_utils.analysis.registered import POINTS, Estimate
from jmedlora_utils.figures.style import HALO, NARROW, PALETTE, effect_axis, new_figure


def by_world(estimates: Sequence[Estimate], margin: float) -> Figure:
    """Every estimand of a claim, one row each: its worlds as dots, their mean with its interval in front.

    Args:
        estimates: Estimands of one unit; shares are drawn in percent. Where there is none, the figure says so.
        margin: The rule's, in the unit of the numbers; the band between minus and plus it is shaded.
    """
    unit = estimates[0].unit if estimates else POINTS
    scale = 100 if unit == POINTS else 1
    figure, axes = new_figure(NARROW, 0.9 + 0.62 * max(1, len(estimates)))
    ax = axes[0, 0]
    effect_axis(ax, scale * margin)
    for place, found in enumerate(estimates):
        worlds = scale * found.by_seed.to_numpy(float)
        sns.scatterplot(x=worlds, y=[place] * len(worlds), ax=ax, color=PALETTE["sky"], s=28, alpha=0.8, linewidth=0, zorder=2)
        if not math.isnan(found.interval.low):
            ax.hlines(place, scale * found.interval.low, scale * found.interval.high, color=PALETTE["blue"], linewidth=2.6, zorder=3)
        ax.plot(scale * found.interval.value, place, "o", color=PALETTE["blue"], markersize=7, zorder=4)
        word = f": {found.verdict}" if found.verdict else ""
        where = {"xycoords": ("axes fraction", "data"), "xytext": (2, 8), "textcoords": "offset points"}
        ax.annotate(found.name + word, (0, place), fontsize=9.5, path_effects=HALO, **where)
    if not estimates:
        ax.annotate("not measured in this run", (0.5, 0.5), xycoords="axes fraction", ha="center")
    ax.set(ylim=(max(1, len(estimates)) - 0.5, -0.9), ylabel="", xlabel=unit.capitalize())
    return figure
