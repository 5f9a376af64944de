"""IgakuQA: the national medical licensing examinations of 2018 to 2022 with published answers of models and students."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.formatting import nfkc
from jmedlora_utils.data.questions import (
    LANGUAGES,
    LETTERS,
    Question,
    letters,
    need,
    number_through_mask,
    number_to_select,
    source_rows,
    unique,
    wide,
)

SYSTEMS = ("gpt3", "chatgpt", "translate_chatgpt-en", "gpt4", "student-majority")
REQUIRED_BLOCKS = ("B", "E")

ALWAYS_RIGHT = frozenset({"116A71"})
"""Items every candidate was credited with."""


def place_of(name: str, where: str) -> dict[str, Any]:
    """Edition, block, number and points of `120A1` or `120A-1`, as fields of `Question`.

    Since 2020, numbers 26 to 50 of the must-pass blocks give 3 points, all others 1.
    """
    found = re.fullmatch(r"(\d{3})([A-F])-?(\d+)", name)
    if not found:
        raise JmedloraError(f"{where}: id {name!r} is not an edition, a block and a number such as 120A1; correct it")
    edition, block, item = int(found[1]), found[2], int(found[3])
    required = block in REQUIRED_BLOCKS
    place = {"id": f"{edition}{block}{item}", "edition": edition, "section": block, "item": item, "required": required}
    return place | {"points": 3 if required and item > 25 else 1}


def load_igakuqa(data_dir: Path | str, years: Sequence[int], language: str = "ja") -> list[Question]:
    """Loads the national examination in the layout of `jungokasai/IgakuQA`, joined by `problem_id`.

    The number to choose, the mask of a free number and the points always come from the Japanese file; `en` replaces
    stem and choices by the published translation.
    """
    if language not in LANGUAGES:
        raise JmedloraError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
    if not years or len(set(years)) < len(years):
        raise JmedloraError(f"parameter years is {list(years)}; name at least one year, and each once")
    found: list[tuple[Question, str]] = []
    for year in years:
        folder = Path(data_dir) / "IgakuQA" / "data" / str(year)
        files = sorted(folder.glob("[0-9]*-?.jsonl"))
        if not files:
            raise JmedloraError(
                f"{folder}: no question file (NNN-S.jsonl); fetch the year or point data_dir at the folder that holds IgakuQA/"
            )
        for path in files:
            metadata = _by_id(path.with_name(f"{path.stem}_metadata.jsonl"), required=False)
            translated = _by_id(path.with_name(f"{path.stem}_translate.jsonl")) if language == "en" else {}
            rows = source_rows(path)
            _check_join(path, {str(row.get("problem_id")) for _, row in rows}, metadata, translated, language)
            for where, row in rows:
                about, english = (part.get(row.get("problem_id"), {}) for part in (metadata, translated))
                found.append((_question(row, about, english, {"year": year, "language": language}, where), where))
    return unique(found)


def _question(row: Mapping[str, Any], about: Mapping[str, Any], english: Mapping[str, Any], common: dict[str, Any], where: str) -> Question:
    need(row, ("problem_id", "problem_text", "choices", "text_only", "answer", "points"), where)
    stem, choices = row["problem_text"], english.get("choices_en", row["choices"])
    # 114C11 prints its choices inside the stem and blanks in the list; 113F83, of the same shape, lists the letters.
    choices = [c if c.strip() else wide(LETTERS[i]) for i, c in enumerate(choices)]
    shares = [s for s in (_share(b) for b in about.get("breakdown") or []) if s is not None]
    prohibited = letters(about.get("kinki") or [])
    if beyond := sorted(prohibited - set(LETTERS[: len(choices)])):
        print(f"Notice: {paths.relative(where)}: prohibited {', '.join(beyond)} is no letter of a choice; left out.")
    values = {
        "exam": "igakuqa",
        "text": english.get("problem_text_en", stem),
        "choices": choices,
        **_gold(row, choices, where),
        **common,
        **place_of(row["problem_id"], where),
        "points": _points(row["points"], where),
        "text_only": row["text_only"],
        "category": about.get("category") or "",
        "prohibited": prohibited - set(beyond),
        "prohibited_published": bool(about),
        "n_select": number_to_select(stem),
        "student_accuracy": _share(about.get("human_accuracy", "")),
        "breakdown": shares if len(shares) == len(choices) else [],
    }
    return Question.read(values, where)


def _gold(row: Mapping[str, Any], choices: Sequence[str], where: str) -> dict[str, Any]:
    name, answer = row["problem_id"], row["answer"]
    if not choices:
        if len(answer) != 1:
            raise JmedloraError(f"{where}: {name} has no choices and {len(answer)} answers; a free number has one")
        return {"gold": [], "rule": "number", "number": number_through_mask(answer[0], row["problem_text"], f"{where}: {name}")}
    either = any(" or " in a for a in answer)
    rule = "always" if name in ALWAYS_RIGHT else "any" if either else "all"
    return {"gold": letters(part for a in answer for part in a.split(" or ")), "rule": rule}


def _by_id(path: Path, required: bool = True) -> dict[str, dict[str, Any]]:
    if not required and not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for where, row in source_rows(path):
        need(row, ("problem_id",), where)
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
            fix = "the files are joined by problem_id, fetch both again"
            raise JmedloraError(f"{path}: {missing[0]} has no line in {path.stem}{name}.jsonl; {fix}")


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


def load_worked_examples(data_dir: Path | str, language: str = "ja") -> list[Question]:
    """The three worked examples of the 100th examination that IgakuQA's own prompts use; none is a test question."""
    name = "prompt.jsonl" if language == "ja" else "prompt_translate.jsonl"
    found = []
    for where, row in source_rows(Path(data_dir) / "IgakuQA" / "scripts" / "prompts" / name):
        stem, choices = ("problem_text", "choices") if language == "ja" else ("problem_text_en", "choices_en")
        need(row, ("problem_id", "problem_text", "answer", stem, choices), where)
        values = {
            "id": row["problem_id"],
            "exam": "igakuqa",
            "language": language,
            "text": row[stem],
            "choices": row[choices],
            "gold": letters(row["answer"]),
            "section": re.sub(r"[^A-Z]", "", row["problem_id"]),
            "text_only": row.get("text_only", True),
            "n_select": number_to_select(row["problem_text"]),
        }
        found.append((Question.read(values, where), where))
    return unique(found)


def published_systems(data_dir: Path | str, year: int) -> tuple[str, ...]:
    """Systems of `SYSTEMS` whose answers to that year are in the folder."""
    folder = Path(data_dir) / "IgakuQA" / "baseline_results" / str(year)
    return tuple(system for system in SYSTEMS if any(folder.glob(f"*-?_{system}.jsonl")))


def load_published(data_dir: Path | str, years: Sequence[int], system: str) -> dict[str, str]:
    """Answers published with IgakuQA, as printed: question id to response."""
    if system not in SYSTEMS:
        raise JmedloraError(f"no published system {system!r}; known: {', '.join(SYSTEMS)}")
    answers: dict[str, str] = {}
    for year in years:
        folder = Path(data_dir) / "IgakuQA" / "baseline_results" / str(year)
        files = sorted(folder.glob(f"*-?_{system}.jsonl"))
        if not files:
            raise JmedloraError(f"{folder}: no answers of {system} (NNN-S_{system}.jsonl); fetch the year or leave the system out")
        for path in files:
            for where, row in source_rows(path):
                need(row, ("problem_id", "prediction"), where)
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
    return frozenset(r["problem_id"] for r in rows if any(nfkc(k) != k for k in r.get("kinki") or []))
