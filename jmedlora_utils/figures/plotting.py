"""The one look of every figure: palette, fonts, and the figures that several notebooks draw.

Figures are 5.6 inches wide so that their text stays readable on a phone and in print. Colours come from the
Okabe-Ito set, and whatever a colour says a marker or a line style says too. Axis labels are English; Japanese stands
in categories only, and a glyph the fonts lack raises instead of leaving a box.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
FACTS = {
    "taught": ("taught, trained phrasing", PALETTE["blue"], "o"),
    "taught_held_out_phrasing": ("taught, held-out phrasing", PALETTE["sky"], "s"),
    "untaught": ("untaught (control)", PALETTE["grey"], "D"),
    "untaught_held_out_phrasing": ("untaught, held-out phrasing", PALETTE["black"], "d"),
    "general": ("general exam", PALETTE["green"], "^"),
}
ENGLISH_BLUES = ("#8CC4E8", "#3D94CC", "#0072B2", "#004A73", "#00263B")
JAPANESE_REDS = ("#D55E00", "#8F3F00", "#F0955A")
OTHER_GREENS = ("#009E73", "#005C43", "#66C5AB")
WIDTH, HEIGHT = 5.6, 3.5


@dataclass(frozen=True)
class LineStyle:
    """How one series is drawn: the same in every figure."""

    colour: str
    marker: str
    dashes: str


def use_style() -> None:
    """Sets the look for every figure that follows; a glyph that no font has is an error from here on."""
    import matplotlib as mpl
    import matplotlib_fontja

    matplotlib_fontja.japanize()
    mpl.rcParams.update(
        {
            "font.family": ["DejaVu Sans", "IPAexGothic"],
            "font.size": 11,
            "axes.unicode_minus": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": mpl.cycler(color=[PALETTE[name] for name in CYCLE]),
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.7,
            "lines.linewidth": 1.9,
            "lines.markersize": 6.5,
            "legend.frameon": False,
            "legend.fontsize": 9.5,
            "figure.figsize": (WIDTH, HEIGHT),
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "savefig.dpi": 180,
            "savefig.bbox": "tight",
        }
    )
    warnings.filterwarnings("error", message=r"Glyph \d+ .* missing from")
    _show_bare_figures()


def _show_bare_figures() -> None:
    """Lets a notebook draw a bare `Figure`: without pyplot nobody tells IPython how."""
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if (shell := get_ipython()) is not None:
        select_figure_formats(shell, {"png"}, bbox_inches="tight")


def new_figure(
    width: float = WIDTH, height: float = HEIGHT, rows: int = 1, columns: int = 1, **options: object
) -> tuple[Figure, np.ndarray]:
    """A figure with `rows` x `columns` axes that a notebook shows once.

    pyplot would show it a second time at the end of the cell, which breaks a captioned cell; a bare `Figure` does not.

    Returns:
        The figure and its axes, an array of shape (rows, columns).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def base_styles(bases: pd.DataFrame) -> dict[str, LineStyle]:
    """One style a base: English-centric bases in blues, darker with size; Japanese-centric ones in dashed reds; others in greens.

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


def size_label(parameters: float) -> str:
    """`1234567` becomes `1.2M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:.0f}"


def percent_axis(axes: Axes, low: float = 0.0, high: float = 100.0, axis: str = "y") -> None:
    """Fixes an axis to percent so that neighbouring figures can be compared."""
    getattr(axes, f"set_{axis}lim")(low, high)


def chance_line(axes: Axes, chance: float, axis: str = "y") -> None:
    """Dotted line at the chance level, in percent, labelled once."""
    draw = axes.axhline if axis == "y" else axes.axvline
    draw(100 * chance, color=PALETTE["black"], linestyle=":", linewidth=1.3, label="chance", zorder=1)


def legend_above(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Puts the legend above the axes, where it hides no data; the chance line comes last."""
    entries = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] == "chance")
    figure.legend(*zip(*entries, strict=True), loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.2)


def accuracy_by_steps(
    estimates: pd.DataFrame, styles: Mapping[str, LineStyle], chance: float | None = None, label: str = "Accuracy on taught facts (%)"
) -> Figure:
    """Score against tuning steps, one line a base, with intervals.

    Args:
        estimates: One row a base and step; columns `base`, `steps`, `value`, `low`, `high` (shares, 0 to 1).
        styles: See `base_styles`.
        chance: Chance level, 0 to 1; None draws no line.
        label: Label of the y axis.
    """
    figure, axes = new_figure(height=3.8)
    ax = axes[0, 0]
    steps = sorted(estimates["steps"].unique())
    place = {step: i for i, step in enumerate(steps)}
    order = [base for base in styles if base in set(estimates["base"])]
    for shift, base in enumerate(order):
        rows = estimates[estimates["base"] == base].sort_values("steps")
        x = rows["steps"].map(place).to_numpy(float) + 0.05 * (shift - (len(order) - 1) / 2)
        _interval_line(ax, x, rows, styles[base], base)
    if chance is not None:
        chance_line(ax, chance)
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set(xlabel="Tuning steps (0 = base model)", ylabel=label)
    percent_axis(ax, high=103)
    legend_above(figure, ax, columns=3)
    return figure


def dot_intervals(
    estimates: pd.DataFrame, chance: float | None = None, label: str = "Accuracy (%)", facts: Sequence[str] = tuple(FACTS)
) -> Figure:
    """Taught against untaught: one row a condition, one dot a group of facts, with intervals.

    Args:
        estimates: Columns `condition`, `facts`, `value`, `low`, `high` (shares, 0 to 1); conditions are drawn in their order.
        chance: Chance level, 0 to 1; None draws no line.
        label: Label of the x axis.
        facts: Groups of facts to draw, from `FACTS`.
    """
    conditions = list(dict.fromkeys(estimates["condition"]))
    shown = [f for f in facts if f in set(estimates["facts"])]
    figure, axes = new_figure(height=1.5 + 0.42 * len(conditions))
    ax = axes[0, 0]
    for rank, group in enumerate(shown):
        name, colour, marker = FACTS[group]
        rows = estimates[estimates["facts"] == group]
        y = np.array([conditions.index(c) for c in rows["condition"]]) + 0.17 * (rank - (len(shown) - 1) / 2)
        ax.errorbar(100 * rows["value"], y, xerr=_errors(rows), fmt=marker, color=colour, label=name, capsize=2, elinewidth=1.4)
    if chance is not None:
        chance_line(ax, chance, axis="x")
    ax.set_yticks(range(len(conditions)), conditions)
    ax.set_ylim(len(conditions) - 0.5, -0.5)
    ax.set_xlabel(label)
    percent_axis(ax, -2, 102, axis="x")
    legend_above(figure, ax, columns=2)
    return figure


def story(lines: pd.DataFrame, gains: pd.DataFrame, styles: Mapping[str, LineStyle], chance: float) -> Figure:
    """The study at a glance: groups of facts along tuning (above), and the gain of each base (below).

    Args:
        lines: One model; columns `facts` (keys of `FACTS`), `steps`, `value`, `low`, `high` (shares, 0 to 1).
        gains: One row a base, smallest first; columns `base`, `value`, `low`, `high` (differences of shares, -1 to 1).
        styles: See `base_styles`.
        chance: Chance level on taught facts, 0 to 1.
    """
    figure, axes = new_figure(height=5.6, rows=2, height_ratios=[2.1, 1])
    above, below = axes[:, 0]
    steps = sorted(lines["steps"].unique())
    shown = [f for f in FACTS if f in set(lines["facts"])]
    for rank, group in enumerate(shown):
        name, colour, marker = FACTS[group]
        rows = lines[lines["facts"] == group].sort_values("steps")
        x = rows["steps"].map(steps.index).to_numpy(float) + 0.04 * (rank - (len(shown) - 1) / 2)
        _interval_line(above, x, rows, LineStyle(colour, marker, "-"), name)
    chance_line(above, chance)
    above.set_xticks(range(len(steps)), [str(step) for step in steps])
    above.set(xlabel="Tuning steps (0 = base model)", ylabel="Accuracy (%)")
    percent_axis(above, high=103)
    for place, (_, row) in enumerate(gains.iterrows()):
        style, errors = styles[row["base"]], _errors(pd.DataFrame([row]))
        below.errorbar(100 * row["value"], place, xerr=errors, fmt=style.marker, color=style.colour, capsize=3)
    below.axvline(0, color=PALETTE["black"], linewidth=0.9)
    below.set_yticks(range(len(gains)), gains["base"])
    below.set_ylim(-0.6, len(gains) - 0.4)
    below.set_xlabel("Gain on taught facts (points)")
    legend_above(figure, above, columns=2)
    return figure


def sources(frame: pd.DataFrame, families: Mapping[str, str]) -> Figure:
    """Scores from several sources, one panel a family that may be compared within itself.

    Args:
        frame: Columns `family` (a key of `families`), `system`, `percent` (0 to 100; rows without a number are not drawn).
        families: Family to title, in order.
    """
    drawn = frame.dropna(subset=["percent"])
    shown = [family for family in families if family in set(drawn["family"])]
    counts = [int((drawn["family"] == family).sum()) for family in shown]
    sizes = {"height_ratios": [count + 1.2 for count in counts], "sharex": True}
    figure, axes = new_figure(height=0.55 * len(shown) + 0.23 * sum(counts), rows=len(shown), **sizes)
    for rank, family in enumerate(shown):
        ax, rows = axes[rank, 0], drawn[drawn["family"] == family].reset_index(drop=True)
        ax.plot(rows["percent"], rows.index, linestyle="", marker=MARKERS[rank % len(MARKERS)], color=PALETTE[CYCLE[rank % len(CYCLE)]])
        ax.set_yticks(rows.index, rows["system"], fontsize=9)
        ax.set_ylim(-0.7, len(rows) - 0.3)
        ax.set_title(families[family], loc="right", fontsize=9.5, pad=4)
        percent_axis(ax, axis="x")
    axes[-1, 0].set_xlabel("Score (%)")
    return figure


def gain_by_size(gains: pd.DataFrame, styles: Mapping[str, LineStyle], label: str = "Gain on taught facts (points)") -> Figure:
    """Gain over the base against model size, with intervals; a Japanese-centric base stands beside the ladder.

    Bases of the Japanese-centric kind are drawn 5 % to the right, so that equal sizes do not hide each other.

    Args:
        gains: One row a base; columns `base`, `size_params`, `centric`, `value`, `low`, `high` (differences of shares, -1 to 1).
        styles: See `base_styles`.
        label: Label of the y axis.
    """
    figure, axes = new_figure()
    ax = axes[0, 0]
    ladder = gains[gains["centric"] == "english"].sort_values("size_params")
    ax.plot(ladder["size_params"], 100 * ladder["value"], color="#B5B5B5", linewidth=1.3, zorder=1)
    for _, row in gains.sort_values("size_params").iterrows():
        style = styles[row["base"]]
        errors = _errors(pd.DataFrame([row]))
        x = row["size_params"] * (1.05 if row["centric"] == "japanese" else 1)
        ax.errorbar(x, 100 * row["value"], yerr=errors, fmt=style.marker, color=style.colour, capsize=3, label=row["base"])
    ax.set_xscale("log")
    sizes: list[float] = []
    for size in sorted(gains["size_params"].unique()):
        if not sizes or size > 1.2 * sizes[-1]:  # labels of nearly equal sizes would overprint each other
            sizes.append(size)
    ax.set_xticks(sizes, [size_label(s) for s in sizes])
    ax.minorticks_off()
    ax.axhline(0, color=PALETTE["black"], linewidth=0.9)
    ax.set(xlabel="Parameters of the base model", ylabel=label)
    ax.margins(x=0.12)
    legend_above(figure, ax, columns=3)
    return figure


def forgetting(estimates: pd.DataFrame, chance: float | None = None) -> Figure:
    """General-exam score against tuning steps, one line a run: what tuning costs outside its domain.

    Args:
        estimates: Columns `run`, `steps`, `value`, `low`, `high` (shares, 0 to 1).
        chance: Chance level, 0 to 1; None draws no line.
    """
    figure, axes = new_figure(height=4.0)
    ax = axes[0, 0]
    steps = sorted(estimates["steps"].unique())
    place = {step: i for i, step in enumerate(steps)}
    runs = list(dict.fromkeys(estimates["run"]))
    for rank, run in enumerate(runs):
        rows = estimates[estimates["run"] == run].sort_values("steps")
        x = rows["steps"].map(place).to_numpy(float) + 0.04 * (rank - (len(runs) - 1) / 2)
        style = LineStyle(PALETTE[CYCLE[rank % len(CYCLE)]], MARKERS[rank % len(MARKERS)], "-" if rank < len(CYCLE) else "--")
        _interval_line(ax, x, rows, style, run)
    if chance is not None:
        chance_line(ax, chance)
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
    ax.set(xlabel="Tuning steps (0 = base model)", ylabel="Accuracy on the general exam (%)")
    percent_axis(ax, high=103)
    legend_above(figure, ax, columns=3)
    return figure


def fertility(frame: pd.DataFrame) -> Figure:
    """Tokens per character of each tokenizer, by language: what a language costs a model.

    Args:
        frame: Columns `tokenizer`, `language` (`ja` or `en`), `tokens_per_character`.
    """
    tokenizers, languages = list(dict.fromkeys(frame["tokenizer"])), sorted(frame["language"].unique())
    names = {"ja": "Japanese text", "en": "English text"}
    figure, axes = new_figure(height=1.6 + 0.55 * len(tokenizers))
    ax = axes[0, 0]
    for rank, language in enumerate(languages):
        rows = frame[frame["language"] == language].set_index("tokenizer").reindex(tokenizers)
        y = np.arange(len(tokenizers)) + 0.36 * (rank - (len(languages) - 1) / 2)
        colour, hatch = ((PALETTE["sky"], ""), (PALETTE["vermilion"], "//"))[rank % 2]
        look = {"height": 0.34, "color": colour, "hatch": hatch, "edgecolor": "white"}
        bars = ax.barh(y, rows["tokens_per_character"], label=names.get(language, language), **look)
        ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=9.5)
    ax.set_yticks(range(len(tokenizers)), tokenizers)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("Tokens per character (fewer is cheaper)")
    ax.margins(x=0.12)
    legend_above(figure, ax)
    return figure


def loss_curves(series: pd.DataFrame, label: str = "Training loss (nats a token)") -> Figure:
    """Loss against steps, one line a run; with several seeds, their mean and their range.

    Args:
        series: Columns `run`, `seed`, `step`, `loss`.
        label: Label of the y axis.
    """
    figure, axes = new_figure(height=4.0)
    ax = axes[0, 0]
    for rank, run in enumerate(dict.fromkeys(series["run"])):
        rows = series[series["run"] == run].groupby("step")["loss"].agg(["mean", "min", "max"])
        colour, dashes = PALETTE[CYCLE[rank % len(CYCLE)]], "-" if rank < len(CYCLE) else "--"
        ax.plot(rows.index, rows["mean"], color=colour, linestyle=dashes, linewidth=1.5, label=run)
        ax.fill_between(rows.index, rows["min"], rows["max"], color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="Tuning step", ylabel=label)
    ax.set_ylim(bottom=0)
    legend_above(figure, ax, columns=3)
    return figure


def gain_by_minutes(prices: pd.DataFrame) -> Figure:
    """Gain in Accuracy against minutes of tuning, one dot a run: what the time buys.

    Args:
        prices: Columns `run`, `minutes`, `value`, `low`, `high` (differences of shares, -1 to 1).
    """
    figure, axes = new_figure(height=4.0)
    ax = axes[0, 0]
    for rank, (_, row) in enumerate(prices.iterrows()):
        look = {"fmt": MARKERS[rank % len(MARKERS)], "color": PALETTE[CYCLE[rank % len(CYCLE)]], "capsize": 3}
        errors = _errors(pd.DataFrame([row]))
        ax.errorbar(row["minutes"], 100 * row["value"], yerr=errors, label=row["run"], **look)
    ax.axhline(0, color=PALETTE["black"], linewidth=0.9)
    ax.set(xlabel="Minutes of tuning", ylabel="Gain in Accuracy (points)")
    ax.set_xlim(left=0)
    legend_above(figure, ax, columns=3)
    return figure


def flip_bars(flipped: pd.DataFrame) -> Figure:
    """Questions fixed and broken by tuning, in percent of the group.

    Args:
        flipped: One row a question; columns `facts` (keys of `FACTS`, or names of exams) and `flip` (`fixed`, `broken` or other).
    """
    there = sorted(set(flipped["facts"].astype(str)))
    groups = [g for g in FACTS if g in there] or there
    figure, axes = new_figure(height=1.5 + 0.45 * len(groups))
    ax = axes[0, 0]
    for flip, colour, hatch, sign in (("broken", PALETTE["vermilion"], "//", -1), ("fixed", PALETTE["blue"], "", 1)):
        share = [100 * (flipped.loc[flipped["facts"] == g, "flip"] == flip).mean() for g in groups]
        bars = ax.barh(range(len(groups)), [sign * s for s in share], color=colour, hatch=hatch, edgecolor="white", label=flip)
        ax.bar_label(bars, [f"{s:.0f}" if s else "" for s in share], padding=3, fontsize=9.5)
    ax.axvline(0, color=PALETTE["black"], linewidth=0.9)
    ax.set_yticks(range(len(groups)), [FACTS[g][0] if g in FACTS else g for g in groups])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_xlabel("Share of questions (%)")
    legend_above(figure, ax)
    return figure


def _interval_line(ax: Axes, x: np.ndarray, rows: pd.DataFrame, style: LineStyle, label: str) -> None:
    ax.errorbar(
        x,
        100 * rows["value"],
        yerr=_errors(rows),
        color=style.colour,
        marker=style.marker,
        linestyle=style.dashes,
        capsize=2.5,
        elinewidth=1.3,
        label=label,
    )


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Lengths below and above the value in percent, shape (2, n); matplotlib refuses negative ones, rounding makes them."""
    value, low, high = (rows[c].to_numpy(float) for c in ("value", "low", "high"))
    return 100 * np.clip(np.vstack([value - low, high - value]), 0, None)
