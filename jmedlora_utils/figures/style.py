"""The one look of every figure: seaborn's theme with this project's palette and fonts, and the pieces that figures share.

Figures are narrow so that their text stays readable on a phone and in print. Colours come from the
Okabe-Ito set, and whatever a colour says a marker or a line style says too. Axis labels are English; Japanese appears
in categories only, and a glyph that the fonts lack raises an error instead of leaving a box.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

PALETTE = {
    "blue": "#0072B2",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
    "black": "#222222",
    "grey": "#7A7A7A",
}
CYCLE = ("blue", "vermilion", "green", "orange", "purple", "sky", "black", "grey")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ENGLISH_BLUES = ("#8CC4E8", "#3D94CC", "#0072B2", "#004A73", "#00263B")
JAPANESE_REDS = ("#D55E00", "#8F3F00", "#F0955A")
OTHER_GREENS = ("#009E73", "#005C43", "#66C5AB")
WIDTH, HEIGHT = 4.8, 3.5
NARROW = 4.4
"""Inches: narrow figures keep their letters large on a phone."""
HALO = [withStroke(linewidth=3, foreground="white")]
"""The path effects of a label that lines may cross."""


@dataclass(frozen=True)
class LineStyle:
    """How one series is drawn: the same in every figure."""

    colour: str
    marker: str
    dashes: str = "-"


def use_style() -> None:
    """Sets the look of every figure that follows; from here on a glyph that no font has is an error."""
    import matplotlib_fontja

    matplotlib_fontja.japanize()
    look = {
        "font.family": ["DejaVu Sans", "IPAexGothic"],
        "axes.unicode_minus": False,
        "axes.edgecolor": PALETTE["black"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "grid.color": "#E3E3E3",
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.9,
        "lines.markersize": 6.5,
        "legend.frameon": False,
        "figure.figsize": (WIDTH, HEIGHT),
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 180,
        "savefig.bbox": "tight",
    }
    sizes = {"font.size": 11, "axes.labelsize": 11, "legend.fontsize": 9.5, "xtick.labelsize": 10.5, "ytick.labelsize": 10.5}
    sns.set_theme(style="whitegrid", palette=[PALETTE[name] for name in CYCLE], rc=look | sizes)
    warnings.filterwarnings("error", message=r"Glyph \d+ .* missing from")
    _show_bare_figures()


def _show_bare_figures() -> None:
    """Lets a notebook draw a bare `Figure`: without pyplot nobody tells IPython how."""
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if (shell := get_ipython()) is not None:
        select_figure_formats(shell, {"png"}, bbox_inches="tight")


def new_figure(width: float = WIDTH, height: float = HEIGHT, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure that a notebook shows once, and its axes in an array of shape (rows, columns).

    pyplot would show it a second time at the end of the cell, which breaks a captioned cell; a bare `Figure` does not.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def looks(names: Sequence[str]) -> dict[str, LineStyle]:
    """Colours and markers for series without a fixed look, in their order; dashed from the ninth on."""
    return {
        name: LineStyle(PALETTE[CYCLE[i % len(CYCLE)]], MARKERS[i % len(MARKERS)], "-" if i < len(CYCLE) else "--")
        for i, name in enumerate(dict.fromkeys(names))
    }


def base_styles(bases: pd.DataFrame) -> dict[str, LineStyle]:
    """One style per base: English-centric bases in blues, darker with size; Japanese-centric ones in dashed reds; others in greens.

    Args:
        bases: Columns `base`, `size_params`, `centric` (`english`, `japanese` or another); further columns and repeats are ignored.
    """
    unique = bases[["base", "size_params", "centric"]].drop_duplicates("base").sort_values(["size_params", "base"])
    styles: dict[str, LineStyle] = {}
    for centric, group in unique.groupby("centric"):
        shades = {"japanese": JAPANESE_REDS, "english": ENGLISH_BLUES}.get(str(centric), OTHER_GREENS)
        start = max(0, min(1, 4 - len(group))) if centric == "english" else 0
        for rank, base in enumerate(group["base"]):
            marker = "D" if centric == "japanese" and rank == 0 else MARKERS[rank % len(MARKERS)]
            styles[base] = LineStyle(shades[(start + rank) % len(shades)], marker, "--" if centric == "japanese" else "-")
    return styles


def points(ax: Axes, table: pd.DataFrame, styles: Mapping[str, LineStyle], lines: bool = False, **options: Any) -> None:
    """Draws estimates with their intervals, one look per series, with `seaborn.pointplot`.

    Args:
        ax: Where to draw.
        table: Columns `value` and, where there are intervals, `low` and `high` (shares, 0 to 1; drawn in percent), and those that
            `options` name.
        styles: Series to its look; the series is the column `hue` of `options`, and is drawn in this order.
        lines: Whether to join the points of a series.
        options: What `seaborn.pointplot` takes: `x`, `y`, `hue`, `order`, `dodge` and others.
    """
    ends = [end for end in ("low", "value", "high") if end in table]
    # Three rows per estimate, so that seaborn's own interval of them runs from `low` to `high` and their median is the value.
    long = pd.concat([table.assign(value=100 * table[end]) for end in ends], ignore_index=True)
    drawn = [name for name in styles if name in set(long[options["hue"]])]
    chosen, before = [styles[name] for name in drawn], set(ax.lines)
    sns.pointplot(
        long,
        ax=ax,
        hue_order=drawn,
        palette=[style.colour for style in chosen],
        markers=[style.marker for style in chosen],
        linestyles=[style.dashes if lines else "none" for style in chosen],
        estimator="median",
        errorbar=("pi", 100) if len(ends) == 3 else None,
        err_kws={"linewidth": 1.3},
        **options,
    )
    for artist in set(ax.lines) - before:  # a marker at 0 or 100 stays whole
        artist.set_clip_on(False)
        artist.set_in_layout(False)
    if ax.get_legend() is not None:
        ax.get_legend().remove()


def chance_line(axes: Axes, chance: float, axis: str = "y") -> None:
    """Dotted line at the chance level (0 to 1), labelled once."""
    draw = axes.axhline if axis == "y" else axes.axvline
    draw(100 * chance, color=PALETTE["black"], linestyle=":", linewidth=1.3, label="chance", zorder=1)


def effect_axis(ax: Axes, margin: float) -> None:
    """An axis of effects, one below the other: a band within the margin, a line at zero, and no scale for the rows."""
    ax.axvspan(-margin, margin, color=PALETTE["grey"], alpha=0.13, zorder=0)
    ax.axvline(0, color=PALETTE["black"], linewidth=1, zorder=1)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    sns.despine(ax=ax, left=True)


def legend_above(figure: Figure, axes: Axes, columns: int = 2, named: Mapping[str, LineStyle] | None = None) -> None:
    """Puts the legend above the axes, where it hides no data, with the `named` looks beside what is drawn; the chance line comes last."""
    for name, look in (named or {}).items():
        axes.plot([], [], look.marker, color=look.colour, label=name)
    if axes.get_legend() is not None:
        axes.get_legend().remove()
    found = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    entries = sorted(found, key=lambda label: label == "chance")
    figure.legend([found[e] for e in entries], entries, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.2)
