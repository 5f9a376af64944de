"""JMLE2026-Bench: the 120th national medical licensing examination (February 2026), with published answers of open models."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.records import read_json
from jmedlora_utils.data.answer_keys import FIVE, corrected, letter_slots
from jmedlora_utils.data.igakuqa import place_of
from jmedlora_utils.data.questions import Question, letters, need, number_through_mask, unique

EDITION, YEAR = 120, 2026
KEY_NOTE = (
    "The key of the 120th examination is that of the repository's author and not official. "
    "The official key can be given as a file of corrections."
)
_CHOICE = re.compile(r"^[\s　]*([a-eａ-ｅ])[\s　]+(\S.*?)\s*$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^\|\s*([a-e])\s*\|", re.MULTILINE)


def load_jmle2026(data_dir: Path | str, corrections: Path | str | None = None) -> list[Question]:
    """Loads the 400 questions of `JMLE2026-Bench/jmle2026_dataset.json`: stem and choices apart, the text of a series before its stem.

    Where the choices are the rows of a table in the stem (120C71, 120F14), the letter stands for the choice.
    """
    path = Path(data_dir) / "JMLE2026-Bench" / "jmle2026_dataset.json"
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise JmedloraError(f"{path}: no list of questions; fetch the file again")
    return corrected(unique(_question(row, f"{path}, question {n}") for n, row in enumerate(rows, start=1)), corrections)


def _question(row: Mapping[str, Any], where: str) -> tuple[Question, str]:
    need(row, ("question_id", "question_text", "question_type", "requires_image", "num_choices_to_select", "answer"), where)
    place = place_of(row["question_id"], where)
    text = re.sub(rf"^[\s　]*{place['item']}[\s　]+", "", row["question_text"])
    series = row.get("serial_group", {}).get("context_text", "")
    values = {"exam": "jmle2026", "language": "ja", "year": YEAR, **place, "text_only": not row["requires_image"]}
    if row["question_type"] == "calculation":
        text = re.sub(r"(解答[：:][^\n]*)\n[\s\S]*$", r"\1", text)  # the digits to mark, slot by slot
        number = number_through_mask(row["answer"][0], text, where)
        values |= {"choices": [], "gold": [], "rule": "number", "number": number}
    else:
        text, choices = _apart(text, where)
        values |= {"choices": choices, "gold": letters(row["answer"]), "n_select": row["num_choices_to_select"]}
    return Question.read(values | {"text": f"{series}\n{text}".strip()}, where), where


def _apart(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    found = list(_CHOICE.finditer(text))
    if "".join(_TABLE_ROW.findall(text)) == FIVE:
        return text, letter_slots({})
    printed = {min(letters(match[1])): match[2] for match in found}
    if "".join(min(letters(match[1])) for match in found) != FIVE:
        raise JmedloraError(f"{where}: choices {''.join(printed) or 'none'} found in the text, not {FIVE}; fetch the file again")
    return text[: found[0].start()].strip(), letter_slots(printed)
