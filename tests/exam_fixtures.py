"""Invented questions in the shapes of the published files; real-data tests take `real_data`."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jmedlora_utils.analysis import exam_card
from jmedlora_utils.data.questions import Question

YEARS = [2018, 2019, 2020, 2021]


def _needs(*folders: str) -> pytest.MarkDecorator:
    data = Path(os.environ.get("JMEDLORA_DATA") or "-")
    missing = [folder for folder in folders if not (data / folder).is_dir()]
    return pytest.mark.skipif(bool(missing), reason=f"set JMEDLORA_DATA to the folder that holds {', '.join(missing)}")


needs_data = _needs("IgakuQA/data/2018", "JJSIMQA")
needs_recent_data = _needs("IgakuQA119", "JMLE2026-Bench")


def data_dir() -> Path:
    return Path(os.environ["JMEDLORA_DATA"])


def question(**change: Any) -> Question:
    base = {
        "id": "1",
        "exam": "invented",
        "language": "ja",
        "text": "発熱の原因はどれか。",
        "choices": ("肺炎", "気胸", "肺癌, 小細胞", "B型肝炎", "肝炎"),
        "gold": frozenset("a"),
    }
    return Question(**(base | change))


def pair(**change: Any) -> Question:
    """A question that asks for two choices; one of the right ones holds a comma."""
    return question(**({"text": "正しいのはどれか。2つ選べ。", "gold": frozenset("ac"), "n_select": 2} | change))


def examination() -> list[Question]:
    """A whole examination of 2031, five questions in two blocks."""
    dangerous = {"year": 2031, "prohibited": frozenset("e"), "prohibited_published": True}
    return [
        question(id="B1", section="B", points=3, **dangerous),
        question(id="A1", section="A", **dangerous),
        question(id="A2", section="A", **dangerous),
        question(id="A3", section="A", points=0, **dangerous),
        question(id="A4", section="A", points=0, **dangerous),
    ]


def set_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """2031: 3 points in the must-pass block, 2 in the other; marks 3 and 1; three prohibited choices at most."""
    row = {"exam": 125, "required_mark": 3, "general_mark": 1, "prohibited_limit": 3, "required_max": 3, "general_max": 2, "source": ""}
    table = pd.DataFrame([row], index=pd.Index([2031], name="year"))
    monkeypatch.setattr(exam_card, "pass_marks", lambda: table)


def raw(name: str, **change: Any) -> dict[str, Any]:
    """A question as IgakuQA publishes it."""
    row = {"problem_id": name, "problem_text": f"{name}はどれか。", "choices": ["あ", "い", "う", "え", "お"]}
    return row | {"text_only": True, "answer": ["a"], "points": "1"} | change


def about(name: str, **change: Any) -> dict[str, Any]:
    """Its line in the metadata file."""
    row = {"problem_id": name, "category": "総論", "kinki": [], "reason": ""}
    return row | {"human_accuracy": "60.0", "breakdown": ["60.0", "10.0", "10.0", "10.0", "10.0"]} | change


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_year(folder: Path, year: int, exam: int, blocks: dict[str, list[dict[str, Any]]], **metadata: dict[str, Any]) -> Path:
    """Writes a year in IgakuQA's layout; `metadata` changes the metadata line of an id. Returns the folder of the year."""
    target = folder / "IgakuQA" / "data" / str(year)
    for block, rows in blocks.items():
        write_lines(target / f"{exam}-{block}.jsonl", rows)
        lines = [about(r["problem_id"], **metadata.get(r["problem_id"], {})) for r in rows]
        write_lines(target / f"{exam}-{block}_metadata.jsonl", lines)
    return target
