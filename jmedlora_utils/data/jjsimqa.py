"""JJSIMQA: self-assessment questions of the Journal of the Japanese Society of Internal Medicine, volumes 107 to 111."""

from pathlib import Path

from jmedlora_utils.data.questions import Question, letters, need, number_to_select, source_rows, unique

STRAY_COMMA = "107_888-26"
"""Has a comma among its gold letters."""


def load_jjsimqa(data_dir: Path | str) -> list[Question]:
    """Loads the 460 questions of `JJSIMQA/jjsimqa.jsonl`."""
    found = []
    for where, row in source_rows(Path(data_dir) / "JJSIMQA" / "jjsimqa.jsonl"):
        need(row, ("problem_id", "problem_text", "choices", "answer"), where)
        values = {
            "id": row["problem_id"],
            "exam": "jjsimqa",
            "language": "ja",
            "text": row["problem_text"],
            "choices": row["choices"],
            "gold": letters(row["answer"]) - {","},
            "section": row["problem_id"].split("_")[0],
            "points": row.get("points", 1),
            "text_only": row.get("text_only", True),
            "n_select": number_to_select(row["problem_text"]),
        }
        found.append((Question.read(values, where), where))
    return unique(found)
