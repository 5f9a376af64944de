"""What the findings, cost and error pages show: formatted tables, data of the figures, and sentences with their numbers.

Every number comes from a `tables.Study`; no number of a page is typed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from jmedlora_utils.analysis import findings, tables
from jmedlora_utils.analysis.findings import Condition, Finding
from jmedlora_utils.analysis.tables import Study
from jmedlora_utils.core import formatting, paths, statistics
from jmedlora_utils.core.records import read_record
from jmedlora_utils.data import invented_corpus, invented_world

PUBLISHED = paths.RESULTS / "published"
# Presets larger than the mini study, with what each would tell.
LARGER = {
    "midi": "the same study on one graphics card",
    "paper": "the paper's settings",
    "paper-sizes": "the paper's settings on three sizes",
    "paper-adapters": "the authors' released adapters",
    "modern": "current open models",
}
# Families of published scores: rows of one family may be compared with each other, rows of two families may not.
FAMILIES = {
    "gestalt": "A. Gestalt accuracy, text questions of 2018-2022, the author's harness",
    "letters": "B. Marks by letters, text questions of 2018-2021",
    "points5": "C. Points of the whole examination, 2018-2022",
    "points4": "D. Points of the whole examination, 2018-2021",
    "unknown": "E. Metric or questions not stated: compare with nothing",
    "ours": "F. This project: compare where the questions are the same",
}
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
    findings.SUPPORTED: "支持される",
    findings.NOT_SUPPORTED: "支持されない",
    findings.UNDECIDED: "この規模では判定できない",
    findings.NOT_MEASURED: "測っていない",
}
UNTAUGHT, UNTAUGHT_AGAIN = "untaught", "untaught_held_out_phrasing"
"""Untaught facts in the trained phrasing, and the same facts in the other one."""
METHOD_NAMES = {
    "none": "base",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "cpt-lora": "articles, then LoRA",
    "lora-emb": "LoRA, embeddings too",
    "full": "full tuning",
}


HEADINGS = {
    "points": "points [95 %]",
    "p": "Holm's p",
    "p_single": "McNemar's p",
    "by_rule": "by the rule",
    "centric": "centred on",
    "entry": "entry check (%)",
    "ja": "tokens a character, Japanese",
    "en": "English",
    "before": "before (%)",
    "after": "after (%)",
    "gain": "gain [95 %]",
    "flips": "fixed / broken",
    "chance": "chance (%)",
    "value": "Accuracy [95 %]",
    "covers": "covers chance",
    "exact": "Exact match (%)",
    "accuracy": "Accuracy (%)",
    "between": "right by Accuracy only",
    "near": "of these near misses",
    "reverse": "right by Exact match only",
    "percent": "%",
    "subset": "questions",
    "family": "comparable within",
    "published": "published",
    "miniature": "the miniature, points [95 %]",
    "larger": "larger runs",
    "same": "same verdict under other choices",
    "where": "",
    "kind": "step",
    "name": "what",
    "share": "share (%)",
    "seeds": "committed seeds (%)",
    "fresh": "this run (%)",
    "trainable": "trainable parameters",
    "peak": "peak memory (GiB)",
    "loss": "last loss",
    "category": "kind",
    "n_select": "answers to choose",
    "length": "question with choices",
}


def table(frame: pd.DataFrame, name: str, caption: str, study: Study | None = None) -> str:
    """`formatting.numbered` with the headings of these pages and, where a study is given, its source line as foot."""
    columns = {c: HEADINGS.get(c, c) for c in frame.columns}
    return formatting.numbered(frame, name, caption, columns, study.source_line() if study else "")


# --- claims -------------------------------------------------------------------------------------------------------


def glance_table(found: Sequence[Finding], changed: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a claim: what was published, the effects in the miniature, larger runs or the words "not run", the verdict.

    Args:
        found: The findings.
        changed: What `findings.robustness` returns; where given, the last column counts the changes that leave the verdict as it is.
    """
    published, larger = _published_claims(), larger_findings()
    rows = []
    for finding in found:
        number = finding.claim.number
        measured = [f"`{name}`: {_effects(others[number - 1])}" for name, others in larger.items()]
        measured += [] if any(name.startswith("paper") for name in larger) else ["at the paper's size: not run"]
        rows.append(
            {
                "claim": f"{number}. {finding.claim.title}",
                "published": published.loc[number, "published_value"],
                "miniature": _effects(finding),
                "larger": "; ".join(measured),
                "verdict": f"**{finding.verdict}**",
            }
        )
    shown = pd.DataFrame(rows)
    return shown if changed is None else shown.assign(same=[f"{same} of {n}" for same, n in findings.same_verdicts(changed)])


def claim_card(finding: Finding, study: Study) -> pd.DataFrame:
    """One claim from end to end: published, miniature, each larger preset or "not run", verdict; with what each rests on."""
    published, larger = _published_claims().loc[finding.claim.number], larger_findings()
    note = f"{published['note'][:1].upper()}{published['note'][1:]}"
    rows = [("published", published["published_value"], f"{published['source']}. {note}")]
    for part in finding.parts:
        basis = f"`{part.models}`, {study.preset}, {_seeds(study)}: {part.verdict}"
        basis += f", Holm's p {formatting.p_value(part.p)}" if part.p is not None else ""
        rows.append((f"miniature, {part.name}", f"{formatting.percent(*part.effect, signed=True)} points", basis))
    for name, about in LARGER.items():
        if name in larger:
            other = larger[name][finding.claim.number - 1]
            rows.append((f"`{name}`", _effects(other), f"{about}: {other.verdict}"))
    missing = ", ".join(f"`{name}`" for name in LARGER if name not in larger)
    rows += [("at a larger size", "not run", f"no record of {missing}")] if missing else []
    rows.append(("**verdict**", f"**{finding.verdict}**", finding.reason or "by the rule above, from the miniature alone"))
    return pd.DataFrame(rows, columns=["where", "result", "basis"])


def larger_findings() -> dict[str, list[Finding]]:
    """The verdicts on every preset of `LARGER` that has committed evidence."""
    there = [name for name in LARGER if (tables.evidence_folder(name) / "evidence.json").is_file()]
    return {name: findings.evaluate_claims(tables.read_evidence(tables.evidence_folder(name)).outcomes) for name in there}


def verdicts_ja(found: Sequence[Finding], changed: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Claim, effects, verdict and how often another choice leaves it as it is (`findings.same_verdicts`), in Japanese, one row a claim."""
    rows = []
    for finding, title, (same, n) in zip(found, CLAIMS_JA, findings.same_verdicts(changed), strict=True):
        effects = "<br>".join(f"{PARTS_JA[p.name]} {formatting.percent(*p.effect, signed=True)}" for p in finding.parts)
        rows.append((f"{finding.claim.number}. {title}", effects, f"**{VERDICTS_JA[finding.verdict]}**", f"{n} 通り中 {same}"))
    return rows


def _effects(finding: Finding) -> str:
    return "; ".join(f"{p.name} {formatting.percent(*p.effect, signed=True)}" for p in finding.parts) or finding.reason


def _seeds(study: Study) -> str:
    return f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"


def _published_claims() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / "claims.csv").set_index("claim")


def rule_text() -> str:
    """The rule in words, with its numbers, in Markdown."""
    level, margin = f"{100 * statistics.LEVEL:.0f} %", f"{100 * findings.MARGIN:.0f} points"
    return (
        f"One margin holds for every effect: {margin}. Less would not matter to anyone who has to choose a model.\n\n"
        f"- **{findings.SUPPORTED.capitalize()}:** the {level} interval lies above zero and the estimate reaches the margin.\n"
        f"- **{findings.NOT_SUPPORTED.capitalize()}:** the whole interval lies below the margin.\n"
        f"- **{findings.UNDECIDED.capitalize()}:** anything else, or the control failed.\n\n"
        "A claim of several parts is supported when all its parts are, and not supported when one is not. The first claim also needs a "
        f"paired McNemar test below {findings.ALPHA} after Holm's correction over all tuned models, kept steps, shots and phrasings. "
        f"The rule is the code of `jmedlora_utils/analysis/findings.py`; it was stated on {findings.STATED}, before the five-seed runs, "
        "and git keeps its history.\n\n"
        f"Its code was corrected on {findings.CORRECTED}, after a review and before any five-seed evidence existed; one of the five seeds "
        "had been asked in full. The code had departed from the stated rule: the control pooled the trained and the held-out phrasing, and "
        "so counted each untaught fact twice. It now reads the trained phrasing alone, as stated. The interval of claim 4 took every "
        "answer for a question of its own; it now rests on one mean a fact. The rule's words, margin and conditions did not change."
    )


def rules_view() -> pd.DataFrame:
    """The effect of each claim, as stated before the runs."""
    rules = findings.rules_table()
    rules["claim"] = rules["claim"].astype(str) + ". " + rules["says"]
    rules.loc[rules["claim"].duplicated(), "claim"] = ""
    return rules[["claim", "part", "effect"]]


# --- the study ----------------------------------------------------------------------------------------------------


def bases_table(study: Study) -> pd.DataFrame:
    """The bases: size, language, entry check, tokens per character of Japanese; means over seeds."""
    rows = []
    for record in (r for r in study.records if r.kind == "pretrain"):
        rows.append(
            {
                "base": record.model["base"],
                "centric": record.config["centric"],
                "parameters": record.counts["parameters"],
                "entry": record.metrics["entry"]["0shot"]["accuracy"],
                "ja": record.metrics["fertility"]["ja"],
                "en": record.metrics["fertility"]["en"],
            }
        )
    table = pd.DataFrame(rows).groupby(["base", "centric"]).agg("mean").reset_index().sort_values(["centric", "parameters"])
    return table.assign(
        parameters=table["parameters"].map(lambda n: f"{n:,.0f}"),
        entry=table["entry"].map(formatting.percent),
        ja=table["ja"].map("{:.2f}".format),
        en=table["en"].map("{:.2f}".format),
    )


def medical_reading(study: Study) -> str:
    """The unequal reading of medical words in pretraining, with the numbers expected from the records' settings."""
    rows = [
        (r.config["centric"], r.config["documents"] * (1 - r.config["english"]), invented_corpus.ja_shares(1 - r.config["english"]))
        for r in study.records
        if r.kind == "pretrain" and {"documents", "english"} <= set(r.config)
    ]
    expected = pd.DataFrame([{"centric": c, **{k: n * share for k, share in shares.items()}} for c, n, shares in rows])
    said = (
        "- **Unequal reading in claim 3.** Medical words occur in Japanese documents only. Suppositions and clinical questions answered by "
        "lot, which LoRA has to overwrite, are equally many for all bases. But a Japanese-centric base reads more sentences with medical "
        "words and no clinical content than an English-centric one, and so knows the words better, as a real one would."
    )
    if set(expected.get("centric", ())) != {"english", "japanese"}:
        return said
    by = expected.groupby("centric").mean()
    random = by[list(invented_corpus.RANDOM_KINDS)].sum(axis=1)
    return (
        f"{said} Expected from the settings of a base, Japanese-centric against English-centric: suppositions and lots, "
        f"{random['japanese']:,.0f} against {random['english']:,.0f}; such sentences, {by.loc['japanese', 'context']:,.0f} against "
        f"{by.loc['english', 'context']:,.0f}."
    )


def seeds_limit(study: Study) -> str:
    """What the number of seeds at hand leaves open, in Markdown."""
    n = len(study.seeds)
    if n == 1:
        return (
            "- **One seed.** One world with one set of bases can differ from another by luck, and the intervals on this page do not cover "
            "that: they speak of other questions only."
        )
    return f"- **Few seeds.** {n} worlds say little about rare failures of training."


def fertility_frame(study: Study) -> pd.DataFrame:
    """Tokens per character by kind of base and language, mean over bases and seeds; for `tuning_plots.fertility`."""
    rows = [
        (f"{r.config['centric'].capitalize()}-centric", language, value)
        for r in study.records
        if r.kind == "pretrain"
        for language, value in r.metrics["fertility"].items()
    ]
    frame = pd.DataFrame(rows, columns=["tokenizer", "language", "tokens_per_character"])
    return frame.groupby(["tokenizer", "language"], as_index=False).mean()


def select(study: Study, facts: str, shots: int = 0, method: str = "lora") -> pd.DataFrame:
    """Outcomes of the runs of one method on one group of facts."""
    frame = study.outcomes
    return frame[(frame["method"] == method) & (frame["facts"] == facts) & (frame["shots"] == shots)]


def chance(study: Study, facts: str = "taught") -> float:
    """Chance level of a group of facts, 0 to 1."""
    return float(study.outcomes.loc[study.outcomes["facts"] == facts, "chance"].mean())


def steps_frame(study: Study, facts: str = "taught", shots: int = 0) -> pd.DataFrame:
    """Accuracy against steps for each LoRA run, for `tuning_plots.accuracy_by_steps`."""
    return tables.estimates(select(study, facts, shots), ["base", "steps"])


def gains_frame(study: Study, condition: Condition = findings.HEADLINE) -> pd.DataFrame:
    """Gain of each LoRA run over its base with its interval (shares), for `tuning_plots.gain_by_size`."""
    runs = findings.runs(study.outcomes)
    effects = [findings.interval(findings.gains(study.outcomes, run, condition))._asdict() for run in runs["run"]]
    return pd.concat([runs, pd.DataFrame(effects)], axis=1)


def gains_table(study: Study, tests: pd.DataFrame, phrasings: Sequence[str] = findings.PHRASINGS) -> pd.DataFrame:
    """Before and after late tuning on taught facts, each tuned run: paired differences, flips and Holm's p."""
    frame, rows = study.outcomes, []
    tuned = frame[frame["steps"] > 0]
    for run in dict.fromkeys(tuned.sort_values(["size_params", "run"])["run"]):
        late = findings.step_of(frame, run, findings.HEADLINE.step_rank)
        for facts in phrasings:
            condition = Condition(facts=facts)
            before, after = findings.baseline(frame, run, condition), findings.outcomes(frame, run, late, condition)
            test = tests[(tests["run"] == run) & (tests["steps"] == late) & (tests["shots"] == 0) & (tests["facts"] == facts)].iloc[0]
            rows.append(
                {
                    "run": run,
                    "phrasing": "trained" if facts == "taught" else "held out",
                    "before": formatting.percent(before.groupby(level="seed").mean().mean()),
                    "after": formatting.percent(after.groupby(level="seed").mean().mean()),
                    "gain": formatting.percent(*findings.interval(after - before), signed=True),
                    "flips": f"{test['gained']} / {test['lost']}",
                    "n": int(test["n"]),
                    "p": formatting.p_value(test["p_holm"]),
                }
            )
    return pd.DataFrame(rows)


def late_frame(study: Study, bases: Sequence[str] | None = None) -> pd.DataFrame:
    """Accuracy by condition and group of facts at the late step, 0-shot, for `tuning_plots.dot_intervals`; untaught facts once.

    Args:
        study: The study.
        bases: Bases to show, all by default; each is preceded by its untuned self.
    """
    frame, parts = study.outcomes, []
    runs = frame[["run", "base", "size_params", "method"]].drop_duplicates().sort_values(["size_params", "base"])
    runs = runs.sort_values("method", key=lambda m: m.astype(str).map(list(METHOD_NAMES).index), kind="stable")
    runs = runs.sort_values(["size_params", "base"], kind="stable")
    for base, group in runs.groupby("base", sort=False, observed=True):
        if bases is not None and base not in bases:
            continue
        untuned = [r for r, m in zip(group["run"], group["method"], strict=True) if not str(m).startswith("cpt")]
        for run, method in zip(group["run"], group["method"], strict=True):
            rows = frame[(frame["run"] == run) & (frame["shots"] == 0)]
            if run in untuned and (rows["steps"] == 0).any() and not any(p["condition"].iloc[0] == f"{base}, base" for p in parts):
                parts.append(rows[rows["steps"] == 0].assign(condition=f"{base}, base"))
            if (rows["steps"] > 0).any():
                late = findings.step_of(frame, run, findings.HEADLINE.step_rank)
                parts.append(rows[rows["steps"] == late].assign(condition=f"{base}, {METHOD_NAMES[method]}"))
    order = list(dict.fromkeys(p["condition"].iloc[0] for p in parts))
    found = tables.estimates(_control_once(pd.concat(parts)), ["condition", "facts"])
    return found.sort_values("condition", key=lambda c: c.map(order.index), kind="stable", ignore_index=True)


def control_table(study: Study) -> tuple[pd.DataFrame, str]:
    """Untaught facts against chance: the late, 0-shot rows, and one sentence on every condition of the study."""
    found = findings.controls(study.outcomes)
    late = {run: findings.step_of(study.outcomes, run, findings.HEADLINE.step_rank) for run in set(found.loc[found["steps"] > 0, "run"])}
    shown = found[(found["shots"] == 0) & (found["steps"] == found["run"].map(late).astype(float))]
    value = [formatting.percent(*row) for row in shown[["value", "low", "high"]].itertuples(index=False)]
    covers = shown["covers"].map({True: "yes", False: "no"})
    view = shown.assign(
        value=value, chance=shown["chance"].map(formatting.percent), covers=covers, p=shown["p_holm"].map(formatting.p_value)
    )
    missed, lowest = found[~found["covers"]], float(found["p_holm"].min())
    above = int((missed["value"] > missed["chance"]).sum())
    said = f"{len(missed)} have a 95 % interval that misses chance, {above} of them from above" if len(missed) else "none misses chance"
    sentence = (
        f"Of {len(found)} conditions (every model, kept step, number of shots and exam), {said}; about {0.05 * len(found):.0f} of so many "
        "independent 95 % intervals would by luck alone, half of them from above, and conditions of one world are alike. "
        f"The smallest Holm-adjusted p value is {lowest:.3f}."
    )
    return view[["run", "exam", "n", "chance", "value", "covers", "p"]].reset_index(drop=True), sentence


def forms_table(study: Study) -> pd.DataFrame:
    """Answers on untaught facts over every condition: how many have the form asked for, and how many of these are right.

    An answer that names another number of listed choices than asked for cannot be right, so a model with many of them falls below chance
    without knowing less. The interval is over seeds (`statistics.mean_interval`).
    """
    rows = []
    for n_select, group in study.forms.groupby("n_select"):
        seeds = group.groupby("seed")[["as_asked", "right"]].sum().query("as_asked > 0")
        outcomes = [np.repeat([1.0, 0.0], [row.right, row.as_asked - row.right]) for row in seeds.itertuples()]
        row = {
            "choices to name": n_select,
            "answers": group["n"].sum(),
            "of the form asked for": formatting.percent(group["as_asked"].sum() / group["n"].sum()),
            "of these right": formatting.percent(*statistics.mean_interval(outcomes)) if outcomes else "no such answer",
            "chance": formatting.percent(1 / math.comb(invented_world.N_CHOICES, int(n_select))),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def largest(study: Study) -> str:
    """The LoRA run on the largest English-centric base."""
    tuned = findings.runs(study.outcomes)
    return str(tuned[tuned["centric"] == "english"].iloc[-1]["run"])


def story_frame(study: Study) -> pd.DataFrame:
    """Accuracy of the largest run by group of facts and step, 0-shot; untaught facts in the trained phrasing, as the rule says."""
    frame = study.outcomes
    own = frame[(frame["run"] == largest(study)) & (frame["shots"] == 0)]
    return tables.estimates(_control_once(own), ["facts", "steps"])


def _control_once(frame: pd.DataFrame) -> pd.DataFrame:
    """The outcomes without the held-out phrasing of untaught facts: with both, each of these facts would count twice."""
    return frame[(frame["facts"] != UNTAUGHT) | (frame["exam"] != findings.EXAM_OF["taught_held_out_phrasing"])]


def story_caption(study: Study) -> str:
    """What the figure of the introduction shows, with its numbers."""
    at = _late_values(study)
    each = ", ".join(f"`{row.base}` {formatting.percent(row.value, signed=True)}" for row in gains_frame(study).itertuples())
    return (
        f"The miniature at a glance. Above: the largest English-centric base before tuning (step 0) and along LoRA tuning "
        f"(`{largest(study)}`). Taught facts go from {at['taught'][0]} % to {at['taught'][1]} % at the late step, in words that tuning "
        f"never used to {at['taught_held_out_phrasing'][1]} %. Untaught facts, the control, end at {at['untaught'][1]} %, where guessing "
        f"earns {formatting.percent(chance(study, 'untaught'))} %. "
        f"The general exam goes from {at['general'][0]} % to {at['general'][1]} %. "
        f"Below: the gain on taught facts of each base, in points: {each}. Bars are 95 % intervals over questions and {_seeds(study)}."
    )


def _late_values(study: Study) -> dict[str, tuple[str, str]]:
    """Group of facts to Accuracy in percent before tuning and at the late step, for the largest run."""
    frame, late = story_frame(study), findings.step_of(study.outcomes, largest(study), findings.HEADLINE.step_rank)
    value = frame.set_index(["facts", "steps"])["value"]
    return {facts: (formatting.percent(value[facts, 0]), formatting.percent(value[facts, late])) for facts in frame["facts"].unique()}


def summary_ja(study: Study) -> str:
    """The main numbers of the miniature in Japanese sentences."""
    at = _late_values(study)
    return (
        "最大の英語中心モデルでは、LoRA による調整のあと、教えた事実の正答率(Accuracy)は "
        f"{at['taught'][0]} % から {at['taught'][1]} % になり、調整で使わなかった言い回しでは "
        f"{at['taught_held_out_phrasing'][1]} % でした。教えていない事実は {at['untaught'][1]} % で、"
        f"当て推量の水準は {formatting.percent(chance(study, 'untaught'))} % です。"
        f"一般の試験は {at['general'][0]} % から {at['general'][1]} % になりました。\n\n"
        f"シードの数は {len(study.seeds)}、測定日は {study.about['created'][:10]}、装置は {study.about['device']} です。"
    )


def seen_steps(study: Study) -> str:
    """What the figure of steps shows, in numbers."""
    frame, runs = steps_frame(study), findings.runs(study.outcomes)
    late = [findings.step_of(study.outcomes, run, findings.HEADLINE.step_rank) for run in runs["run"]]
    at = frame[frame["steps"] == frame["base"].astype(str).map(dict(zip(runs["base"].astype(str), late, strict=True)))]
    before = frame.loc[frame["steps"] == 0, "value"]
    each = "; ".join(f"`{row.base}` {formatting.percent(row.value, row.low, row.high)} %" for row in at.sort_values("value").itertuples())
    return (
        f"Before tuning the bases score {formatting.percent(before.min())} % to {formatting.percent(before.max())} %; blind picks earn "
        f"{formatting.percent(chance(study))} %. At the late step: {each}."
    )


def seen_facts(study: Study) -> str:
    """What the figure of groups shows for the largest run, in numbers."""
    at, names = _late_values(study), {"taught": "taught facts", "taught_held_out_phrasing": "the same in other words"}
    names |= {"untaught": "untaught facts", "general": "the general exam"}
    each = "; ".join(f"{name} {at[facts][0]} % → {at[facts][1]} %" for facts, name in names.items())
    return f"`{largest(study)}`, before tuning and at the late step: {each}. Blind picks earn {formatting.percent(chance(study))} %."


def seen_size(study: Study) -> str:
    """What the figure of sizes shows, in numbers."""
    each = [
        f"`{row.base}` ({row.size_params:,.0f} parameters) {formatting.percent(row.value, row.low, row.high, signed=True)}"
        for row in gains_frame(study).itertuples()
    ]
    return f"Gains in points: {'; '.join(each)}."


def seen_fertility(study: Study) -> str:
    """What the figure of fertility shows, in numbers."""
    value = fertility_frame(study).set_index(["tokenizer", "language"])["tokens_per_character"]
    japanese = {kind: value[kind, "ja"] for kind in value.index.get_level_values("tokenizer").unique()}
    each = "; ".join(f"{kind} {tokens:.2f}" for kind, tokens in japanese.items())
    return f"Tokens a character of Japanese text: {each}."


def seen_forgetting(study: Study) -> str:
    """What the figure of forgetting shows, in numbers."""
    frame = forgetting_frame(study)
    last = frame.loc[frame.groupby("run", sort=False)["steps"].idxmax()].sort_values("value")
    start = frame.loc[frame["steps"] == 0, "value"]
    most, least = last.iloc[0], last.iloc[-1]
    return (
        f"Before tuning every model of the figure has {formatting.percent(start.min())} % or more. "
        f"At the last step most is lost by `{most['run']}` "
        f"({formatting.percent(most['value'])} % left) and least by `{least['run']}` ({formatting.percent(least['value'])} %)."
    )


def leniency_table(study: Study) -> pd.DataFrame:
    """Exact match against Accuracy of the late LoRA answers on taught facts, and how many of the answers in between are near."""
    rows = []
    for run, group in findings.leniency(study.outcomes).groupby(level="run", observed=True):
        between = group["lenient"] > 0
        rows.append(
            {
                "run": run,
                "exact": formatting.percent(group["exact_match"].mean()),
                "accuracy": formatting.percent(group["accuracy"].mean()),
                "between": int(between.sum()),
                "near": int(group["near_miss"].sum()),
                "reverse": int((group["lenient"] < 0).sum()),
                "n": len(group),
            }
        )
    return pd.DataFrame(rows)


def run_order(study: Study) -> list[str]:
    """Tuned and untuned runs, smallest base first: the order, and so the colours, of every figure of runs."""
    return list(dict.fromkeys(study.outcomes.sort_values(["size_params", "run"])["run"].astype(str)))


def forgetting_frame(study: Study) -> pd.DataFrame:
    """Accuracy on the general exam against steps for every run, 0-shot, for `tuning_plots.forgetting`."""
    frame = study.outcomes
    general, parts = frame[(frame["facts"] == "general") & (frame["shots"] == 0)], []
    for run in run_order(study):
        own = general[general["run"] == run]
        if not (own["steps"] == 0).any():
            before = findings.baseline(frame, run, Condition(facts="general"))
            start = pd.DataFrame({"seed": before.index.get_level_values("seed"), "steps": 0, "accuracy": before.to_numpy(float)})
            own = pd.concat([start, own[["seed", "steps", "accuracy"]]])
        parts.append(tables.estimates(own, ["steps"]).assign(run=run))
    return pd.concat(parts, ignore_index=True)


def robustness_view(study: Study) -> pd.DataFrame:
    """`findings.robustness`, ready to print."""
    return findings.robustness(study.outcomes)


def sources_frame() -> pd.DataFrame:
    """IgakuQA scores in Japanese from every source, in percent, with the metric and the questions of each.

    Points of single years are put together and divided by the points of those years.

    Returns:
        Columns `family` (key of `FAMILIES`), `system`, `percent` (NaN where nothing was run), `metric`, `subset`, `source`,
        `note`; families in their order, best system last.
    """
    reported = pd.read_csv(PUBLISHED / "reported.csv", keep_default_na=False)
    igaku = reported[reported["exam"].str.startswith("IgakuQA") & (reported["language"] == "ja")]
    shares = igaku[(igaku["unit"] == "%") & ~igaku["group"].isin(["re-scored", "leaderboard shuffled"])]
    shares = shares.assign(family=shares["subset"].map(_family), percent=shares["value"].astype(float))
    letters = _pool_years(igaku[igaku["group"] == "re-scored"]).assign(family="letters")
    points = igaku[igaku["unit"] == "points"]
    earlier = points[~points["exam"].str.endswith("2022")]
    found = pd.concat([shares, letters, _points(points, "points5"), _points(earlier, "points4"), _own_card(), _ours()])
    found = found.assign(order=found["family"].map(list(FAMILIES).index)).sort_values(["order", "percent"], kind="stable")
    shown = found[["family", "system", "percent", "metric", "subset", "source", "note"]]
    return shown.fillna(dict.fromkeys(("metric", "subset", "source", "note"), "")).reset_index(drop=True)


def sources_table() -> pd.DataFrame:
    """`sources_frame`, ready to print: the family once, in its first row."""
    frame = sources_frame()
    score = frame["percent"].map(lambda value: "not run" if np.isnan(value) else f"{value:.1f}")
    family = frame["family"].map(FAMILIES).where(~frame["family"].duplicated(), "")
    return frame.assign(percent=score, family=family)


def sources_warning() -> str:
    """Which published numbers must not be set against each other, and why, in Markdown."""
    value = sources_frame().drop_duplicates(["family", "system"]).set_index(["family", "system"])["percent"]
    stated = next(percent for (family, system), percent in value.items() if family == "unknown" and system.startswith("JMedLoRA"))
    both = sorted({system for family, system in value.index if family == "letters"} - {"student-majority"})
    apart = "; ".join(f"{name} {value['letters', name]:.1f} % by letters and {value['points4', name]:.1f} % of the points" for name in both)
    return (
        f":::{{warning}}\n**Compare within a family only.** The paper's own number, {stated:.1f} %, stands in family E: neither its "
        "metric nor its questions are stated. So no other row, of any family, may be set against it, and no difference between it and a "
        "later model is an effect of size, method or data. Families A and B ask nearly the same kind of question, and differ in years "
        "and in how an answer is read. Families C and D add the questions on images and the weights of the examination. The same "
        f"answers earn different percentages in different families: {apart}.\n:::"
    )


def sources_seen() -> str:
    """What stands in the family of this project, in words."""
    frame = sources_frame()
    ours = frame[(frame["family"] == "ours") & frame["percent"].notna()]
    if ours.empty:
        return "No model of this project has sat this examination, so its family has no panel."
    return (
        f"The last panel is this project's own: {len(ours)} scores from the runs on this machine. They are Accuracy by the journal's "
        "formulas, so they may be set beside each other where the questions are the same, and beside no other panel."
    )


def _ours() -> pd.DataFrame:
    """Accuracy of every model of this project that was asked IgakuQA in a run on this machine, or one row without a number."""
    rows = []
    for path in sorted(paths.runs_root().glob("*/seed*/records/30_evaluate__*__igakuqa*.json")):
        record = read_record(path)
        config, accuracy = record.config, record.metrics["journal"]["all"]["accuracy"]
        # A smoke run is no evidence, and a variant is the same weights loaded in another way.
        if record.status != "done" or record.preset == "smoke" or config.get("variant_of"):
            continue
        left_out = sum(record.counts.get("excluded", {}).values())
        rows.append(
            {
                "system": "{run_name}, step {step}, {shots}-shot".format(**config),
                "percent": 100 * accuracy["value"],
                "metric": "Accuracy, journal",
                "subset": f"{config['exam']}, {accuracy['n']:,} items asked" + (f", {left_out:,} left out" if left_out else ""),
                "source": f"this project, preset {record.preset}, seed {record.seed}, {record.device}, {record.created[:10]}",
            }
        )
    none = {"system": "any model", "note": "the examination has been put to none of our models"}
    return pd.DataFrame(rows or [none]).assign(family="ours")


def _family(subset: str) -> str:
    if subset.startswith("IgakuQA text-only"):
        return "gestalt"
    return "points5" if subset.startswith("all 2,000") else "unknown"


def _points(rows: pd.DataFrame, family: str) -> pd.DataFrame:
    """Points of single years as a share of the points of those years."""
    marks = pd.read_csv(paths.PACKAGE_DATA / "pass_marks.csv")
    full = (marks["required_max"] + marks["general_max"]).groupby(marks["year"]).sum()
    found = []
    for system, group in rows.groupby("system", sort=False):
        years = group["exam"].map(lambda exam: int(re.search(r"\d{4}$", exam).group()))
        total = int(full[years].sum())
        source, value = group["source"].iloc[0], 100 * group["value"].astype(float).sum() / total
        row = {"system": system, "percent": value, "metric": f"points of {total:,}", "subset": "all items", "source": source}
        found.append(row | {"family": family, "note": "years put together here"})
    return pd.DataFrame(found)


def _own_card() -> pd.DataFrame:
    """Points of the answers published with IgakuQA, as notebook 31 marks them."""
    card = pd.read_csv(PUBLISHED / "exam_card.csv").replace({"system": {"translate_chatgpt-en": "chatgpt-en"}})
    rows = []
    for system, row in card.groupby("system", sort=False)[["points", "max_points"]].sum().iterrows():
        share, metric = 100 * row["points"] / row["max_points"], f"points of {row['max_points']:,.0f}"
        rows.append({"family": "points4", "system": system, "percent": share, "metric": metric})
    made = {"subset": "all items", "source": "IgakuQA baseline_results, re-scored here (notebook 31)", "note": "years put together here"}
    return pd.DataFrame(rows).assign(**made)


def _pool_years(rows: pd.DataFrame) -> pd.DataFrame:
    """Published answers re-scored year by year, put together with each year's number of questions as weight."""
    n = rows["subset"].str.extract(r"(\d+) items")[0].astype(int)
    found = []
    for system, group in rows.groupby("system", sort=False):
        weight = n.loc[group.index]
        value = float((group["value"].astype(float) * weight).sum() / weight.sum())
        subset = f"text-only, five choices, 2018-2021, {weight.sum():,} items"
        found.append(group.iloc[0].to_dict() | {"system": system, "percent": value, "metric": "marks by letters", "subset": subset})
    return pd.DataFrame(found)


def minutes_table(study: Study) -> pd.DataFrame:
    """Where the minutes of one seed go: preparing, pretraining, tuning and evaluating, mean over seeds, longest first."""
    spent = tables.costs(study.records)[["kind", "name", "seconds"]]
    asked = [{"kind": "evaluate", "name": run, "seconds": s} for run, s in study.about["evaluate_seconds"].items()]
    spent = pd.concat([spent, pd.DataFrame(asked)]).sort_values("seconds", ascending=False)
    share = spent["seconds"] / spent["seconds"].sum()
    return spent.assign(minutes=(spent["seconds"] / 60).map("{:.1f}".format), share=share.map(formatting.percent))[
        ["kind", "name", "minutes", "share"]
    ]


def minutes_sentence(study: Study) -> str:
    """Total minutes of one seed by kind of step."""
    spent = tables.costs(study.records).groupby("kind")["seconds"].sum()
    spent["evaluate"] = sum(study.about["evaluate_seconds"].values())
    each = ", ".join(f"{kind} {seconds / 60:.1f}" for kind, seconds in spent.sort_values(ascending=False).items())
    return (
        f"In these records one seed took {spent.sum() / 60:.1f} minutes of work, one step after another ({each}). What else the machine "
        "did beside it is not recorded, so this is an upper bound."
    )


def agreement_table(study: Study, fresh: Study) -> pd.DataFrame:
    """A fresh run beside the committed seeds: Accuracy at the late step, 0-shot, and whether it lies in the range of the seeds."""
    rows = []
    for run in findings.runs(study.outcomes)["run"]:
        for facts in (*findings.PHRASINGS, "untaught", "general"):
            exam = {"general": "mini_general", "taught_held_out_phrasing": "mini_heldout"}.get(facts, "mini_trained")
            by_seed, own = (_late_means(s, run, facts, exam) for s in (study, fresh))
            if by_seed.empty or own.empty:
                continue
            low, high, value = by_seed.min(), by_seed.max(), own.mean()
            inside = "yes" if low <= value <= high else "no"
            span = f"{formatting.percent(low)} to {formatting.percent(high)}"
            rows.append({"run": run, "facts": facts.replace("_", " "), "seeds": span, "fresh": formatting.percent(value), "inside": inside})
    return pd.DataFrame(rows, columns=["run", "facts", "seeds", "fresh", "inside"])


def fresh_run(study: Study) -> Study | None:
    """The run of the same preset on this machine, where the page shows committed evidence and a run exists."""
    if study.origin != "committed":
        return None
    preset = study.preset.removesuffix("-seeds")
    return tables.read_runs(preset) if list((paths.runs_root() / preset).glob("seed*/records/30_*.json")) else None


def _late_means(study: Study, run: str, facts: str, exam: str) -> pd.Series:
    frame = study.outcomes
    if not ((frame["run"] == run) & (frame["steps"] > 0)).any():
        return pd.Series(dtype=float)
    late = findings.step_of(frame, run, findings.HEADLINE.step_rank)
    wanted = (frame["run"] == run) & (frame["steps"] == late) & (frame["shots"] == 0) & (frame["facts"] == facts) & (frame["exam"] == exam)
    return frame[wanted].groupby("seed")["accuracy"].mean()


# --- cost ---------------------------------------------------------------------------------------------------------


def losses_frame(study: Study, points: int = 60) -> pd.DataFrame:
    """Loss of each tuned run in stretches of equal length, so that lines are readable; columns as `tuning_plots.loss_curves` takes."""
    series = tables.series(study.records)
    width = series.groupby(["run", "seed"])["step"].transform("max") / points
    stretch = np.ceil(series["step"] / width.clip(lower=1))
    grouped = series.assign(stretch=stretch).groupby(["run", "seed", "stretch"])
    found = grouped.agg(step=("step", "max"), loss=("loss", "mean")).reset_index()
    return found.sort_values("run", key=lambda r: r.map(run_order(study).index), kind="stable", ignore_index=True)


def cost_table(study: Study) -> pd.DataFrame:
    """Each trained model: trainable parameters and their share, minutes, peak memory, last loss; means over seeds."""
    rows = []
    for record in (r for r in study.records if r.kind == "tune"):
        trainable, total = record.counts["trainable_parameters"], record.model.get("parameters", np.nan)
        rows.append(
            {
                "run": record.config["run_name"],
                "trainable": trainable,
                "share": trainable / total,
                "minutes": record.wall_seconds / 60,
                "peak": record.peak_memory_bytes / 2**30,
                "loss": record.metrics["final_loss"],
            }
        )
    table = pd.DataFrame(rows).groupby("run", sort=False).mean().reset_index()
    return table.assign(
        trainable=table["trainable"].map("{:,.0f}".format),
        share=table["share"].map(formatting.percent),
        minutes=table["minutes"].map("{:.2f}".format),
        peak=table["peak"].map("{:.2f}".format),
        loss=table["loss"].map("{:.3f}".format),
    )


def price_frame(study: Study) -> pd.DataFrame:
    """Minutes of tuning against the gain, one row a tuned run; minutes are means over seeds.

    The gain is that on taught facts in the miniature, else on the questions of the first exam.
    """
    there = set(study.outcomes["facts"].astype(str))
    facts = findings.HEADLINE.facts if findings.HEADLINE.facts in there else min(there)
    spent = {r.config["run_name"]: [] for r in study.records if r.kind == "tune"}
    for record in (r for r in study.records if r.kind == "tune"):
        spent[record.config["run_name"]].append(record.wall_seconds / 60)
    rows = []
    for run in (r for r in run_order(study) if r in spent):
        minutes = spent[run]
        rank = len(sorted(study.outcomes.loc[(study.outcomes["run"] == run) & (study.outcomes["steps"] > 0), "steps"].unique())) - 1
        effect = findings.interval(findings.gains(study.outcomes, run, Condition(step_rank=max(rank, 0), facts=facts)))
        rows.append({"run": run, "minutes": float(np.mean(minutes)), **effect._asdict()})
    return pd.DataFrame(rows)


# --- errors -------------------------------------------------------------------------------------------------------


def phrasings_apart(study: Study) -> pd.DataFrame:
    """The outcomes with the untaught facts of each phrasing as a group of their own: together, each fact would count twice."""
    frame = study.outcomes
    again = (frame["facts"] == UNTAUGHT) & (frame["exam"] == findings.EXAM_OF["taught_held_out_phrasing"])
    return tables.compact(frame.assign(facts=frame["facts"].astype(str).mask(again, UNTAUGHT_AGAIN)))


def flips(study: Study, run: str, facts: Sequence[str] = ()) -> pd.DataFrame:
    """Every question at the late step, 0-shot, before and after tuning: columns of the question, `before`, `after`, `flip`.

    A fact stands once in each group: the two phrasings of a fact are two groups.

    Args:
        study: The study.
        run: A tuned run.
        facts: Groups of questions; by default every group that the run was asked.
    """
    frame = phrasings_apart(study)
    there = set(frame.loc[frame["run"] == run, "facts"])
    facts = facts or [g for g in (*findings.PHRASINGS, UNTAUGHT, UNTAUGHT_AGAIN, "general") if g in there] or sorted(there)
    late, found = findings.step_of(frame, run, findings.HEADLINE.step_rank), []
    about = frame.drop_duplicates(["seed", "exam", "id"]).set_index(["seed", "exam", "id"])[["facts", "category", "n_select", "chance"]]
    for group in facts:
        condition = Condition(facts=group)
        after = findings.outcomes(frame, run, late, condition)
        found.append(pd.DataFrame({"before": findings.baseline(frame, run, condition), "after": after}))
    table = pd.concat(found).join(about).reset_index()
    names = {(0, 1): "fixed", (1, 0): "broken", (1, 1): "right twice", (0, 0): "wrong twice"}
    return table.assign(flip=[names[(int(b), int(a))] for b, a in zip(table["before"], table["after"], strict=True)])


def main_questions(flipped: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The flips that a page looks into, and their name: taught facts in the miniature, else every question of the exams.

    Taught facts are those of the trained phrasing alone, as in the rule of the verdicts, so that no fact counts twice.
    """
    taught = flipped[flipped["facts"] == findings.HEADLINE.facts]
    if len(taught):
        return taught, "Taught facts, trained phrasing"
    named = flipped["category"].astype(object).where(flipped["category"].notna() & (flipped["category"].astype(str) != ""), "not named")
    return flipped.assign(category=named.astype(str)), "Questions of every exam"


def guesses_sentence(flipped: pd.DataFrame) -> str:
    """Whether fixed and broken questions balance where a model can only guess, and what was broken of the general exam."""
    tests = {group: statistics.mcnemar_exact(own["before"], own["after"]) for group, own in flipped.groupby("facts")}
    if UNTAUGHT not in tests:
        return "No group of questions here is known to be guessed at."
    control = tests[UNTAUGHT]
    said = f"Of the questions on untaught facts {_counts(control)}"
    said += f"; asked in the held-out phrasing, {_counts(tests[UNTAUGHT_AGAIN])}" if UNTAUGHT_AGAIN in tests else ""
    said += f". Luck alone {'often' if control.p >= 0.05 else 'seldom'} splits the first pair, the control, so unevenly."
    if "general" in tests:
        said += f" Of the general exam, where a broken question is forgetting, {_counts(tests['general'])}."
    return said


def _counts(test: statistics.PairedTest) -> str:
    return f"{test.gained} were fixed and {test.lost} broken (McNemar's p {formatting.p_value(test.p)})"


def flips_table(flipped: pd.DataFrame, by: str) -> pd.DataFrame:
    """Fixed and broken questions by a column, with the paired gain and its interval."""
    rows = []
    for key, group in flipped.groupby(by, observed=True, sort=False):
        values = group.set_index("seed")
        gain = findings.interval(values["after"] - values["before"])
        count = group["flip"].value_counts()
        row = {
            by: str(key).replace("_", " "),
            **{name: int(count.get(name, 0)) for name in ("fixed", "broken", "right twice", "wrong twice")},
        }
        rows.append(row | {"n": len(group), "gain": formatting.percent(*gain, signed=True), "p_single": _flip_p(group)})
    return pd.DataFrame(rows)


def _flip_p(group: pd.DataFrame) -> str:
    return formatting.p_value(statistics.mcnemar_exact(group["before"], group["after"]).p)


def length_groups(study: Study, flipped: pd.DataFrame) -> pd.DataFrame:
    """The flips of the first seed, whose texts are kept, with the length of the question (stem and choices) in three groups."""
    texts = study.questions[study.questions["seed"] == study.seeds[0]]
    length = texts["text"].str.len() + texts["choices"].map(lambda c: sum(map(len, c)))
    known = texts[["seed", "exam", "id"]].assign(characters=length)
    joined = flipped.merge(known, on=["seed", "exam", "id"])
    return joined.assign(length=thirds(joined["characters"]))


def thirds(characters: pd.Series) -> pd.Series:
    """Lengths in three groups of about equal size, named by their ends; an ordered category."""
    edges = characters.quantile([0, 1 / 3, 2 / 3, 1]).round().astype(int).unique()
    labels = [f"{low + (rank > 0)} to {high} characters" for rank, (low, high) in enumerate(itertools.pairwise(edges))]
    return pd.cut(characters, edges, labels=labels, include_lowest=True)


def example(study: Study, run: str, flipped: pd.DataFrame, flip: str) -> pd.DataFrame:
    """One question that flipped this way, choice by choice: its distance to the answer before and after; empty if there is none.

    Returns:
        Columns `letter`, `choice`, `gold`, `before`, `after` (gestalt distance, journal variant); `attrs` holds `text`,
        `response_before` and `response_after`.
    """
    from jmedlora_utils.evaluation.metrics import gestalt_distance

    late = findings.step_of(study.outcomes, run, findings.HEADLINE.step_rank)
    answers = study.examples[study.examples["run"] == run].set_index(["seed", "exam", "id", "steps"])["response"]
    texts = study.questions.dropna(subset=["text"]).set_index(["seed", "exam", "id"])
    for key in flipped.loc[flipped["flip"] == flip, ["seed", "exam", "id"]].itertuples(index=False, name=None):
        if key in texts.index and (*key, 0) in answers.index and (*key, late) in answers.index:
            question, before, after = texts.loc[key], answers[(*key, 0)], answers[(*key, late)]
            rows = [
                {
                    "letter": letter,
                    "choice": choice,
                    "gold": "gold" if letter in question["gold"] else "",
                    "before": f"{gestalt_distance(before, choice):.2f}",
                    "after": f"{gestalt_distance(after, choice):.2f}",
                }
                for letter, choice in zip("abcdefghij", question["choices"], strict=False)
            ]
            table = pd.DataFrame(rows)
            table.attrs = {"text": question["text"], "response_before": before, "response_after": after, "exam": key[1]}
            return table
    return pd.DataFrame(columns=["letter", "choice", "gold", "before", "after"])


def example_card(table: pd.DataFrame, flip: str) -> str:
    """An `example` in Markdown: the question, both answers, and the distance of each choice to them."""
    if table.empty:
        return f"No question of the kept answers is {flip}."
    said = table.attrs
    answers = f"Before tuning: 「{formatting.escape(said['response_before'])}」. After: 「{formatting.escape(said['response_after'])}」."
    heads = {"letter": "", "choice": "choice", "gold": "", "before": "distance before", "after": "distance after"}
    question = f"**{flip.capitalize()}** ({said['exam']}): {formatting.escape(said['text'])}"
    return f"{question}\n\n{answers}\n\n{formatting.markdown(table, heads, ['choice'])}\n"
