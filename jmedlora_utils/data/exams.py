"""Exam questions: one validated schema, loaders for the published exams, and every known erratum mended."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import RecordError, iter_jsonl, write_jsonl

LETTERS = "abcdefghij"
RULES = ("all", "any", "always", "number")
LANGUAGES = ("ja", "en")
SYSTEMS = ("gpt3", "chatgpt", "translate_chatgpt-en", "gpt4", "student-majority")

ALWAYS_RIGHT = frozenset({("igakuqa", "116A71")})
"""Items every candidate was credited with, keyed by exam and id: other exams have an item of the same name."""

AMBIGUOUS = {("jjsimqa", "107_64-4"): "four gold answers where the stem asks for one; its authors advise leaving it out"}

EXCLUSIONS = ("image", "free number", "not five choices", "ambiguous gold")


@dataclass(frozen=True)
class Question:
    """One exam question.

    Attributes:
        id: Unique within the exam, for example `112A1`.
        exam: Name of the exam: `igakuqa`, `jjsimqa`, `mini_trained` ...
        language: `ja` or `en`.
        year: Year of the examination, None where there is none.
        section: Block (A to F) or, in the mini exams, the facts asked: `taught`, `untaught`, `general`.
        text: Stem of the question.
        choices: Choices in printed order.
        gold: Letters of the right choices; empty for `number` questions.
        rule: How gold counts: `all` of it, `any` of it, `always` right, or `number`.
        number: Gold of a `number` question, as a decimal string.
        points: Points of the item; 0 for a withdrawn item.
        text_only: False where an image belongs to the question.
        category: Medical field, or the relation asked in the mini exams.
        prohibited: Letters of prohibited choices (kinki).
        n_select: How many to choose, as said by the stem; 1 where it says nothing.
        student_accuracy: Share of students who were right, 0 to 1, where published.
        breakdown: Share of students who chose each choice, 0 to 1, where published.
    """

    id: str
    exam: str
    language: str
    text: str
    choices: tuple[str, ...]
    gold: frozenset[str]
    year: int | None = None
    section: str = ""
    rule: str = "all"
    number: str | None = None
    points: float = 1.0
    text_only: bool = True
    category: str = ""
    prohibited: frozenset[str] = frozenset()
    n_select: int = 1
    student_accuracy: float | None = None
    breakdown: tuple[float, ...] = ()

    @property
    def letters(self) -> str:
        """Letters of the choices, in order."""
        return LETTERS[: len(self.choices)]

    def choice(self, letter: str) -> str:
        """Text of one choice."""
        return self.choices[LETTERS.index(letter)]

    def right_letters(self) -> tuple[str, ...]:
        """Letters a perfect candidate marks, in order: all of gold, or one of it where any will do."""
        ordered = tuple(sorted(self.gold))
        return ordered[:1] if self.rule == "any" else ordered


# --- the schema on disk -------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "exam": (str,),
    "language": (str,),
    "text": (str,),
    "choices": (list,),
    "gold": (list,),
    "year": (int, type(None)),
    "section": (str,),
    "rule": (str,),
    "number": (str, type(None)),
    "points": (int, float),
    "text_only": (bool,),
    "category": (str,),
    "prohibited": (list,),
    "n_select": (int,),
    "student_accuracy": (int, float, type(None)),
    "breakdown": (list,),
}
_REQUIRED = tuple(f.name for f in fields(Question) if f.default is MISSING)


def read_exam(path: Path) -> list[Question]:
    """Reads an exam in the schema, one question a line.

    Raises:
        JmedloraError: The file is missing or empty, or a line is no JSON, lacks a field, has an unknown one, a value that
            does not fit, or an id that an earlier line has; names the file and the line.
    """
    return list(_unique(((_from_row(row, where), where) for where, row in _rows(Path(path)))))


def write_exam(path: Path, questions: Iterable[Question]) -> Path:
    """Writes an exam in the schema, whole or not at all.

    Raises:
        JmedloraError: A question does not fit the schema, or two share an id.
    """
    checked = _unique((check(q, f"question {q.id}"), f"question {q.id}") for q in questions)
    return write_jsonl(Path(path), [_to_row(q) for q in checked])


def check(question: Question, where: str) -> Question:
    """Returns the question if it fits the schema.

    Args:
        where: File and line, for the message.

    Raises:
        JmedloraError: Names the place, the field and the mend.
    """
    q, letters = question, set(question.letters)

    def refuse(problem: str) -> None:
        raise JmedloraError(f"{where}: {problem}")

    if not q.id.strip():
        refuse("field 'id' is empty; give the question a name")
    if q.language not in LANGUAGES:
        refuse(f"field 'language' is {q.language!r}, not one of {', '.join(LANGUAGES)}")
    if q.rule not in RULES:
        refuse(f"field 'rule' is {q.rule!r}, not one of {', '.join(RULES)}")
    if not is_text(q.text):
        refuse("field 'text' is blank; every question needs a stem")
    if q.rule == "number":
        if q.choices or q.gold or not _is_decimal(q.number):
            refuse(f"a 'number' question has no choices, no gold letters and a decimal in 'number', found {q.number!r}")
    else:
        if not 2 <= len(q.choices) <= len(LETTERS):
            refuse(f"{len(q.choices)} choices; a question has 2 to {len(LETTERS)}, or the rule 'number'")
        if blank := [letter for letter in q.letters if not is_text(q.choice(letter))]:
            refuse(f"choice {blank[0]!r} is blank; fill it in or remove it")
        if not q.gold:
            refuse("field 'gold' is empty; name the right letters")
        if q.number is not None:
            refuse("field 'number' is only for questions with the rule 'number'")
    for name, given in (("gold", q.gold), ("prohibited", q.prohibited)):
        if beyond := sorted(given - letters):
            mend = "correct the letter or add the choice"
            refuse(f"{name} letter {beyond[0]!r} is beyond the {len(q.choices)} choices ({q.letters}); {mend}")
    if not 1 <= q.n_select <= max(1, len(q.choices)):
        refuse(f"field 'n_select' is {q.n_select}, with {len(q.choices)} choices")
    if q.points < 0:
        refuse(f"field 'points' is {q.points}; it cannot be negative")
    if q.breakdown and len(q.breakdown) != len(q.choices):
        refuse(f"field 'breakdown' has {len(q.breakdown)} shares for {len(q.choices)} choices")
    if shares := [s for s in (q.student_accuracy, *q.breakdown) if s is not None and not 0 <= s <= 1]:
        refuse(f"a share of students is {shares[0]}; shares run from 0 to 1")
    return q


def is_text(text: str) -> bool:
    """Whether anything is left after blanks of every script, the ideographic one included."""
    return bool("".join(text.split()))


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """`(file:line, object)` of every line; the file must hold at least one."""
    try:
        rows = [(f"{path}:{line}", row) for line, row in iter_jsonl(path)]
    except RecordError as error:
        raise JmedloraError(str(error)) from error
    if not rows:
        raise JmedloraError(f"{path}: no question in the file; fetch or write it again")
    return rows


def _unique(questions: Iterable[tuple[Question, str]]) -> list[Question]:
    seen: dict[tuple[str, str], str] = {}
    kept = []
    for question, where in questions:
        key = (question.exam, question.id)
        if key in seen:
            raise JmedloraError(f"{where}: id {question.id!r} is already used at {seen[key]}; ids must differ within an exam")
        seen[key] = where
        kept.append(question)
    return kept


def _from_row(row: Mapping[str, Any], where: str) -> Question:
    for name in row:
        if name not in _TYPES:
            near = difflib.get_close_matches(name, _TYPES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_TYPES)}"
            raise JmedloraError(f"{where}: unknown field {name!r}; {hint}")
    for name in _REQUIRED:
        if name not in row:
            raise JmedloraError(f"{where}: field {name!r} is missing; add it")
    for name, value in row.items():
        if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and bool not in _TYPES[name]):
            raise JmedloraError(f"{where}: field {name!r} is {value!r}, expected {' or '.join(t.__name__ for t in _TYPES[name])}")
    for name, kind in (("choices", str), ("gold", str), ("prohibited", str), ("breakdown", (int, float))):
        if wrong := [item for item in row.get(name, []) if not isinstance(item, kind)]:
            raise JmedloraError(f"{where}: field {name!r} holds {wrong[0]!r}; every item must be a {'text' if kind is str else 'number'}")
    made = dict(row)
    for name, collect in (("choices", tuple), ("gold", frozenset), ("prohibited", frozenset), ("breakdown", tuple)):
        if name in made:
            made[name] = collect(made[name])
    return check(Question(**made), where)


def _to_row(question: Question) -> dict[str, Any]:
    row = {f.name: getattr(question, f.name) for f in fields(question)}
    return row | {
        "choices": list(question.choices),
        "gold": sorted(question.gold),
        "prohibited": sorted(question.prohibited),
        "breakdown": list(question.breakdown),
    }


# --- the published exams ------------------------------------------------------------------------------------------


def load_igakuqa(data_dir: Path | str, years: Sequence[int], language: str = "ja") -> list[Question]:
    """Loads the national examination in the layout of `jungokasai/IgakuQA`, joined by `problem_id`.

    The number to choose, the mask of a free number and the points always come from the Japanese file; `en` replaces
    stem and choices by the published translation.

    Args:
        data_dir: Folder that holds `IgakuQA/`.
        years: Years to load; any year with a folder works.
        language: `ja` or `en`.

    Raises:
        JmedloraError: A year has no question file, a line is malformed, or files do not join.
    """
    if language not in LANGUAGES:
        raise JmedloraError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    found: list[tuple[Question, str]] = []
    for year in years:
        folder = Path(data_dir) / "IgakuQA" / "data" / str(year)
        files = [p for p in sorted(folder.glob("*-*.jsonl")) if "_" not in p.stem]
        if not files:
            raise JmedloraError(
                f"{folder}: no question file (NNN-S.jsonl); fetch the year or point data_dir at the folder that holds IgakuQA/"
            )
        for path in files:
            extra = _by_id(path.with_name(f"{path.stem}_metadata.jsonl"), required=False)
            translated = _by_id(path.with_name(f"{path.stem}_translate.jsonl")) if language == "en" else {}
            rows = _rows(path)
            _check_join(path, {str(r.get("problem_id")) for _, r in rows}, extra, translated, language)
            found += [(_igakuqa_question(r, extra, translated, year, path.stem[-1], language, where), where) for where, r in rows]
    return _unique(found)


def load_jjsimqa(data_dir: Path | str) -> list[Question]:
    """Loads the 460 questions of the journal of internal medicine (`JJSIMQA/jjsimqa.jsonl`).

    Raises:
        JmedloraError: The file is missing or a line is malformed.
    """
    found = []
    for where, row in _rows(Path(data_dir) / "JJSIMQA" / "jjsimqa.jsonl"):
        _need(row, ("problem_id", "problem_text", "choices", "answer"), where)
        question = Question(
            id=row["problem_id"],
            exam="jjsimqa",
            language="ja",
            text=row["problem_text"],
            choices=tuple(row["choices"]),
            # 107_888-26 has a stray comma among its letters.
            gold=_letters(a for a in row["answer"] if _fold(a) != ","),
            section=row["problem_id"].split("_")[0],
            points=float(row.get("points", 1)),
            text_only=bool(row.get("text_only", True)),
            n_select=number_to_select(row["problem_text"]),
        )
        found.append((check(question, where), where))
    return _unique(found)


def load_published(data_dir: Path | str, years: Sequence[int], system: str) -> dict[str, str]:
    """Answers published with IgakuQA, as printed: question id to response.

    Args:
        data_dir: Folder that holds `IgakuQA/`.
        years: Years to load.
        system: One of `SYSTEMS`.

    Raises:
        JmedloraError: The system is unknown, a year has no answer of it, or an id appears twice.
    """
    if system not in SYSTEMS:
        raise JmedloraError(f"no published system {system!r}; known: {', '.join(SYSTEMS)}")
    answers: dict[str, str] = {}
    for year in years:
        folder = Path(data_dir) / "IgakuQA" / "baseline_results" / str(year)
        files = sorted(folder.glob(f"*-?_{system}.jsonl"))
        if not files:
            raise JmedloraError(f"{folder}: no answers of {system} (NNN-S_{system}.jsonl); fetch the year or leave the system out")
        for path in files:
            for where, row in _rows(path):
                _need(row, ("problem_id", "prediction"), where)
                if row["problem_id"] in answers:
                    raise JmedloraError(f"{where}: a second answer of {system} to {row['problem_id']}; keep one")
                prediction = row["prediction"]
                answers[row["problem_id"]] = ",".join(prediction) if isinstance(prediction, list) else str(prediction or "")
    return answers


def misprinted_prohibited(data_dir: Path | str, year: int) -> frozenset[str]:
    """Ids whose prohibited letters are printed full-width (`ｂ`).

    `load_igakuqa` reads them as letters. The published counts of prohibited choices compare characters and so miss
    them; the exam card leaves them out only to give those counts.
    """
    folder = Path(data_dir) / "IgakuQA" / "data" / str(year)
    rows = [row for path in sorted(folder.glob("*_metadata.jsonl")) for row in _by_id(path).values()]
    return frozenset(r["problem_id"] for r in rows if any(unicodedata.normalize("NFKC", k) != k for k in r.get("kinki") or []))


def published_systems(data_dir: Path | str, year: int) -> tuple[str, ...]:
    """Systems of `SYSTEMS` whose answers to that year are in the folder."""
    folder = Path(data_dir) / "IgakuQA" / "baseline_results" / str(year)
    return tuple(system for system in SYSTEMS if any(folder.glob(f"*-?_{system}.jsonl")))


def load_worked_examples(data_dir: Path | str, language: str = "ja") -> list[Question]:
    """The three worked examples of the 100th examination that IgakuQA's own prompts use; none is a test question.

    Raises:
        JmedloraError: The file is missing or a line is malformed.
    """
    name = "prompt.jsonl" if language == "ja" else "prompt_translate.jsonl"
    found = []
    for where, row in _rows(Path(data_dir) / "IgakuQA" / "scripts" / "prompts" / name):
        stem, choices = ("problem_text", "choices") if language == "ja" else ("problem_text_en", "choices_en")
        _need(row, ("problem_id", "problem_text", "answer", stem, choices), where)
        question = Question(
            id=row["problem_id"],
            exam="igakuqa",
            language=language,
            text=row[stem],
            choices=tuple(row[choices]),
            gold=_letters(row["answer"]),
            section=re.sub(r"[^A-Z]", "", row["problem_id"]),
            text_only=bool(row.get("text_only", True)),
            n_select=number_to_select(row["problem_text"]),
        )
        found.append((check(question, where), where))
    return _unique(found)


def _igakuqa_question(
    row: Mapping[str, Any],
    metadata: Mapping[str, Mapping[str, Any]],
    translated: Mapping[str, Mapping[str, Any]],
    year: int,
    section: str,
    language: str,
    where: str,
) -> Question:
    _need(row, ("problem_id", "problem_text", "choices", "text_only", "answer", "points"), where)
    name, stem, choices = row["problem_id"], row["problem_text"], row["choices"]
    if language == "en":
        text, choices = translated[name]["problem_text_en"], translated[name]["choices_en"]
    else:
        text = stem
    # 114C11 prints its choices inside the stem and blanks in the list; 113F83, of the same shape, lists the letters.
    choices = tuple(c if is_text(c) else _wide(LETTERS[i]) for i, c in enumerate(choices))
    gold: frozenset[str] = frozenset()
    rule, number = "all", None
    if not choices:
        if len(row["answer"]) != 1:
            raise JmedloraError(f"{where}: {name} has no choices and {len(row['answer'])} answers; a free number has one")
        rule, number = "number", number_through_mask(row["answer"][0], stem, f"{where}: {name}")
    elif any(" or " in a for a in row["answer"]):
        rule, gold = "any", _letters(part for a in row["answer"] for part in a.split(" or "))
    else:
        gold = _letters(row["answer"])
    if ("igakuqa", name) in ALWAYS_RIGHT:
        rule = "always"
    about = metadata.get(name, {})
    shares = tuple(s for s in (_share(b) for b in about.get("breakdown") or []) if s is not None)
    prohibited = _letters(about.get("kinki") or [])
    if beyond := sorted(prohibited - set(LETTERS[: len(choices)])):
        print(f"Notice: {paths.relative(where)}: prohibited {', '.join(beyond)} is no letter of a choice; left out.")
    question = Question(
        id=name,
        exam="igakuqa",
        language=language,
        text=text,
        choices=choices,
        gold=gold,
        year=year,
        section=section,
        rule=rule,
        number=number,
        points=_points(row["points"], where),
        text_only=bool(row["text_only"]),
        category=about.get("category") or "",
        prohibited=prohibited - set(beyond),
        n_select=number_to_select(stem),
        student_accuracy=_share(about.get("human_accuracy", "")),
        breakdown=shares if len(shares) == len(choices) else (),
    )
    return check(question, where)


def number_to_select(stem: str) -> int:
    """How many choices a Japanese stem asks for (`2つ選べ`); 1 where it says nothing.

    Full-width digits and blanks inside the phrase are tolerated; gold is never looked at.
    """
    squeezed = "".join(unicodedata.normalize("NFKC", stem).split())
    found = re.findall(r"(\d)(?:つ|個)(?:を)?選べ", squeezed)
    return int(found[-1]) if found else 1


def number_through_mask(gold: str, stem: str, where: str) -> str:
    """Gold of a free-number question as a decimal, through the answer mask that closes the stem.

    The printed gold is uneven: some keep the point (`7.20`), some give only the digits for the slots: `100` through
    `①②.③` is 10.0, `130` through `1, ①②③` is 1130. Digits that do not fill the slots are kept, with a notice.
    """
    gold = unicodedata.normalize("NFKC", gold).strip()
    mask = answer_mask(stem)
    if not mask or not gold.isdigit():
        return gold
    filled = fill_mask(mask, gold)
    if filled is None:
        print(f"Notice: {paths.relative(where)}: gold {gold!r} does not fill the answer mask {mask!r}; kept as printed.")
        return gold
    return filled


def answer_mask(stem: str) -> str:
    """The mask after `解答：`, a `#` for each slot (`①②.③` is `##.#`); empty where the stem has none."""
    found = re.search(r"(?:解答|Answer)\s*[:：]([\d\s,.，．①-⑳]*[①-⑳])", stem)
    if not found:
        return ""
    mask = unicodedata.normalize("NFKC", re.sub(r"[①-⑳]", "#", found[1]))
    return re.sub(r"[\s,]", "", mask)


def fill_mask(mask: str, digits: str) -> str | None:
    """Puts the digits into the slots; None where their number differs."""
    if len(digits) != mask.count("#"):
        return digits if len(digits) == len(mask) and "." not in mask else None
    rest = iter(digits)
    return "".join(next(rest) if c == "#" else c for c in mask)


def _by_id(path: Path, required: bool = True) -> dict[str, dict[str, Any]]:
    if not required and not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for where, row in _rows(path):
        _need(row, ("problem_id",), where)
        if row["problem_id"] in found:
            raise JmedloraError(f"{where}: {row['problem_id']} appears twice in the file; keep one")
        found[row["problem_id"]] = row
    return found


def _check_join(path: Path, ids: set[str], metadata: Mapping[str, Any], translated: Mapping[str, Any], language: str) -> None:
    if not metadata:
        print(f"Notice: {paths.relative(path)} has no _metadata beside it: no categories, no prohibited choices.")
    for name, other in (("_metadata", metadata), ("_translate", translated)):
        needed = bool(metadata) if name == "_metadata" else language == "en"
        if needed and (missing := sorted(ids - set(other))):
            mend = "the files are joined by problem_id, fetch both again"
            raise JmedloraError(f"{path}: {missing[0]} has no line in {path.stem}{name}.jsonl; {mend}")


def _need(row: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    for name in names:
        if name not in row:
            raise JmedloraError(f"{where}: field {name!r} is missing; fetch the file again")


def _letters(parts: Iterable[str]) -> frozenset[str]:
    """Letters, one a character: upstream runs some together (`cde`) and pads others (` e`)."""
    return frozenset(c for part in parts for c in _fold(part) if not c.isspace())


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().lower()


def _wide(letter: str) -> str:
    return chr(ord(letter) - ord("a") + ord("ａ"))


def _points(text: Any, where: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise JmedloraError(f"{where}: points {text!r} is no number; correct it") from error


def _share(percent: Any) -> float | None:
    """A printed percentage as a share; None where nothing is printed or, as in 113A14 (`500.3`), it is no percentage."""
    try:
        share = round(float(percent) / 100, 6)
    except (TypeError, ValueError):
        return None
    return share if 0 <= share <= 1 else None


def _is_decimal(text: str | None) -> bool:
    try:
        return text is not None and Decimal(text).is_finite()
    except InvalidOperation:
        return False


# --- what is left out, counted ------------------------------------------------------------------------------------


def exclusion(question: Question) -> str | None:
    """Why the question is not asked of a text model, one of `EXCLUSIONS`; None where it is."""
    if not question.text_only:
        return "image"
    if question.rule == "number":
        return "free number"
    if len(question.choices) != 5:
        return "not five choices"
    return "ambiguous gold" if (question.exam, question.id) in AMBIGUOUS else None


def select_text_five(questions: Iterable[Question]) -> tuple[list[Question], dict[str, int]]:
    """The text-only questions with exactly five choices, and how many were left out for which reason.

    Returns:
        The questions kept, and a count for each of `EXCLUSIONS` (the first reason that applies), 0 included.
    """
    kept = []
    counts = Counter(dict.fromkeys(EXCLUSIONS, 0))
    for question in questions:
        if reason := exclusion(question):
            counts[reason] += 1
        else:
            kept.append(question)
    return kept, dict(counts)


def errata(questions: Iterable[Question]) -> list[dict[str, str]]:
    """Known errata present in the exam, mended or flagged: rows of `erratum`, `count`, `questions`, `handling`."""
    questions = list(questions)
    wide = {_wide(c) for c in LETTERS}
    kinds = (
        ("withdrawn, 0 points", lambda q: q.points == 0, "stays in the denominator of items, adds no points"),
        ("any of the gold letters", lambda q: q.rule == "any", "one of them is enough"),
        ("credited to everyone", lambda q: q.rule == "always", "right whatever the answer"),
        ("free number", lambda q: q.rule == "number", "gold read through the mask of the stem, compared as a decimal"),
        ("choices printed in the stem", lambda q: bool(wide & set(q.choices)), "the letter stands for the choice"),
        ("same choice twice", lambda q: len(set(q.choices)) < len(q.choices), "equal texts count as one choice"),
        ("students' shares misprinted", _shares_misprinted, "shares left out, the answer key is not touched"),
        ("stray comma in gold", lambda q: (q.exam, q.id) == ("jjsimqa", "107_888-26"), "letters only"),
        ("ambiguous gold", lambda q: (q.exam, q.id) in AMBIGUOUS, "left out of what models are asked"),
    )
    rows = []
    for name, applies, handling in kinds:
        if ids := [q.id for q in questions if applies(q)]:
            shown = ", ".join(ids[:6]) + (" ..." if len(ids) > 6 else "")
            rows.append({"erratum": name, "count": str(len(ids)), "questions": shown, "handling": handling})
    return rows


def _shares_misprinted(q: Question) -> bool:
    return bool(q.choices) and not q.breakdown and q.student_accuracy is not None


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
        "choose_1": asked[1],
        "choose_2": asked[2],
        "choose_3": asked[3],
        "prohibited": sum(bool(q.prohibited) for q in questions),
    }
