"""Makes the fixtures beside it: SmolLM2-135M-Instruct, behind `transformers serve`, is asked for pairs by the project's own client.

    make fetch PRESET=small                                 # the weights, once
    .venv/bin/pip install "transformers[serving]" -c constraints.txt
    .venv/bin/python tests/data/odd_outputs/make.py         # five minutes on two cores

Its articles are made of the invented world: Japanese ones on diseases, English ones on towns and people, and data files that lay among
the articles by mistake. What the model wrote is kept as it came, one file an answer; `made.json` says from which article, with which
settings, by what and when. `expected.json`, what the parser reads in it, is written by hand.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from jmedlora_utils.core import identity, paths
from jmedlora_utils.core.records import read_json, sha256_file, write_text
from jmedlora_utils.data import instructions, invented_world
from jmedlora_utils.data.articles import Article
from jmedlora_utils.data.invented_names import GENERAL
from jmedlora_utils.data.invented_world import say_fact

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
# Name of the fixtures to the articles and how they are asked. Asked of plain text, this model writes no JSON at all; where the texts are
# data files that lay among the articles, it writes some.
ASKED = {
    "ja": ("articles", {"language": "ja"}),
    "en": ("sentences", {"language": "en"}),
    "records": ("records", {"language": "en", "temperature": 1.0}),
    "objects": ("objects", {"language": "ja", "temperature": 1.0}),
}
COUNTS = {"articles": 1, "sentences": 2, "records": 6, "objects": 2}
MAX_TOKENS = 160


def articles(kind: str) -> list[Article]:
    """Texts of the invented world: Japanese articles, English sentences on a town or person, English records, or articles as objects."""
    world = invented_world.World(invented_world.WorldSettings(seed=1, towns=9, answers=9, people=8, general_questions=24))
    n = COUNTS[kind]
    if kind == "articles":
        return [Article(a["id"], a["text"], a["title"]) for a in world.articles()[:n]]
    if kind == "objects":
        return [Article(a["id"], json.dumps(a, ensure_ascii=False)) for a in world.articles()[:n]]
    general = [fact for fact in world.facts_of("general") if fact.relation in GENERAL]
    if kind == "sentences":
        said: dict[str, list[str]] = {}
        for fact in general:
            said.setdefault(fact.subject.en, []).extend(say_fact(fact, way, english=True) for way in fact.relation.says_en)
        every = len(said) // n
        return [Article(name, " ".join(sentences), name) for name, sentences in list(said.items())[::every]][:n]
    pairs = [
        {"instruction": f.relation.asks_en[0].format(s=f.subject.en), "output": ", ".join(answer.en for answer in f.answers)}
        for f in general
    ]
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    return [Article(f"records{i + 1}", "\n".join(lines[4 * i : 4 * i + 4])) for i in range(n)]


@contextmanager
def server(weights: Path, served: Path) -> Iterator[str]:
    """Address of `transformers serve` with the model, on a free port of this machine.

    It samples at a temperature above 0 only where the model's own generation settings do, so these are changed in what it serves.
    """
    served.mkdir()
    for path in weights.iterdir():
        (served / path.name).symlink_to(path)
    own = served / "generation_config.json"
    settings = read_json(own) | {"do_sample": True}
    own.unlink()
    write_text(own, json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [str(Path(sys.executable).with_name("transformers")), "serve", served.name, "--host", "127.0.0.1", "--port", str(port)]
    # From the folder above, so that the model's name holds no path of this machine.
    process = subprocess.Popen([*serve, "--device", "cpu"], cwd=served.parent, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        while True:
            time.sleep(1)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError as error:
                if process.poll() is not None:
                    raise SystemExit("the server ended before it was ready") from error
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()  # on SIGTERM it would finish an answer that nobody waits for
        process.wait()


def main() -> None:
    weights, made = paths.weights_dir() / MODEL, {}
    with tempfile.TemporaryDirectory() as folder, server(weights, Path(folder) / MODEL) as endpoint:
        for name, (kind, how) in ASKED.items():
            common = {"pairs_per_article": 5, "max_tokens": MAX_TOKENS, "concurrency": 1, "timeout_seconds": 1200}
            settings = instructions.GenerationSettings(generator=MODEL, endpoint=endpoint, **common, **how)
            asked, cache = articles(kind), Path(folder) / name
            instructions.generate(asked, settings, cache)
            kept = {answer["article"]: answer for answer in map(read_json, cache.glob("*.json"))}
            for number, article in enumerate(asked, start=1):
                choice = json.loads(kept[article.id]["body"])["choices"][0]
                write_text(HERE / f"{name}-{number}.txt", choice["message"]["content"])
                made[f"{name}-{number}"] = {"finish": choice["finish_reason"], **kept[article.id]["request"]}
    note = {
        "what": "Unaltered answers of a small model, for tests of a parser: research only, not for medical use. All names are invented.",
        "made": datetime.now(UTC).date().isoformat(),
        "by": "transformers serve, asked by jmedlora_utils.data.instructions",
        "weights": {"sha256": sha256_file(weights / "model.safetensors")} | {"what": read_json(weights / "origin.json")["what"]},
        "versions": {name: identity.installed_version(name) for name in ("transformers", "torch", "openai")},
        "answers": made,
    }
    write_text(HERE / "made.json", json.dumps(note, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
