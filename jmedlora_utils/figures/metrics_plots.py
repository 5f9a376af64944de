"""Figures of the metrics study: levels, biases, damage, changes, power, points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jmedlora_utils.analysis.metrics_study import EXAM_NAMES, RULE_NAMES
from jmedlora_utils.figures.plotting import CYCLE, MARKERS, PALETTE, WIDTH, legend_above, new_figure, percent_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {
    "longest": (PALETTE["blue"], "o", "-"),
    "ratio": (PALETTE["sky"], "s", "--"),
    "mean_ratio": (PALETTE["purple"], "v", ":"),
    "harness": (PALETTE["vermilion"], "^", "-."),
    "strict": (PALETTE["green"], "D", "-"),
}
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
BAND_NAMES = {"unlike": "below 1/3", "some": "1/3 to 2/3", "alike": "above 2/3"}
SYSTEM_NAMES = {
    "gpt3": "GPT-3",
    "chatgpt": "ChatGPT",
    "translate_chatgpt-en": "ChatGPT, translated",
    "gpt4": "GPT-4",
    "student-majority": "students' majority",
}


def blind_levels(levels: pd.DataFrame) -> Figure:
    """Accuracy of responses without knowledge, one panel an exam, one marker a rule; questions with one answer."""
    figure, axes = new_figure(height=4.4, columns=2, sharey=True)
    for ax, exam in zip(axes[0], EXAM_NAMES, strict=True):
        here = levels[(levels["exam"] == exam) & (levels["asked"] == "one")]
        for rank, rule in enumerate(("longest", "ratio", "harness", "strict")):
            values = here[here["rule"] == rule].set_index("response")["accuracy"].reindex(BLIND)
            colour, marker, _ = LOOKS[rule]
            y = np.arange(len(BLIND)) + 0.17 * (rank - 1.5)
            label = RULE_NAMES[rule] if exam == "igakuqa" else None
            ax.plot(100 * values, y, linestyle="none", marker=marker, color=colour, markersize=5.5, label=label)
        chance = here.loc[here["response"] == "random pick", "accuracy"].iloc[0]
        ax.axvline(100 * chance, color=PALETTE["black"], linestyle=":", linewidth=1.3, label="chance" if exam == "igakuqa" else None)
        ax.set_xlabel(f"Accuracy (%), {EXAM_NAMES[exam]}")
        percent_axis(ax, -1.5, 34, axis="x")
    axes[0, 0].set_yticks(range(len(BLIND)), BLIND)
    axes[0, 0].set_ylim(len(BLIND) - 0.5, -0.5)
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def winners(picks: pd.DataFrame, response: str = "unrelated answer") -> Figure:
    """How often each rank of length and of likeness wins, beside how often it is right; one row an exam."""
    figure, axes = new_figure(height=5.4, rows=2, columns=2, sharey=True, sharex="col")
    ends = {"length": "Rank of length (5: longest)", "likeness": "Rank of likeness (5: highest)"}
    for row, exam in zip(axes, EXAM_NAMES, strict=True):
        for ax, (feature, label) in zip(row, ends.items(), strict=True):
            here = picks[(picks["exam"] == exam) & (picks["feature"] == feature)]
            gold = here[here["response"] == "gold"]
            ax.bar(gold["rank"], 100 * gold["share"], color="#D9D9D9", label="is right", zorder=1)
            for variant in ("longest", "ratio", "mean_ratio"):
                rows = here[(here["response"] == response) & (here["variant"] == variant)]
                colour, marker, dashes = LOOKS[variant]
                name = variant.replace("_", " ")
                ax.plot(
                    rows["rank"], 100 * rows["share"], color=colour, marker=marker, linestyle=dashes, markersize=5, label=f"wins, {name}"
                )
            ax.axhline(20, color=PALETTE["black"], linestyle=":", linewidth=1.2, label="no bias")
            ax.set_xticks(range(1, 6))
            if exam == "jjsimqa":
                ax.set_xlabel(label)
        row[0].set_ylabel(f"Share (%), {EXAM_NAMES[exam]}")
    axes[0, 0].set_ylim(bottom=0)
    legend_above(figure, axes[0, 0], columns=3)
    return figure


def damage_curves(damage: pd.DataFrame, rule: str = "longest") -> Figure:
    """Left: the three metrics as a right answer loses characters. Right: Accuracy by likeness of the nearest wrong choice."""
    figure, axes = new_figure(height=4.0, columns=2, sharey=True)
    left, right = axes[0]
    whole = damage[(damage["likeness"] == "all") & (damage["rule"] == rule)]
    looks = (("exact_match", "Exact match"), ("gestalt", "Gestalt score"), ("accuracy", "Accuracy"))
    for rank, (column, label) in enumerate(looks):
        left.plot(100 * whole["lost"], 100 * whole[column], color=PALETTE[CYCLE[rank]], marker=MARKERS[rank], label=label, markersize=5)
    for rank, (band, name) in enumerate(BAND_NAMES.items()):
        rows = damage[(damage["likeness"] == band) & (damage["rule"] == rule)]
        colour = PALETTE[("purple", "orange", "black")[rank]]
        right.plot(100 * rows["lost"], 100 * rows["accuracy"], color=colour, marker=MARKERS[3 + rank], markersize=5, label=name)
    left.set(xlabel="Characters lost (%)", ylabel="Score of the damaged right answer (%)")
    right.set_xlabel("Characters lost (%)")
    percent_axis(left, -3, 103)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.34))
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.42), title="Accuracy, nearest wrong\nchoice alike:", title_fontsize=9.5)
    return figure


def credit_table(changes: pd.DataFrame) -> Figure:
    """What a changed right answer earns: one row a change, one column a metric and rule, percent in each cell."""
    columns = [("exact_match", "longest", "journal"), ("exact_match", "harness", "harness"), ("exact_match", "strict", "strict")]
    columns += [
        ("accuracy", rule, name)
        for rule, name in (("longest", "longest"), ("ratio", "ratio"), ("harness", "harness"), ("strict", "strict"))
    ]
    order = list(dict.fromkeys(changes["change"]))
    harmful = changes.drop_duplicates("change").set_index("change")["effect"] == "harmful"
    grid = np.full((len(order), len(columns)), np.nan)
    for c, (metric, rule, _) in enumerate(columns):
        rows = changes[changes["rule"] == rule].set_index("change")[metric]
        grid[:, c] = 100 * rows.reindex(order)
    figure, axes = new_figure(width=WIDTH, height=0.31 * len(order) + 1.3)
    ax = axes[0, 0]
    ax.imshow(grid, cmap="Blues", vmin=0, vmax=130, aspect="auto")
    for r, c in np.ndindex(*grid.shape):
        ax.text(c, r, f"{grid[r, c]:.0f}", ha="center", va="center", fontsize=9.5, color="white" if grid[r, c] > 85 else "#222222")
    ax.set_xticks(range(len(columns)), [name for *_, name in columns], fontsize=9, rotation=35, ha="left", rotation_mode="anchor")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(order)), order, fontsize=9.5)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.axvline(2.5, color="white", linewidth=4)
    ax.axhline(int((~harmful.loc[order]).sum()) - 0.5, color=PALETTE["vermilion"], linewidth=1.8)
    for x, text in ((1, "Exact match"), (4.5, "Accuracy")):
        ax.annotate(text, (x, -0.5), xytext=(0, 47), textcoords="offset points", ha="center", fontsize=11)
    for side in ax.spines.values():
        side.set_visible(False)
    return figure


def questions_needed(needed: pd.DataFrame, sizes: dict[str, int]) -> Figure:
    """Questions needed against the difference to be seen, both logarithmic; horizontal lines are the exams."""
    figure, axes = new_figure(height=4.4)
    ax = axes[0, 0]
    series = [("unpaired", np.nan)] + [("paired", share) for share in sorted(needed["discordant"].dropna().unique(), reverse=True)]
    for rank, (design, share) in enumerate(series):
        rows = needed[needed["design"] == design]
        rows = rows if design == "unpaired" else rows[rows["discordant"] == share]
        label = "different questions" if design == "unpaired" else f"same questions, {100 * share:.0f} % differ"
        dashes = "--" if design == "unpaired" else "-"
        ax.plot(100 * rows["difference"], rows["n"], color=PALETTE[CYCLE[rank]], linestyle=dashes, label=label)
    ax.set(xscale="log", yscale="log", xlabel="Difference of Accuracy (points)", ylabel="Questions needed")
    ticks = [0.5, 1, 2, 5, 10]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks([100, 1000, 10_000, 100_000], ["100", "1,000", "10,000", "100,000"])
    ax.minorticks_off()
    for name, n in sizes.items():
        ax.axhline(n, color=PALETTE["grey"], linewidth=1, linestyle=":")
        ax.annotate(f"{name}, {n:,}", (0.53, n), xytext=(0, 3), textcoords="offset points", fontsize=9, color="#444444")
    ax.set_xlim(0.5, 10)
    legend_above(figure, ax, columns=2)
    return figure


def points_by_accuracy(exam: pd.DataFrame) -> Figure:
    """Share of the examination's points against Accuracy on its text questions; a filled marker has passed."""
    figure, axes = new_figure(height=4.2)
    ax = axes[0, 0]
    for rank, system in enumerate(dict.fromkeys(exam["system"])):
        rows = exam[exam["system"] == system]
        look = {"color": PALETTE[CYCLE[rank]], "marker": MARKERS[rank], "linestyle": "none"}
        for passed, fill in ((True, "full"), (False, "none")):
            here = rows[rows["passed"].astype("boolean").fillna(False) == passed]
            shown = SYSTEM_NAMES.get(system, system)
            label = shown if len(here) else None
            ax.plot(100 * here["accuracy"], 100 * here["points"] / here["max_points"], fillstyle=fill, label=label, **look)
    ax.plot([35, 100], [35, 100], color=PALETTE["black"], linestyle=":", linewidth=1.2, label="equal")
    ax.set(
        xlabel="Accuracy on text questions with five choices (%)", ylabel="Points of the examination (%)", xlim=(36, 100), ylim=(36, 100)
    )
    legend_above(figure, ax, columns=2)
    return figure


def passing_curves(passing: pd.DataFrame) -> Figure:
    """Probability to reach the marks against the rate of right items, one line a year; the must-pass mark alone dotted."""
    figure, axes = new_figure(height=4.0)
    ax = axes[0, 0]
    for rank, (year, rows) in enumerate(passing.groupby("year")):
        colour = PALETTE[CYCLE[rank]]
        ax.plot(100 * rows["rate"], 100 * rows["both"], color=colour, label=f"both marks, {year}")
        ax.plot(100 * rows["rate"], 100 * rows["general"], color=colour, linestyle=":", linewidth=1.3)
    ax.plot([], [], color=PALETTE["black"], linestyle=":", linewidth=1.3, label="general mark alone")
    ax.set(xlabel="Probability to be right on each item (%)", ylabel="Probability to reach the mark (%)", xlim=(60, 95))
    percent_axis(ax, -2, 102)
    legend_above(figure, ax, columns=2)
    return figure
