"""The presets of the paper's size: every notebook of them is planned, and `paper` runs to its book on tiny checkpoints."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from jmedlora_utils.core import paths, presets
from jmedlora_utils.core.records import read_record, write_jsonl
from jmedlora_utils.workflow import runner
from tests import tiny
from tests.scripted import completion, scripted_server
from tests.servers import run_python

# Everything in which the run below differs from the published preset: size, not kind.
SMALLER = {
    "extends": "published",
    "device": "any",
    "prepare": {"10_prepare_instructions": {"pairs_per_article": 4, "check_years": [2018]}, "11_prepare_exams": {"years": [2018]}},
    "defaults": {"tune": {"learning_rate": 0.02}, "evaluate": {"limit": 6, "max_new_tokens": 8}},
    "runs": {
        "open-calm-7b_lora": {
            "tune": {"max_steps": 4, "save_steps": [1, 2, 4], "learning_rate": 0.02},
            "evaluate": {"steps": [0, 1, 2, 4]},
        },
        "llama-2-70b_qlora": {"tune": {"max_steps": 3, "save_steps": [1, 3], "learning_rate": 0.02}, "evaluate": {"steps": [0, 1, 3]}},
    },
}


def answer(message: str, times: int) -> tuple[int, str, dict, float]:
    """Four pairs on the article whose number stands in the prompt."""
    number = next(i for i in range(len(tiny.WORDS)) if f"番号{i}。" in message)
    rows = [
        (tiny.WORDS[(7 * number + 31 * i) % len(tiny.WORDS)], tiny.WORDS[(11 * number + 17 * i + 5) % len(tiny.WORDS)]) for i in range(4)
    ]
    pairs = [{"instruction": f"{a}病の治療に用いるのはどれか。", "output": f"{b}薬です。"} for a, b in rows]
    return 200, completion("\n".join(json.dumps(p, ensure_ascii=False) for p in pairs)), {}, 0.0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project in a folder of its own; its preset `paper` is the published one made smaller, its registry names tiny checkpoints."""
    root = tmp_path / "project"
    for folder in ("jmedlora_utils", "notebooks", "book", "benchmarks"):
        shutil.copytree(paths.ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("Snakefile", "_toc.yml", "_config.yml", "constraints.txt", "pyproject.toml", "CITATION.cff"):
        shutil.copy(paths.ROOT / name, root)
    presets = root / "notebooks" / "presets"
    (presets / "paper.yaml").rename(presets / "published.yaml")
    for preset, family in (("open-calm-7b", "gpt_neox"), ("llama-2-70b-chat", "llama")):
        tiny.make_checkpoint(root / "models" / preset, family, hidden=32, context=4096)
    bases = {name: {"folder": f"models/{name}"} for name in ("open-calm-7b", "llama-2-70b-chat")}
    (root / "models.yaml").write_text(yaml.safe_dump({"bases": bases}), encoding="utf-8")
    articles = [
        {"id": f"a{i}", "text": f"番号{i}。" + "".join(f"{w}病には{w}薬を用いる。" for w in tiny.WORDS[i : i + 6])} for i in range(12)
    ]
    write_jsonl(root / "articles.jsonl", articles)
    return root


@pytest.mark.skipif(not os.environ.get("JMEDLORA_DATA"), reason="JMEDLORA_DATA names no copy of the public exams")
@pytest.mark.timeout(2400)
@pytest.mark.slow
def test_the_paper_preset_runs_to_its_book_on_tiny_checkpoints_of_the_same_architectures(copy: Path) -> None:
    command = ["-m", "jmedlora_utils", "reproduce", "--preset", "paper", "--jobs", "2"]
    environment = {"JMEDLORA_MODELS": str(copy / "models.yaml"), "HF_HUB_OFFLINE": "1", "JMEDLORA_RUNS": None, "HF_TOKEN": None}
    with scripted_server() as server:
        server.script = answer
        smaller = json.loads(json.dumps(SMALLER))
        own = {"articles_path": str(copy / "articles.jsonl"), "endpoint": server.url, "generator": "tiny"}
        smaller["prepare"]["10_prepare_instructions"] |= own
        (copy / "notebooks" / "presets" / "paper.yaml").write_text(yaml.safe_dump(smaller), encoding="utf-8")
        done = run_python(*command, cwd=copy, seconds=1500, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    root = copy / "runs" / "paper"

    # The journal's table: model, steps, shots, exam, metric.
    with (root / "tables" / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cells = {(r["base"], r["method"], int(r["steps"]), int(r["shots"]), r["exam"], r["metric"]) for r in rows}
    metrics = ("exact_match", "gestalt", "accuracy", "strict_exact_match", "strict_accuracy")
    assert cells == {
        (base, method, step, shots, exam, metric)
        for base, method, steps in (("open-calm-7b", "lora", (0, 1, 2, 4)), ("llama-2-70b-chat", "qlora", (0, 1, 3)))
        for step in steps
        for shots in (0, 1)
        for exam in ("igakuqa", "jjsimqa")
        for metric in metrics
    }
    assert {(r["base"], r["centric"]) for r in rows} == {("open-calm-7b", "japanese"), ("llama-2-70b-chat", "english")}
    assert {int(r["n"]) for r in rows} == {6}

    tuned = read_record(root / "seed1" / "records" / "20_tune__llama-2-70b_qlora.json")
    assert (tuned.model["architecture"], tuned.model["quantisation"], tuned.config["optimizer"]) == ("llama", "nf4", "paged_adamw_32bit")
    assert len(tuned.model["targets"]) == 7 and tuned.config["rank"] == 64
    small = read_record(root / "seed1" / "records" / "20_tune__open-calm-7b_lora.json")
    assert (small.model["architecture"], small.model["targets"], small.config["rank"]) == ("gpt_neox", ["query_key_value"], 8)
    prepared = read_record(root / "seed1" / "records" / "10_prepare_instructions.json")
    assert prepared.config["generation"]["generator"] == "tiny" and prepared.counts["instructions"] >= 20

    page = (copy / "_build" / "html" / "notebooks" / "32_scores.html").read_text(encoding="utf-8")
    assert 'id="fig-scores"' in page and "Preset paper, 1 seed" in page
    card = (root / "seed1" / "adapters" / "llama-2-70b_qlora" / "checkpoint-3" / "README.md").read_text(encoding="utf-8")
    assert "base_model: meta-llama/Llama-2-70b-chat-hf" in card and "| jjsimqa | 1 | 3 | 6 |" in card

    again = run_python(*command, cwd=copy, **environment)
    assert again.returncode == 0 and "start" not in again.stdout, again.stdout + again.stderr


@pytest.mark.parametrize("name", ["paper", "paper-sizes", "paper-adapters", "modern"])
def test_a_large_preset_is_planned_in_full(name: str, tmp_path: Path) -> None:
    command = ["-m", "snakemake", "--dry-run", "--cores", "1", "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--directory", str(tmp_path), "--config", f"preset={name}"]
    done = run_python(*command, seconds=120, JMEDLORA_RUNS=str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    for step in runner.steps(presets.load_preset(name)):
        assert f"rule {'' if step.job.seed is None else f'seed{step.job.seed}__'}{step.job.output}:" in said
    assert "32_scores" in said
