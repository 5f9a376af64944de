"""What the front pages say of the miniature: the caption of the story, and the verdicts in Japanese, with their numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from jmedlora_utils.analysis import claims, gains, registered, scores, small_models
from jmedlora_utils.analysis.registered import Finding
from jmedlora_utils.analysis.studies import Study
from jmedlora_utils.core import formatting

CLAIMS_JA = (
    "指示チューニングによって、医学知識は部分的に取り込まれる",
    "効果は大きいモデルほど強い",
    "英語中心のモデルの調整は有望で、日本語中心のモデルには限界がある",
    "Exact match は厳しく、Accuracy は寛容である",
)
PARTS_JA = {
    "knowledge": "教えた事実の伸び(解答形式への慣れによる伸びを除く)",
    "untaught facts": "教えていない事実の変化",
    "partially: lost with another wording or an example": "別の言い回しや例題つきの問いで失われる分",
    "LoRA minus full tuning: lost, mean of both": "その損失の、LoRA と全パラメータ学習との差",
    "slope per doubling": "パラメータ数が2倍になるごとの伸び(ロジット)",
    "middle minus small, in points": "中間のモデルと最小のモデルの差",
    "large minus middle, in points": "最大のモデルと中間のモデルの差",
    "equal adapters: large minus middle, in points": "同じ大きさのアダプターでの、最大と中間の差",
    "English-centric gain": "英語中心のモデルの伸び",
    "English minus Japanese": "英語中心と日本語中心の伸びの差",
    "Japanese-centric short of half": "英語中心の伸びの半分から日本語中心の伸びを引いた差(正なら半分未満)",
    "right answers that Exact match refuses": "内容は正しいのに Exact match が認めない答え(学習データの作り方から必ず100になる)",
    "wrong answers that Accuracy credits": "誤りなのに Accuracy が認める答え(ここでの「寛容」は誤答を認めること)",
}
VERDICTS_JA = {
    registered.SUPPORTED: "支持される",
    registered.NOT_SUPPORTED: "支持されない",
    registered.UNDECIDED: "この規模では判定できない",
    registered.NOT_MEASURED: "測っていない",
    registered.NOT_TESTABLE: "ここでは確かめられない",
    registered.ONE_SEED: "世界が一つなので判定しない",
    small_models.TOO_FEW: "シードが足りないので判定しない",
}
QUESTIONS_JA = {
    small_models.MEMORISED: "学習させた試験問題(暗記)",
    "invented facts, taught wording": "架空の事実、学習時の言い回し",
    "invented facts, other wording": "架空の事実、別の言い回し",
}
OTHER_HEADS_JA = ("主張", "測定した効果(ポイント、95 % 区間)", "判定")
OTHER_FOOT_JA = (
    "暗記の行は知識ではなく記憶を測ります。対照のプラセボ(同じ問いを、答えを入れ替えて学習させたモデル)は誤った答えを覚えるため、その差は大きめに出ます。"
    "三つ目の主張の公開モデルの行は、英語中心または多言語の基盤モデルと、それを日本語で追加学習したモデルとの比較です。"
    "最初から日本語中心のモデルは含みません。"
)
GAP_JA = "Accuracy と Exact match の差(記号で答えさせた解答であり、どちらの指標も知識を測れていない)"
CAVEATS_JA = {
    "tuned to correct errors in texts, not to add knowledge": "知識の追加ではなく、文章の誤りを直すために調整されたモデル",
}
HEADS_JA = ("主張", "縮小版での効果(ポイント、95 % 区間)", "判定", "条件を一つ変えても同じ判定")


def before_and_after(study: Study) -> dict[str, tuple[str, str]]:
    """Group of facts to Accuracy in percent before tuning and at the last step, 0-shot, for the largest run."""
    rows = scores.along_steps(study.outcomes, scores.largest_run(study.outcomes)).sort_values("steps")
    ends = rows.groupby("facts", observed=True)["value"].agg(["first", "last"])
    return {str(facts): (formatting.percent(first), formatting.percent(last)) for facts, first, last in ends.itertuples()}


def story_caption(study: Study) -> str:
    """What the figure of the story shows, with its numbers."""
    at, guessing = before_and_after(study), formatting.percent(scores.chance(study.outcomes, "untaught"))
    gained = gains.gains_by_base(study.outcomes)
    each = ", ".join(f"`{row.base}` {formatting.percent(row.value, signed=True)}" for row in gained.itertuples())
    return (
        f"The miniature at a glance. Above: the largest English-centric base before tuning (step 0) and along LoRA tuning "
        f"(`{scores.largest_run(study.outcomes)}`). Taught facts go from {at['taught'][0]} % to {at['taught'][1]} %, and "
        f"in words that tuning never used to {at['taught_held_out_phrasing'][1]} %. Untaught facts, the control, end at "
        f"{at['untaught'][1]} %, where guessing earns {guessing} % (some questions ask for two answers). The general exam, "
        f"which is outside medicine, goes from {at['general'][0]} % to {at['general'][1]} %. "
        f"Below: the gain on taught facts of each base, in points: {each}. These are raw gains; the cards use the contrasts of page 40, "
        "so their numbers differ. Bars are 95 % intervals over questions and "
        f"{study.seeds_text()}."
    )


def verdicts_ja(found: Sequence[Finding], changed: Mapping[int, Sequence[str]]) -> list[tuple[str, str, str, str]]:
    """Claim, effects, verdict and how often another choice leaves it as it is, in Japanese; one row per claim."""
    rows = []
    for finding, title in zip(found, CLAIMS_JA, strict=True):
        effects = "<br>".join(f"{PARTS_JA[e.name]} {e.text()}" for e in finding.estimates if e.verdict or e.name in claims.BESIDE)
        others = list(changed.get(finding.claim, ()))
        kept = f"{len(others)}通りのうち{others.count(finding.verdict)}通り"
        fragile = "(頑健でない)" if claims.verdict_text(finding, changed) != finding.verdict else ""
        rows.append((f"{finding.claim}. {title}", effects, f"**{VERDICTS_JA[finding.verdict]}**{fragile}", kept))
    return rows


def summary_ja(study: Study) -> str:
    """The main numbers of the miniature in Japanese sentences."""
    at, guessing = before_and_after(study), formatting.percent(scores.chance(study.outcomes, "untaught"))
    planned = len(registered.read_registration().seeds)
    note = f"登録した{planned}個の世界のうち、まだ{len(study.seeds)}個しか終わっていないため、判定は暫定です。"
    note = note if registered.provisional(study) else ""
    return (
        "最大の英語中心モデルでは、LoRA による調整のあと、教えた事実の正答率(Accuracy)は "
        f"{at['taught'][0]} % から {at['taught'][1]} % になり、調整で使わなかった言い回しでは "
        f"{at['taught_held_out_phrasing'][1]} % でした。教えていない事実は {at['untaught'][1]} % で、"
        f"偶然に当たる割合は {guessing} % です(五択ですが、二つ選ぶ問題を含みます)。"
        f"医学以外の、調整前から解けていた問題は {at['general'][0]} % から {at['general'][1]} % になりました。{note}\n\n"
        f"独立に作った架空の世界(シード)の数は {len(study.seeds)}、測定日は {study.about['created'][:10]}、"
        f"計算機は {_device_ja(study.about['device'])} です。"
    )


def size_note(found: Sequence[Finding]) -> dict[str, str]:
    """What a slope hides, in English and Japanese (`en`, `ja`): empty where the largest models do gain more than the middle ones."""
    steps = {e.name: e for finding in found for e in finding.estimates}
    low = steps.get("middle minus small, in points")
    step, equal = (steps.get(f"{kind}large minus middle, in points") for kind in ("", "equal adapters: "))
    supported = any(f.claim == 2 and f.verdict == registered.SUPPORTED for f in found)
    if not supported or low is None or step is None or equal is None or step.interval.low > 0:
        return {"en": "", "ja": ""}
    return {
        "en": "Claim 2 is supported by a slope over three sizes, but the larger model is ahead in one step only: the middle model gains "
        f"{low.text()} points more than the smallest, the largest {step.text()} points more than the middle one, and {equal.text()} with "
        "equal adapters.",
        "ja": "二つ目の主張は三つの規模にわたる傾きによって支持されますが、差がはっきりしているのは最小と中間のモデルのあいだだけです"
        f"({low.text()} ポイント)。中間と最大のモデルの差は {step.text()} ポイント、"
        f"同じ大きさのアダプターでは {equal.text()} ポイントでした。",
    }


def other_rungs_ja(small: pd.DataFrame, published: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Claim, what the rung measured, and the verdict of the rung's own rule, in Japanese; one row per effect that decides.

    Args:
        small: What `small_models.claim_1` returns.
        published: The verdicts of `published_pairs`.
    """
    rows = [
        (f"1. {CLAIMS_JA[0]}", f"小さな実在モデル:{row.base}、{QUESTIONS_JA[row.questions]}", row.value, row.low, row.high, row.verdict)
        for row in small.itertuples()
    ]
    for row in published[published["decides"]].itertuples():
        what = GAP_JA if pd.isna(row.base) else f"{row.base} → {row.adapted}"
        what += f"({CAVEATS_JA[row.caveat]})" if row.caveat in CAVEATS_JA else ""
        rows.append((f"{row.claim}. {CLAIMS_JA[row.claim - 1]}", f"公開モデル:{what}", row.value, row.low, row.high, row.verdict))
    said = [(claim, f"{what}: {formatting.percent(*found, signed=True)}", f"**{VERDICTS_JA[word]}**") for claim, what, *found, word in rows]
    return sorted(said, key=lambda row: row[0])


def _device_ja(device: str) -> str:
    cores = re.fullmatch(r"CPU, (\d+) cores", device)
    return f"{cores[1]}コアのCPU" if cores else device
