"""What the front pages say of the miniature: the caption of the story, and the verdicts in Japanese, with their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from jmedlora_utils.analysis import claims, gains, scores
from jmedlora_utils.analysis.claims import Finding
from jmedlora_utils.analysis.studies import Study
from jmedlora_utils.core import formatting

CLAIMS_JA = (
    "指示チューニングによって、医学知識は部分的に取り込まれる",
    "効果は大きいモデルほど強い",
    "英語中心のモデルの調整は有望で、日本語中心のモデルは限られている",
    "Exact match は厳しく、Accuracy は寛容である",
)
PARTS_JA = {
    "gain": "教えた事実の正答率の伸び",
    "shortfall": "使わなかった言い回しで残る誤り",
    "size": "最大と最小のモデルの伸びの差",
    "English-centric gain": "英語中心のモデルの伸び",
    "language": "英語中心と日本語中心の伸びの差",
    "leniency": "Accuracy と Exact match の差",
}
VERDICTS_JA = {
    claims.SUPPORTED: "支持される",
    claims.NOT_SUPPORTED: "支持されない",
    claims.UNDECIDED: "この規模では判定できない",
    claims.NOT_MEASURED: "測っていない",
}
HEADS_JA = ("主張", "縮小版での効果(ポイント、95 % 区間)", "判定", "別の条件でも同じ判定")


def before_and_late(study: Study) -> dict[str, tuple[str, str]]:
    """Group of facts to Accuracy in percent before tuning and at the late step, 0-shot, for the largest run."""
    frame, run = study.outcomes, scores.largest_run(study.outcomes)
    late = gains.step_of(frame, run, gains.HEADLINE.step_rank)
    value = scores.along_steps(frame, run).set_index(["facts", "steps"])["value"]
    return {
        facts: (formatting.percent(value[facts, 0]), formatting.percent(value[facts, late])) for facts, step in value.index if step == 0
    }


def story_caption(study: Study) -> str:
    """What the figure of the story shows, with its numbers."""
    at, guessing = before_and_late(study), formatting.percent(scores.chance(study.outcomes, "untaught"))
    gained = gains.gains_by_base(study.outcomes)
    each = ", ".join(f"`{row.base}` {formatting.percent(row.value, signed=True)}" for row in gained.itertuples())
    return (
        f"The miniature at a glance. Above: the largest English-centric base before tuning (step 0) and along LoRA tuning "
        f"(`{scores.largest_run(study.outcomes)}`). Taught facts go from {at['taught'][0]} % to {at['taught'][1]} % at the late step, and "
        f"in words that tuning never used to {at['taught_held_out_phrasing'][1]} %. Untaught facts, the control, end at "
        f"{at['untaught'][1]} %, where guessing earns {guessing} %. The general exam goes from {at['general'][0]} % to "
        f"{at['general'][1]} %. Below: the gain on taught facts of each base, in points: {each}. Bars are 95 % intervals over questions "
        f"and {study.seeds_text()}."
    )


def verdicts_ja(found: Sequence[Finding], changed: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Claim, effects, verdict and how often another choice leaves it as it is, in Japanese; one row per claim."""
    rows = []
    for finding, title, (same, n) in zip(found, CLAIMS_JA, claims.same_verdicts(changed), strict=True):
        effects = "<br>".join(f"{PARTS_JA[p.name]} {formatting.percent(*p.effect, signed=True)}" for p in finding.parts)
        rows.append((f"{finding.claim.number}. {title}", effects, f"**{VERDICTS_JA[finding.verdict]}**", f"{n}通りのうち{same}通り"))
    return rows


def summary_ja(study: Study) -> str:
    """The main numbers of the miniature in Japanese sentences."""
    at, guessing = before_and_late(study), formatting.percent(scores.chance(study.outcomes, "untaught"))
    return (
        "最大の英語中心モデルでは、LoRA による調整のあと、教えた事実の正答率(Accuracy)は "
        f"{at['taught'][0]} % から {at['taught'][1]} % になり、調整で使わなかった言い回しでは "
        f"{at['taught_held_out_phrasing'][1]} % でした。教えていない事実は {at['untaught'][1]} % で、"
        f"偶然に当たる割合は {guessing} % です。"
        f"一般の試験は {at['general'][0]} % から {at['general'][1]} % になりました。\n\n"
        f"シードの数は {len(study.seeds)}、測定日は {study.about['created'][:10]}、計算機は {_device_ja(study.about['device'])} です。"
    )


def _device_ja(device: str) -> str:
    cores = re.fullmatch(r"CPU, (\d+) cores", device)
    return f"{cores[1]}コアのCPU" if cores else device
