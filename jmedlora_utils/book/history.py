"""What the page on earlier studies includes: their effects side by side, and the list of what was tried."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from jmedlora_utils.core import formatting, paths

FOLDER = paths.RESULTS / "studies"
SHOWN = {"gain": "claim 1: gain on taught facts", "size": "claim 2: size", "language": "claim 3: language"}


def studies(folder: Path) -> str:
    """A figure of the main effect of claims 1 to 3 in each study, and the table of every part; the picture is written to `folder`."""
    rows = pd.concat([pd.read_csv(path) for path in sorted(FOLDER.glob("study*.csv"))], ignore_index=True)
    rows["condition"] = rows["step"] + ", " + rows["shots"].astype(str) + "-shot"
    rows["study"] = "study " + rows["study"].astype(str)
    _draw(rows, folder / "studies.png")
    caption = "Effects in each study by step and worked examples, with 95 % intervals over five seeds. "
    caption += "The verdicts are of *late, 0-shot*; *late* is the second of three steps, *early* and *very late* are the others."
    alt = "Three panels, gain, size and language; in each, one row per step and prompt with one interval per study."
    figure = f":::{{figure}} {folder.name}/studies.png\n:name: fig-studies\n:alt: {alt}\n\n{caption}\n:::"
    names = sorted(path.name for path in FOLDER.glob("study*.csv"))
    files = ", ".join(f"{{download}}`studies/{name} </book/results/studies/{name}>`" for name in names)
    line = f":::{{container}} jm-evidence\nEvidence: {files}. Computed by each study's own code, at the commit that its file names.\n:::"
    beside = "Beside each effect stands the verdict on the whole claim at that step and prompt."
    return f"{figure}\n\n::::{{dropdown}} Every part, step and prompt\n{beside}\n\n{_table(rows)}\n::::\n\n{line}"


def log() -> str:
    """What was tried, what was found and what came of it, one paragraph per idea, from the committed list."""
    rows = pd.read_csv(FOLDER / "log.csv", dtype=str).itertuples()
    return "\n\n".join(f"**{row.date}: {row.tried}.**\n{row.found}.\n{row.outcome} ({row.source})." for row in rows)


def _draw(rows: pd.DataFrame, picture: Path) -> None:
    from jmedlora_utils.figures import style  # seaborn takes two seconds to load, and every notebook starts here

    style.use_style()
    shares = rows.assign(**{name: rows[end] / 100 for name, end in (("value", "estimate"), ("low", "low"), ("high", "high"))})
    figure, axes = style.new_figure(height=6.4, rows=len(SHOWN), sharex=True)
    looks = style.looks(sorted(rows["study"].unique()))
    for ax, (part, title) in zip(axes[:, 0], SHOWN.items(), strict=True):
        style.points(ax, shares[shares["part"] == part], looks, x="value", y="condition", hue="study", dodge=0.45, markersize=6)
        ax.axvline(0, color=style.PALETTE["black"], linewidth=1)
        ax.set(xlabel="", ylabel="")
        ax.set_title(title, loc="left", fontsize=11)
    axes[-1, 0].set_xlabel("Points")
    style.legend_above(figure, axes[0, 0])
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Software": None})


def _table(rows: pd.DataFrame) -> str:
    named = rows.assign(
        effect=[formatting.percent(*(x / 100 for x in (r.estimate, r.low, r.high)), signed=True) for r in rows.itertuples()],
        claim=rows["claim"].astype(str) + ", " + rows["part"],
        verdict=rows["claim_verdict"].str.removesuffix(" at this size"),
    )
    wide = named.pivot(index=["claim", "condition"], columns="study", values=["effect", "verdict"])
    wide.columns = [study if what == "effect" else f"whole claim, {study}" for what, study in wide.columns]
    columns = [name for study in sorted(rows["study"].unique()) for name in (study, f"whole claim, {study}")]
    return formatting.markdown(wide[columns].reset_index())
