"""Figures of tuned models: accuracy along tuning, losses, tokenizers.

Values and their intervals (`value`, `low`, `high`) are shares from 0 to 1 and are drawn in percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from jmedlora_utils.figures.style import PALETTE, LineStyle, chance_line, legend_above, looks, new_figure, points

FACTS = {
    "taught": ("taught, trained phrasing", LineStyle(PALETTE["blue"], "o")),
    "taught_held_out_phrasing": ("taught, held-out phrasing", LineStyle(PALETTE["sky"], "s")),
    "untaught": ("untaught (control)", LineStyle(PALETTE["grey"], "D")),
    "untaught_held_out_phrasing": ("untaught, held-out phrasing", LineStyle(PALETTE["black"], "d")),
    "general": ("general exam", LineStyle(PALETTE["green"], "^")),
}
"""Groups of facts: name and look."""


def story(lines: pd.DataFrame, gains: pd.DataFrame, styles: Mapping[str, LineStyle], chance: float) -> Figure:
    """The study at a glance: groups of facts along tuning (above), and the gain of each base (below).

    Args:
        lines: One model; columns `facts` (keys of `FACTS`), `steps, value, low, high`.
        gains: One row per base, smallest first; columns `base, value, low, high` (differences, -1 to 1).
        styles: See `style.base_styles`.
        chance: Chance level on taught facts, 0 to 1.
    """
    figure, axes = new_figure(height=5.6, rows=2, height_ratios=[2.1, 1])
    above, below = axes[:, 0]
    names = {group: name for group, (name, _) in FACTS.items()}
    lines = lines.assign(facts=lines["facts"].astype(str).map(names), steps=lines["steps"].astype(int))
    # At equal distances, and shifted a little so that intervals do not hide each other.
    dodge = 0.04 * (lines["facts"].nunique() - 1) or False
    points(above, lines, dict(FACTS.values()), lines=True, x="steps", y="value", hue="facts", dodge=dodge, capsize=0.04)
    chance_line(above, chance)
    above.set(xlabel="Tuning steps (0 = base model)", ylabel="Accuracy (%)", ylim=(0, 103))
    points(below, gains, styles, x="value", y="base", hue="base", order=list(gains["base"])[::-1], capsize=0.2)
    below.axvline(0, color=PALETTE["black"], linewidth=0.9)
    below.set(xlabel="Gain on taught facts (points)", ylabel="")
    legend_above(figure, above, columns=2)
    return figure


def loss_curves(series: pd.DataFrame) -> Figure:
    """Loss against steps, one line per run; with several seeds, their mean and their range.

    Where a base has several runs, there is one panel per base, with a logarithmic axis.

    Args:
        series: Columns `run, seed, step, loss`, and `base` for panels.
    """
    apart = "base" in series and series["base"].nunique() > 1 and series.groupby("base")["run"].nunique().max() > 1
    bases = series["base"].astype(str) if apart else [""] * len(series)
    lines = [str(run).removeprefix(f"{base}_") for base, run in zip(bases, series["run"], strict=True)]
    series = series.assign(panel=bases, line=lines)
    panels, styles = list(series.groupby("panel", sort=False)), looks(series["line"])
    rows, columns = (math.ceil(len(panels) / 2), 2) if apart else (1, 1)
    figure, axes = new_figure(height=1.2 + 1.7 * rows if apart else 4.0, rows=rows, columns=columns, sharey=True)
    for ax, (name, drawn) in zip(axes.flat, panels, strict=False):
        for line, style in styles.items():
            own, look = drawn[drawn["line"] == line], {"color": style.colour, "linestyle": style.dashes, "linewidth": 1.5}
            sns.lineplot(own, x="step", y="loss", errorbar=("pi", 100), label=line, legend=False, ax=ax, **look)
        ax.set(xlabel="", ylabel="")
        ax.set_title(name, loc="left", fontsize=10)
        ax.set_yscale("log" if apart else "linear")
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    if not apart:
        axes[0, 0].set_ylim(bottom=0)
    figure.supxlabel("Tuning step", fontsize=11)
    figure.supylabel("Training loss (nats per token)", fontsize=11)
    legend_above(figure, axes[0, 0], columns=4 if apart else 3)
    return figure


def fertility(frame: pd.DataFrame) -> Figure:
    """Tokens per character of each tokenizer, by language: what a language costs a model.

    Args:
        frame: Columns `tokenizer`, `language` (`ja` or `en`), `tokens_per_character`.
    """
    figure, axes = new_figure(height=1.6 + 0.55 * frame["tokenizer"].nunique())
    ax = axes[0, 0]
    names = {"en": "English text", "ja": "Japanese text"}
    shown = frame.assign(language=frame["language"].map(names))
    palette = {name: PALETTE[colour] for name, colour in (("English text", "sky"), ("Japanese text", "vermilion"))}
    palette = {name: colour for name, colour in palette.items() if name in set(shown["language"])}
    look = {"palette": palette, "hue_order": list(palette), "saturation": 1, "errorbar": None, "edgecolor": "white"}
    sns.barplot(shown, x="tokens_per_character", y="tokenizer", hue="language", ax=ax, **look)
    for bars in ax.containers:
        ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=9.5)
    ax.set(xlabel="Tokens per character (fewer is cheaper)", ylabel="")
    ax.margins(x=0.12)
    legend_above(figure, ax)
    return figure
