"""IgakuQA119: the 119th national medical licensing examination (February 2025), read from the printed booklets by machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json
from jmedlora_utils.data.answer_keys import FIVE, corrected, csv_rows, letter_slots
from jmedlora_utils.data.igakuqa import place_of
from jmedlora_utils.data.questions import Question, letters, need, number_to_select, unique

EDITION, YEAR = 119, 2025
SLIPS = {
    "119A22": "choice c lost, its text runs into d",
    "119C1": "name of the block read into the stem, taken off",
    "119C5": "choice e lost, its text runs into d",
    "119C18": "stem lost, only the choices are there",
    "119C19": "choice c lost, its text runs into b",
    "119D1": "name of the block read into the stem, taken off",
    "119E41": "last sentence of the stem lost, so that nothing is asked",
    "119E45": "choices read into the stem, taken apart",
    "119E48": "choices read into the stem, taken apart",
    "119F42": "the unit that ends choice b stands before the text of c, left as read",
}
"""Slips of character recognition that touch a choice or what is asked, by id; those in `questions.MISREAD` are asked of no model.
Signs, units and raised figures are flattened in many stems; they are left as read."""
LOST_STEM = "(stem lost)"
EITHER = frozenset({"119E28"})
"""Questions for which one of several letters of the key was accepted, as the repository marks them."""

_LABELLED = re.compile(r"\s*([a-eA-E])[.．]\s*(.*\S)\s*")
_IN_STEM = re.compile(r"(?:^|\s)([a-eC])(?=\S)")


def load_igakuqa119(data_dir: Path | str, corrections: Path | str | None = None) -> list[Question]:
    """Loads the 400 questions of `IgakuQA119/questions/`, joined with `results/correct_answers.csv`, and corrects the key.

    A choice that character recognition lost is shown by its letter, and its question is asked of no model. See `SLIPS`.
    """
    folder = Path(data_dir) / "IgakuQA119"
    files = sorted((folder / "questions").glob("119?_json.json"))
    if not files:
        raise JmedloraError(f"{folder / 'questions'}: no question file (119S_json.json); fetch IgakuQA119 or correct data_dir")
    key = {row["問題番号"]: row["解答"] for _, row in csv_rows(folder / "results" / "correct_answers.csv", ("問題番号", "解答"))}
    found = [(row, f"{path}, question {n}") for path in files for n, row in enumerate(read_json(path), start=1)]
    return corrected(unique((_question(row, key, where), where) for row, where in found), corrections)


def _question(row: Mapping[str, Any], key: Mapping[str, str], where: str) -> Question:
    need(row, ("number", "question", "choices", "has_image"), where)
    name, stem = row["number"], row["question"].strip()
    place = place_of(name, where)
    if name not in key:
        raise JmedloraError(f"{where}: {name} has no line in results/correct_answers.csv; fetch both again")
    values = {"exam": "igakuqa119", "language": "ja", "year": YEAR, **place, "text_only": not row["has_image"]}
    if not key[name].isalpha():
        return Question.read(values | {"text": stem, "choices": [], "gold": [], "rule": "number", "number": key[name]}, where)
    if name in SLIPS:
        stem = stem.removeprefix(f"{place['edition']}{place['section']}") or LOST_STEM
    stem, printed = (stem, _labelled(row["choices"])) if row["choices"] else _from_stem(stem)
    if "".join(printed) != FIVE and name not in SLIPS:
        raise JmedloraError(f"{where}: {name} has the choices {''.join(printed) or 'none'}, not {FIVE}; list the slip in igakuqa119.SLIPS")
    gold = letters(key[name])
    values |= {"choices": letter_slots(printed), "gold": gold, "rule": "any" if name in EITHER else "all"}
    return Question.read(values | {"text": stem, "n_select": number_to_select(stem)}, where)


def _labelled(choices: list[str]) -> dict[str, str]:
    found = [_LABELLED.fullmatch(choice) for choice in choices]
    return {match[1].lower(): match[2] for match in found if match}


def _from_stem(stem: str) -> tuple[str, dict[str, str]]:
    """A stem that ends in its choices, taken apart: `... どれか。 aア bイ Cウ ...`."""
    found = list(_IN_STEM.finditer(stem))[-len(FIVE) :]
    if "".join(match[1].lower() for match in found) != FIVE:
        return stem, {}
    ends = [match.start() for match in found[1:]] + [len(stem)]
    return stem[: found[0].start()].strip(), {m[1].lower(): stem[m.end() : end].strip() for m, end in zip(found, ends, strict=True)}
