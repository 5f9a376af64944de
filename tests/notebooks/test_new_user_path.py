"""The way of a new user: what book/own_articles.md prints, typed as it is printed, from own articles to the exam card.

A stand-in server writes the records, a tiny checkpoint is the base, and a handful of questions is asked.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from jmedlora_utils.analysis import model_exam_cards
from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.records import read_jsonl, read_record
from jmedlora_utils.workflow import runner
from tests import tiny
from tests.scripted import Scripted, completion, scripted_server

PAGE = (paths.BOOK / "own_articles.md").read_text(encoding="utf-8")
HANDFUL = 4  # questions asked in place of the page's limit
NAMES = [f"{word}病" for word in tiny.WORDS[:80:8]]


def section(title: str) -> str:
    """The part of the page below the heading that holds `title`."""
    [found] = [part for part in PAGE.split("\n## ") if title in part.splitlines()[0]]
    return found


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


PRESET, LARGER = blocks(section("Write a preset"), "yaml")
RECORDS, AT_ONCE, ONE_BY_ONE = (commands(b) for b in [*blocks(section("Make the records"), "console"), *blocks(section("4."), "console")])


def write_articles(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate(NAMES):
        text = (
            f"{name}の手引き\n\n{name}は架空の疾患で、{20 + number}歳ごろに手足のしびれで始まる。\n{name}には{name[:3]}マイシンを用いる。\n"
        )
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def answer(message: str, times: int) -> tuple[int, str, dict, float]:
    """Three pairs on the article that stands in the prompt, with a word before them as models like it."""
    [name] = [n for n in NAMES if f"{n}の手引き" in message]
    pairs = {f"{name}の初発症状は何ですか。": "手足のしびれです。", f"{name}に用いる薬は何ですか。": f"{name[:3]}マイシンです。"}
    pairs[f"{name}は実在しますか。"] = f"{name}は架空の疾患です。"
    rows = [json.dumps({"instruction": q, "output": a}, ensure_ascii=False) for q, a in pairs.items()]
    return 200, completion("\n".join(["以下に示します。", *rows])), {}, 0.0


class Copy:
    """The project in a folder of its own, where a new user types."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("jmedlora_utils", "notebooks", "book", "benchmarks"):
            shutil.copytree(paths.ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        for path in paths.ROOT.iterdir():
            if path.is_file():
                shutil.copy(path, root)
        (root / ".venv").symlink_to(sys.prefix)
        # What `make` leaves when it has installed; so it installs nothing into the environment of these tests.
        (root / "installed").write_text("0\n", encoding="utf-8")

    def save_preset(self, name: str, text: str) -> None:
        (self.root / "notebooks" / "presets" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def type(self, command: str) -> str:
        """Types a command as the page prints it and returns what it says."""
        environment = os.environ | {"PYTHONPATH": str(self.root), "MAKEFLAGS": f"STAMP={self.root / 'installed'}", "HF_HUB_OFFLINE": "1"}
        for name in ("JMEDLORA_RUNS", "MAKELEVEL", "HF_TOKEN"):
            environment.pop(name, None)
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "jmedlora")


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted_server() as state:
        state.script = answer
        yield state


def test_the_preset_names_the_model_as_the_server_command_does() -> None:
    generator = yaml.safe_load(PRESET)["prepare"]["10_prepare_instructions"]["generator"]
    for server in ("transformers", "vllm"):
        assert f"{server} serve {generator}" in section("Start a server")


def test_every_column_of_the_exam_card_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", section("Read the exam card")))
    assert set(model_exam_cards.COLUMNS) - {"system", "year"} <= explained


def test_the_commands_for_single_notebooks_name_all_of_the_preset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(paths.PRESETS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(paths, "PRESETS", tmp_path)
    for text in (LARGER, PRESET):
        (tmp_path / "ward.yaml").write_text(text, encoding="utf-8")
        steps = runner.steps(presets.load_preset("ward"))
    typed = [re.search(r"--output (\S+)(?: --seed (\d+))?$", c) for c in [*RECORDS, *ONE_BY_ONE] if " run " in c]
    assert {(m[1], int(m[2]) if m[2] else None) for m in typed if m} == {(step.job.output, step.job.seed) for step in steps}


@pytest.mark.skipif(not os.environ.get("JMEDLORA_DATA"), reason="JMEDLORA_DATA names no copy of the public exams")
@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
@pytest.mark.slow
def test_from_own_articles_to_the_exam_card_as_printed(copy: Copy, server: Scripted, tmp_path: Path) -> None:
    mine = {
        "/data/articles": str(write_articles(tmp_path / "articles")),
        "http://localhost:8000/v1": server.url,
        "/data/models/writer": "tiny",
        "/data/models/base": str(tiny.make_checkpoint(tmp_path / "base", context=4096)),
    }
    text = PRESET
    for printed, own in mine.items():
        assert printed in text, f"the preset of the page no longer holds {printed!r}"
        text = text.replace(printed, own)
    preset = yaml.safe_load(text)
    # The test differs from the page in these two alone: fewer questions asked, and one year to look for leaks in.
    assert preset["defaults"]["evaluate"]["limit"] == 40
    preset["defaults"]["evaluate"]["limit"] = HANDFUL
    preset["prepare"]["10_prepare_instructions"]["check_years"] = [2021]
    copy.save_preset("ward", yaml.safe_dump(preset, sort_keys=False, allow_unicode=True))

    for command in RECORDS:
        assert "1 of 5 notebooks" in copy.type(command)
    data = copy.root / "runs" / "ward" / "seed1" / "data"
    train, heldout, dropped = (read_jsonl(data / "instructions" / f"{part}.jsonl") for part in ("train", "heldout", "dropped"))
    assert len(train) + len(heldout) + len(dropped) == 3 * len(NAMES) and heldout
    assert len(dropped) <= 3  # some of the invented names are nearly the same
    assert {r["article"] for r in [*train, *heldout]} == {f"{name}.txt" for name in NAMES}

    said = "".join(copy.type(command) for command in AT_ONCE)
    assert "start  20_tune_lora__ward-lora" in said and "start  10_prepare_instructions" not in said
    assert len(server.requests) == len(NAMES)  # nothing was asked twice

    named = re.findall(r"^\| `([^`]+)` \|", section("Make the records"), re.MULTILINE)
    missing = [name for name in named if not (data / name).is_file()]
    named = re.findall(r"^\| `([^`]+)` \|", section("4."), re.MULTILINE)
    missing += [name for name in named if not (copy.root / name).exists()]
    assert named and not missing

    adapter = copy.root / "runs" / "ward" / "seed1" / "adapters" / "ward-lora" / "checkpoint-60"
    assert (adapter / "adapter_model.safetensors").is_file()
    tuned = read_record(copy.root / "runs" / "ward" / "seed1" / "records" / "20_tune__ward-lora.json")
    assert tuned.config["max_steps"] == 60 and tuned.status == "done"

    with (copy.root / "runs" / "ward" / "tables" / "candidates.csv").open(encoding="utf-8") as file:
        card = list(csv.DictReader(file))
    assert [row["system"] for row in card] == ["ward-lora, step 0, 0-shot", "ward-lora, step 60, 0-shot", "student-majority"]
    assert [int(row["asked"]) for row in card[:2]] == [HANDFUL, HANDFUL]
    assert [row["passed"] for row in card] == ["False", "False", "True"]
    assert 0 < int(card[0]["reachable"]) < int(card[0]["max_points"])

    pages = copy.root / "_build" / "html" / "notebooks"
    assert "ward-lora, step 60, 0-shot" in (pages / "31_score_published.html").read_text(encoding="utf-8")
    assert "From articles to records" in (pages / "10_prepare_instructions.html").read_text(encoding="utf-8")
    assert "_build/html/index.html" in copy.type(ONE_BY_ONE[-1])  # make book
