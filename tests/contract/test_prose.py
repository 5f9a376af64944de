"""What findings pages keep to: no typed number in prose, captions and printed sentences, and evidence behind every figure and table."""

import ast
import json
import re
from typing import Any

import pytest

from jmedlora_utils.book import provenance
from jmedlora_utils.core import paths

FINDINGS = sorted(provenance.EVIDENCE_OF)
# Citations, roles, code, links, list numbers, claims and notebooks by number, names of models and methods, years, and the level of
# every interval are no findings.
ALLOWED = re.compile(
    r"```[\s\S]*?```|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|^\s*\d\. |claims? \d(?:(?:,| and| to) \d)*|notebooks? \d\d|\bpages? \d\d\b"
    r"|\b[01]-shot\b|\bstep 0\b|\b(?:4|16)-bit\b|95 %|\bSHA-256\b|\b(?:19|20)\d\d(?:[-–〜](?:19|20)\d\d)?年?|\b1\d\dth\b"
    r"|\bGPT-\d\w*|\bLlama[- ]?\d(?: \d+B)?|\b[A-Z]\w*-\d+B\b",
    re.IGNORECASE | re.MULTILINE,
)
# Settings, names and the ends of a scale, typed where the code has them as defaults.
SETTINGS = {
    ("41_metrics", "changes-why"): ("100 is the right value", "0 is"),
    ("41_metrics", "damage-figure"): ("below 1/3", "1/3 to 2/3", "above 2/3"),
    ("41_metrics", "discordant"): ("below 0.001",),
    ("41_metrics", "pairs-seen"): ("right, 30 % of characters lost",),
    ("41_metrics", "power-why"): ("Power is 80 %, the level 5 %",),
    ("41_metrics", "power-figure"): ("80 % power",),
    ("41_metrics", "power-table"): ("1, 2 and 5 points", "80 % power", "1 point", "2 points", "5 points"),
    ("41_metrics", "smallest"): ("80 % power",),
}


def said(cell: dict[str, Any]) -> str:
    """Caption, alternative text and every string of several words in a code cell, without the fields that the code fills in."""
    shown = cell["metadata"].get("mystnb", {})
    strings = [n.value for n in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    texts = [shown.get("figure", {}).get("caption", ""), shown.get("image", {}).get("alt", ""), *(s for s in strings if " " in s.strip())]
    return "\n".join(re.sub(r"\{[^{}]*\}(?!`)", "", text) for text in texts)


def prose() -> list[tuple[str, str, str]]:
    found = []
    for stem in FINDINGS:
        if (paths.NOTEBOOKS / f"{stem}.ipynb").is_file():
            cells = json.loads((paths.NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8"))["cells"]
            found += [(stem, c["id"], "".join(c["source"]) if c["cell_type"] == "markdown" else said(c)) for c in cells]
    for page in ("intro", "summary_ja"):
        found.append((page, "page", (paths.BOOK / f"{page}.md").read_text(encoding="utf-8")))
    return found


def test_no_number_is_typed_in_the_prose_of_findings_pages() -> None:
    typed = []
    for page, cell, text in prose():
        for setting in SETTINGS.get((page, cell), ()):
            assert setting in text.replace("\n", " "), f"{page}, {cell}: the setting is gone; take it from the list"
            text = text.replace("\n", " ").replace(setting, "")
        typed += [f"{page}, {cell}: {line.strip()}" for line in ALLOWED.sub("", text).splitlines() if re.search(r"\d", line)]
    assert not typed, "a number of a finding must come from the records"


def test_the_contract_sees_a_typed_number() -> None:
    for text in ("accuracy rises by 12 points", "a gain of 3.5 %", "half, or 50 %", "正答率は 93 % でした"):
        assert re.search(r"\d", ALLOWED.sub("", text)), text
    for text in ("Claims 1 to 3 of {cite:t}`a2024`", "Llama 2 70B and OpenCALM-7B in 2018-2021, 0-shot", "1. The first", "`rank 64`"):
        assert not re.search(r"\d", ALLOWED.sub("", text)), text


def test_every_test_that_the_page_of_promises_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]*)`", (paths.BOOK / "promises.md").read_text(encoding="utf-8")))
    assert named and not [name for name in named if not (paths.ROOT / name).exists()]


def test_the_method_page_states_no_score() -> None:
    assert not re.search(r"\d\s?%", (paths.BOOK / "method.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stem", FINDINGS)
def test_every_figure_and_table_rests_on_evidence_that_exists(stem: str) -> None:
    path = paths.NOTEBOOKS / f"{stem}.ipynb"
    if not path.is_file():
        pytest.skip(f"there is no notebook {stem}")
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    entries = {entry for cell in cells for entry in cell["metadata"].get("evidence", [])} | set(provenance.EVIDENCE_OF[stem])
    for entry in entries:
        where = paths.ROOT if entry.startswith("jmedlora_utils/") else paths.RESULTS
        assert entry in provenance.STUDY or (where / entry).exists(), f"{stem}: evidence {entry!r} is not there"


def test_every_analysis_notebook_names_its_evidence() -> None:
    analysis = {path.stem for path in paths.NOTEBOOKS.glob("[345]*.ipynb")} - {"30_evaluate_exam"}
    assert analysis <= set(FINDINGS)


def test_the_contract_reads_captions_alternative_texts_and_printed_sentences() -> None:
    shown = {"figure": {"caption": "A gain of 12 points."}, "image": {"alt": "Dots up to 34."}}
    source = ["step = 'very-56'\n", "print(f'It earns {score:.78f} % of 90 questions', 'tab-1', '{:.2f} points')"]
    text = said({"metadata": {"mystnb": shown}, "source": source})
    assert re.findall(r"\d+", text) == ["12", "34", "90"]
    assert text.count("points") == 2
