"""Scores on IgakuQA from every source, in families of one metric and one set of questions."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from jmedlora_utils.analysis.studies import evaluation_of, evaluations
from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.manifest import check_manifest
from jmedlora_utils.core.presets import load_preset, preset_names
from jmedlora_utils.core.records import read_json, read_record

PUBLISHED = paths.RESULTS / "published"
# Rows of one family may be compared with each other, rows of two families may not.
FAMILIES = {
    "gestalt": "A. Gestalt accuracy, text questions of 2018-2022, the author's harness",
    "letters": "B. Marks by letters, text questions of 2018-2021",
    "points5": "C. Points of the whole examination, 2018-2022",
    "points4": "D. Points of the whole examination, 2018-2021",
    "unknown": "E. Metric or questions not stated: compare with nothing",
    "ours": "F. This project: compare where the questions are the same",
}


def sources_frame() -> pd.DataFrame:
    """IgakuQA scores in Japanese from every source, in percent, with the metric and the questions of each.

    Points of single years are put together and divided by the points of those years.

    Returns:
        Columns `family` (key of `FAMILIES`), `system`, `percent` (NaN where nothing was run), `metric`, `subset`, `source`,
        `note`; families in their order, best system last. `attrs["passed_over"]` lists the records that could not be read.
    """
    own, passed_over = own_scores()
    shown = _in_order(pd.concat([_published(), own]))
    shown.attrs["passed_over"] = passed_over
    return shown


def _published() -> pd.DataFrame:
    """What others report, and the answers published with IgakuQA as they are marked here."""
    reported = pd.read_csv(PUBLISHED / "reported.csv", keep_default_na=False)
    igaku = reported[reported["exam"].str.startswith("IgakuQA") & (reported["language"] == "ja")]
    shares = igaku[(igaku["unit"] == "%") & ~igaku["group"].isin(["re-scored", "leaderboard shuffled"])]
    shares = shares.assign(family=shares["subset"].map(_family), percent=shares["value"].astype(float))
    letters = _pool_years(igaku[igaku["group"] == "re-scored"]).assign(family="letters")
    points = igaku[igaku["unit"] == "points"]
    earlier = points[~points["exam"].str.endswith("2022")]
    return pd.concat([shares, letters, _points(points, "points5"), _points(earlier, "points4"), _own_card()])


def _in_order(found: pd.DataFrame) -> pd.DataFrame:
    found = found.assign(order=found["family"].map(list(FAMILIES).index)).sort_values(["order", "percent"], kind="stable")
    shown = found[["family", "system", "percent", "metric", "subset", "source", "note"]]
    return shown.fillna(dict.fromkeys(("metric", "subset", "source", "note"), "")).reset_index(drop=True)


def small_models(below: float = 10.0) -> pd.DataFrame:
    """Reported scores of models of fewer than `below` billion parameters, by the size in their names, and chance; see `sources_frame`."""
    found = _in_order(_published())
    size = found["system"].str.extract(r"(?:^|[- ])(\d+(?:\.\d+)?)B\b")[0].astype(float)
    return found[(size < below) | found["system"].str.startswith("uniform guessing")].reset_index(drop=True)


def own_scores() -> tuple[pd.DataFrame, list[str]]:
    """Accuracy of every model of this project that was asked IgakuQA, here or in committed evidence, or one row without a number.

    Smoke runs are no evidence; variants are the same weights loaded in another way. Both are left out. Of a preset that ran on this
    machine, the committed scores are left out too.

    Returns:
        Rows for `sources_frame`, and one line per record that could not be read, such as one of an older schema.
    """
    rows, passed_over, ran = [], [], set()
    for name in sorted(set(preset_names()) - {"smoke"}):
        planned = evaluations(load_preset(name))
        for path in sorted((paths.runs_root() / name).glob("seed*/records/30_evaluate__*__igakuqa_*.json")):
            try:
                record = read_record(path)
            except JmedloraError as error:
                passed_over.append(str(error).replace(str(path), paths.relative(path)))
                continue
            if record.status != "done" or record.config.get("variant_of") or evaluation_of(record) not in planned:
                continue
            config, accuracy = record.config, record.metrics["journal"]["all"]["accuracy"]
            left_out = sum(record.counts.get("excluded", {}).values())
            subset = f"{config['exam']}, {accuracy['n']:,} items asked" + (f", {left_out:,} left out" if left_out else "")
            system = "{run_name}, step {step}, {shots}-shot".format(**config)
            rows.append(_row(system, accuracy["value"], subset, record.preset, record.seed, record.device, record.created))
            ran.add(name)
    rows += [row for file in sorted(paths.RESULTS.glob("*/evidence.json")) for row in _committed(file, ran)]
    none = {"system": "any model", "note": "the examination has been put to none of our models"}
    return pd.DataFrame(rows or [none]).assign(family="ours"), passed_over


def _committed(file: Path, ran: Collection[str]) -> list[dict[str, Any]]:
    """The scores on IgakuQA of one committed study, unless its preset is in `ran`.

    Raises:
        JmedloraError: The study is damaged.
    """
    check_manifest(file.parent)
    about, table = read_json(file), pd.read_csv(file.with_name("summary.csv"))
    if about["preset"] in ran:
        return []
    found = []
    for row in table[table["exam"].str.fullmatch("igakuqa(_.*)?") & (table["metric"] == "accuracy")].itertuples():
        system, subset = f"{row.base}, step {row.steps}, {row.shots}-shot", f"{row.exam}, {row.n:,} items asked"
        found.append(_row(system, row.value, subset, about["preset"], row.seed, about["device"], about["created"]))
    return found


def _row(system: str, share: float, subset: str, preset: str, seed: int, device: str, created: str) -> dict[str, Any]:
    source = f"this project, preset {preset}, seed {seed}, {device}, {created[:10]}"
    return {"system": system, "percent": 100 * share, "metric": "Accuracy, journal", "subset": subset, "source": source}


def _family(subset: str) -> str:
    if subset.startswith("IgakuQA text-only"):
        return "gestalt"
    return "points5" if subset.startswith("all 2,000") else "unknown"


def _points(rows: pd.DataFrame, family: str) -> pd.DataFrame:
    """Points of single years as a share of the points of those years."""
    marks = pd.read_csv(paths.PACKAGE_DATA / "pass_marks.csv")
    full = (marks["required_max"] + marks["general_max"]).groupby(marks["year"]).sum()
    years = rows["exam"].str[-4:].astype(int)
    by_system = rows.assign(points=rows["value"].astype(float), max_points=years.map(full)).groupby("system", sort=False)
    sums = by_system.agg({"points": "sum", "max_points": "sum", "source": "first"}).reset_index()
    return _as_shares(sums).assign(family=family)


def _own_card() -> pd.DataFrame:
    """Points of the answers published with IgakuQA, as notebook 31 marks them."""
    card = pd.read_csv(PUBLISHED / "exam_card.csv").replace({"system": {"translate_chatgpt-en": "chatgpt-en"}})
    sums = card.groupby("system", sort=False)[["points", "max_points"]].sum().reset_index()
    return _as_shares(sums).assign(family="points4", source="IgakuQA baseline_results, re-scored here (notebook 31)")


def _as_shares(sums: pd.DataFrame) -> pd.DataFrame:
    metric = sums["max_points"].map("points of {:,.0f}".format)
    share = 100 * sums["points"] / sums["max_points"]
    return sums.assign(percent=share, metric=metric, subset="all items", note="years put together here")


def _pool_years(rows: pd.DataFrame) -> pd.DataFrame:
    """Published answers re-scored year by year, put together with each year's number of questions as weight."""
    n = rows["subset"].str.extract(r"(\d+) items")[0].astype(int)
    by_system = rows.assign(n=n, weighted=rows["value"].astype(float) * n).groupby("system", sort=False)
    sums = by_system[["n", "weighted"]].sum()
    subset = sums["n"].map("text-only, five choices, 2018-2021, {:,} items".format)
    return by_system.first().assign(percent=sums["weighted"] / sums["n"], metric="marks by letters", subset=subset).reset_index()
