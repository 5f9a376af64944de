"""Figures of the metrics study: scores without knowledge, biases, damage, rewritten answers, power, points."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from jmedlora_utils.analysis.known_responses import FEW_RULES, RULES
from jmedlora_utils.analysis.metrics_study import EXAM_NAMES
from jmedlora_utils.figures.style import PALETTE, WIDTH, LineStyle, chance_line, legend_above, looks, new_figure, percent_axis, points

LOOKS = looks([rule.name for rule in RULES.values()])
"""One look per way to score, in every figure of the study."""

BLIND = (
    "empty",
    "refusal",
    "question repeated",
    "unrelated answer",
    "all choices",
    "first choice",
    "longest choice",
    "most typical choice",
)
BANDS = {"unlike": "below 1/3", "some": "1/3 to 2/3", "alike": "above 2/3"}


def blind_levels(levels: pd.DataFrame) -> Figure:
    """Accuracy of responses without knowledge, one panel per exam, one marker per way to score; questions with one answer."""
    figure, axes = new_figure(height=4.4, columns=2, sharey=True)
    one = levels[levels["asked"] == "one"]
    shown = one[one["rule"].isin(FEW_RULES)]
    shown = shown.assign(value=shown["accuracy"], rule=shown["rule"].map({key: rule.name for key, rule in RULES.items()}))
    for ax, (exam, name) in zip(axes[0], EXAM_NAMES.items(), strict=True):
        points(ax, shown[shown["exam"] == exam], LOOKS, x="value", y="response", hue="rule", order=BLIND, dodge=0.5)
        chance_line(ax, one.loc[(one["exam"] == exam) & (one["response"] == "random pick"), "accuracy"].iloc[0], axis="x")
        ax.set(xlabel=f"Accuracy (%), {name}", ylabel="")
        percent_axis(ax, -1.5, 34, axis="x")
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def winners(picks: pd.DataFrame, response: str = "unrelated answer") -> Figure:
    """How often each rank of length and of likeness wins, beside how often it is right; one row per exam."""
    figure, axes = new_figure(height=5.4, rows=2, columns=2, sharey=True, sharex="col")
    features = {"length": "Rank of length (5: longest)", "likeness": "Rank of likeness (5: highest)"}
    wins = {rule: f"wins, {rule.replace('_', ' ')}" for rule in ("longest", "ratio", "mean_ratio")}
    styles = {name: LOOKS[RULES[rule].name] for rule, name in wins.items()}
    for row, (exam, name) in zip(axes, EXAM_NAMES.items(), strict=True):
        for ax, (feature, label) in zip(row, features.items(), strict=True):
            here = picks[(picks["exam"] == exam) & (picks["feature"] == feature)]
            gold = here[here["response"] == "gold"]
            sns.barplot(x=gold["rank"], y=100 * gold["share"], color="#D9D9D9", saturation=1, label="is right", legend=False, ax=ax)
            rows = here[here["response"] == response].assign(value=here["share"], rule=here["variant"].map(wins))
            points(ax, rows, styles, lines=True, x="rank", y="value", hue="rule", order=range(1, 6))
            ax.axhline(20, color=PALETTE["black"], linestyle=":", linewidth=1.2, label="no bias")
            ax.set(xlabel=label if exam == "jjsimqa" else "", ylabel=f"Share (%), {name}")
    axes[0, 0].set_ylim(bottom=0)
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def damage_curves(damage: pd.DataFrame, rule: str = "longest") -> Figure:
    """Left: the three metrics as a right answer loses characters. Right: Accuracy by likeness of the nearest wrong choice."""
    figure, axes = new_figure(height=4.0, columns=2, sharey=True)
    own = damage[damage["rule"] == rule].assign(lost=100 * damage["lost"])
    metrics = {"exact_match": "Exact match", "gestalt": "Gestalt score", "accuracy": "Accuracy"}
    whole = own[own["likeness"] == "all"].rename(columns=metrics).melt("lost", list(metrics.values()), "series")
    bands = own.assign(series=own["likeness"].map(BANDS), value=own["accuracy"]).dropna(subset="series")
    colours = [LineStyle(PALETTE[colour], marker) for colour, marker in (("purple", "D"), ("orange", "v"), ("black", "P"))]
    styles = looks(metrics.values()), dict(zip(BANDS.values(), colours, strict=True))
    for ax, rows, look in zip(axes[0], (whole, bands), styles, strict=True):
        points(ax, rows, look, lines=True, x="lost", y="value", hue="series", native_scale=True, markersize=5)
        ax.set(xlabel="Characters lost (%)", ylabel="Score of the damaged right answer (%)")
    percent_axis(axes[0, 0], -3, 103)
    axes[0, 0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.34))
    title = "Accuracy, nearest wrong\nchoice alike:"
    axes[0, 1].legend(loc="upper center", bbox_to_anchor=(0.5, 1.42), title=title, title_fontsize=9.5)
    return figure


def credit_table(changes: pd.DataFrame) -> Figure:
    """What a changed right answer earns: one row per change, one column per metric and way to score, percent in each cell."""
    columns = [("exact_match", rule) for rule in ("longest", "harness", "strict")]
    columns += [("accuracy", rule) for rule in ("longest", "ratio", "harness", "strict")]
    order = list(dict.fromkeys(changes["change"]))
    wide = 100 * changes.pivot(index="change", columns="rule", values=["exact_match", "accuracy"]).loc[order, columns]
    n_harmless = changes.loc[changes["effect"] == "harmless", "change"].nunique()
    figure, axes = new_figure(WIDTH, 0.31 * len(order) + 1.3)
    ax = axes[0, 0]
    sns.heatmap(wide, cmap="Blues", vmin=0, vmax=130, annot=True, fmt=".0f", annot_kws={"fontsize": 9.5}, cbar=False, ax=ax)
    names = ["journal", *(rule for _, rule in columns[1:])]
    ax.set_xticks([i + 0.5 for i in range(len(columns))], names, fontsize=9, rotation=35, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.set_yticks([i + 0.5 for i in range(len(order))], order, fontsize=9.5, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")
    ax.axvline(3, color="white", linewidth=4)
    ax.axhline(n_harmless, color=PALETTE["vermilion"], linewidth=1.8)
    for x, text in ((1.5, "Exact match"), (5, "Accuracy")):
        ax.annotate(text, (x, 0), xytext=(0, 47), textcoords="offset points", ha="center", fontsize=11)
    return figure
