"""The exams of a workspace: collected from every source, written in the one schema, and summed up."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import fetch, igakuqa119
from jmedlora_utils.data.igakuqa import load_igakuqa, load_worked_examples
from jmedlora_utils.data.igakuqa119 import load_igakuqa119
from jmedlora_utils.data.jjsimqa import STRAY_COMMA, load_jjsimqa
from jmedlora_utils.data.jmle2026 import KEY_NOTE, load_jmle2026
from jmedlora_utils.data.questions import AMBIGUOUS, LETTERS, MISREAD, Question, read_exam, select_text_five, wide

EXAMS = ("mini", *fetch.EXAMS)
SHOTS = "_shots"
WHOLE = {"jjsimqa": 460, "igakuqa119": 288, "jmle2026": 299}
"""Published exams that have no years to choose from, and how many of their questions a text model is asked."""
RECENT = {"igakuqa119": load_igakuqa119, "jmle2026": load_jmle2026}
"""The examinations since 2025, whose key can be corrected by a file."""
INVENTED_EXAMS = ("mini_trained", "mini_heldout", "mini_general", "mini_article", "mini_bm25", "mini_half", "mini_lookalike")
TAUGHT_EXAMS = ("small_exam_1", "small_exam_2")  # real questions, some of which were taught; their texts are never kept
QUIZ_EXAMS = ("quiz", "quiz_bm25")  # questions on one's own articles; their texts are never kept
PREPARED = (*INVENTED_EXAMS, *TAUGHT_EXAMS, "small_transfer", *QUIZ_EXAMS, "exam_sample")
"""What notebooks 10, 12, 13 and 14 write; a few hundred short questions at most."""


@dataclass(frozen=True)
class Collected:
    """Exams ready to be written."""

    exams: dict[str, list[Question]] = field(default_factory=dict)  #: Name to every question
    #: Name to the questions a text model is asked: all of a mini exam, the text-only five-choice ones of a real one
    asked: dict[str, list[Question]] = field(default_factory=dict)
    shots: dict[str, list[Question]] = field(default_factory=dict)  #: Name to worked examples, none of which is a question of the exam
    notices: list[str] = field(default_factory=list)  #: What was verified, fetched or skipped


def collect(
    workspace: paths.Workspace, exams: Sequence[str], years: Sequence[int], language: str, on_missing: str, corrections: str = ""
) -> Collected:
    """Reads the exams, real ones from files that are fetched and verified first."""
    if unknown := sorted(set(exams) - set(EXAMS)):
        raise JmedloraError(f"parameter exams: no exam {unknown[0]!r}; known: {', '.join(EXAMS)}")
    if on_missing not in ("error", "skip"):
        raise JmedloraError(f"parameter on_missing is {on_missing!r}; it takes 'error' or 'skip'")
    if corrections and len(set(exams) & set(RECENT)) != 1:
        raise JmedloraError(f"parameter corrections: it corrects one exam of {', '.join(RECENT)}; name one of them in exams, and no other")
    found = Collected()
    for exam in exams:
        if exam == "mini":
            _collect_mini(workspace, found, on_missing)
        elif on_missing == "skip" and not fetch.available([exam], years, answers=False):
            found.notices.append(f"{exam} is not on this machine and on_missing is 'skip': left out.")
        else:
            _collect_real(exam, years, language, found, on_missing == "error", corrections if exam in RECENT else "")
    return found


def _collect_mini(workspace: paths.Workspace, found: Collected, on_missing: str) -> None:
    files = sorted((workspace.data / "exams").glob("mini_*.jsonl"))
    if not files:
        problem = f"no mini exam below {paths.relative(workspace.data / 'exams')}; run notebook 10_prepare_instructions first"
        if on_missing == "error":
            raise JmedloraError(problem)
        found.notices.append(problem)
    for path in files:
        if path.stem.endswith(SHOTS):
            found.shots[path.stem.removesuffix(SHOTS)] = read_exam(path)
        else:
            found.exams[path.stem] = found.asked[path.stem] = read_exam(path)


def _collect_real(exam: str, years: Sequence[int], language: str, found: Collected, download: bool, corrections: str) -> None:
    # The worked examples of IgakuQA serve every real exam: they are no test question of any.
    fetched = fetch.ensure({exam: None, "igakuqa": None}, years if exam == "igakuqa" else (), download=download, answers=False)
    english = exam == "igakuqa" and language == "en"
    name = f"{exam}_en" if english else exam
    questions = load_published_exam(exam, fetched.folder, years, language, corrections)
    found.notices.append(f"{name}: {fetched.notice()}")
    if exam in RECENT:
        found.notices.append(key_notice(exam, corrections))
    found.exams[name] = questions
    found.asked[name], _ = select_text_five(questions)
    shots = load_worked_examples(fetched.folder, language if exam == "igakuqa" else "ja")
    if shared := {q.text for q in shots} & {q.text for q in questions}:
        raise JmedloraError(f"{name}: a worked example is a test question ({min(shared)[:20]}...); leave it out of the shots")
    found.shots[name] = shots


def years_named(exam: str) -> range | None:
    """The years of `igakuqa_<year>` or `igakuqa_<first>_<last>`; None for another name."""
    found = re.fullmatch(r"igakuqa_(\d+)(?:_(\d+))?", exam)
    return range(int(found[1]), int(found[2] or found[1]) + 1) if found else None


def key_notice(exam: str, corrections: str = "") -> str:
    """What a page says of the key of an exam of `RECENT`."""
    if corrections:
        return f"{exam}: the key was corrected by {Path(corrections).name}."
    return f"{exam}: {KEY_NOTE if exam == 'jmle2026' else 'the key of the repository, nothing corrected.'}"


def load_published_exam(exam: str, folder: Path, years: Sequence[int] = (), language: str = "ja", corrections: str = "") -> list[Question]:
    """Every question of a published exam, from the data folder; years and language matter to IgakuQA alone."""
    if exam in RECENT:
        return RECENT[exam](folder, corrections)
    if exam == "igakuqa":
        return load_igakuqa(folder, years, language)
    if exam == "jjsimqa":
        return load_jjsimqa(folder)
    raise JmedloraError(f"no published exam {exam!r}; known: igakuqa, jjsimqa, {', '.join(RECENT)}")


def summary(questions: Sequence[Question]) -> dict[str, Any]:
    """Counts of one exam: items, points, text-only, asked of a text model, images, by number to choose."""
    kept, _ = select_text_five(questions)
    asked = Counter(q.n_select for q in kept or questions)
    return {
        "items": len(questions),
        "points": int(sum(q.points for q in questions)),
        "text_only": sum(q.text_only for q in questions),
        "image": sum(not q.text_only for q in questions),
        "text_five": sum(q.text_only and q.rule != "number" and len(q.choices) == 5 for q in questions),
        **{f"choose_{n}": asked[n] for n in (1, 2, 3)},
        "prohibited": sum(bool(q.prohibited) for q in questions),
    }


_LOST = {name for _, name in MISREAD}
_ERRATA = (
    ("withdrawn, 0 points", lambda q: q.points == 0, "stays in the denominator of items, adds no points"),
    ("any of the gold letters", lambda q: q.rule == "any", "one of them is enough"),
    ("credited to everyone", lambda q: q.rule == "always", "right whatever the answer"),
    ("free number", lambda q: q.rule == "number", "gold read through the mask of the stem, compared as a decimal"),
    (
        "choices printed in the stem",
        lambda q: bool(q.choices) and set(q.choices) <= set(map(wide, LETTERS)),
        "the letter stands for the choice",
    ),
    ("same choice twice", lambda q: len(set(q.choices)) < len(q.choices), "equal texts count as one choice"),
    (
        "students' shares misprinted",
        lambda q: bool(q.choices) and not q.breakdown and q.student_accuracy is not None,
        "shares left out, the answer key is not touched",
    ),
    ("stray comma in gold", lambda q: (q.exam, q.id) == ("jjsimqa", STRAY_COMMA), "letters only"),
    *(
        (
            f"read by machine: {slip}",
            lambda q, name=name: (q.exam, q.id) == ("igakuqa119", name),
            "asked of no model, kept for the exam card" if name in _LOST else "asked",
        )
        for name, slip in igakuqa119.SLIPS.items()
    ),
    ("ambiguous gold", lambda q: (q.exam, q.id) in AMBIGUOUS, "left out of what models are asked"),
)


def errata(questions: Iterable[Question]) -> list[dict[str, str]]:
    """Known errata present in the exam, corrected or flagged: rows of `erratum`, `count`, `questions`, `handling`."""
    questions, rows = list(questions), []
    for name, applies, handling in _ERRATA:
        if ids := [q.id for q in questions if applies(q)]:
            shown = ", ".join(ids[:6]) + (" ..." if len(ids) > 6 else "")
            rows.append({"erratum": name, "count": str(len(ids)), "questions": shown, "handling": handling})
    return rows
