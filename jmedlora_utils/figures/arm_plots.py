"""The figures of the small real models: every arm, and the untuned models on whole examinations, beside chance."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from jmedlora_utils.figures.style import NARROW, PALETTE, LineStyle, chance_line, legend_above, looks, new_figure, points

GROUPS = {
    "taught": LineStyle(PALETTE["blue"], "o"),
    "taught, other wording": LineStyle(PALETTE["sky"], "D"),
    "untaught": LineStyle(PALETTE["vermilion"], "s"),
}


def by_arm(table: pd.DataFrame) -> Figure:
    """One panel per base and material, one row per arm, one marker per group of questions.

    Args:
        table: What `small_models.by_arm` returns; groups are keys of `GROUPS`, shares are drawn in percent, arms in their order.
    """
    panels = list(table.groupby(["base", "material"], sort=False))
    heights = [0.6 + own["arm"].nunique() for _, own in panels]
    figure, axes = new_figure(NARROW, 0.46 * sum(heights) + 1.2, rows=len(panels), sharex=True, height_ratios=heights)
    for ax, ((base, material), own) in zip(axes[:, 0], panels, strict=True):
        chance_line(ax, own["chance"].mean(), axis="x")
        points(ax, own, GROUPS, x="value", y="arm", hue="group", dodge=0.5, markersize=5)
        ax.set_title(f"{base}, {material}", loc="left", fontsize=10)
        ax.set(xlim=(-3, 103), ylim=(own["arm"].nunique() - 0.3, -0.7), xlabel="", ylabel="")
        ax.tick_params(axis="y", labelsize=9.5)
        sns.despine(ax=ax, left=True)
    figure.get_layout_engine().set(h_pad=0.12)  # a title belongs to the panel below it
    axes[-1, 0].set_xlabel("Accuracy, scorer strict (%)")
    legend_above(figure, axes[0, 0], named=GROUPS)
    return figure


def whole_examinations(table: pd.DataFrame, readings: Sequence[str]) -> Figure:
    """One panel per examination and model, one row per number of worked examples, one marker per reading.

    Args:
        table: What `small_models.whole_examinations` returns; shares are drawn in percent.
        readings: Those of its readings that are drawn.
    """
    panels = list(table.groupby(["exam", "base"], sort=False))
    rows = max(1, len(panels))
    figure, axes = new_figure(NARROW, 0.9 + 1.25 * rows, rows=rows, sharex=True)
    styles, widest = looks(readings), 100 * table["high"].max() if panels else 100.0
    for ax, ((exam, base), own) in zip(axes[:, 0], panels, strict=False):
        chance_line(ax, own["chance"].mean(), axis="x")
        shown = own.assign(shots=own["shots"].map("{}-shot".format))
        points(ax, shown, styles, x="value", y="shots", hue="reading", dodge=0.5, markersize=5)
        ax.set_title(f"{base}, {exam}", loc="left", fontsize=10)
        ax.set(xlim=(0, widest + 3), ylim=(own["shots"].nunique() - 0.3, -0.7), xlabel="", ylabel="")
    axes[-1, 0].set_xlabel("Right answers (%)")
    legend_above(figure, axes[0, 0], named=styles)
    return figure
