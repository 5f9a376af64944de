"""Fetching models: a hub on this machine, at pinned commits; then a run of it without a network."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest
from conftest import Project, write_notebook

from jmedlora_utils.core import presets
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.models import hub, registry
from tests import tiny
from tests.servers import run_python, serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny"


@contextmanager
def local_hub(files: dict[str, bytes]) -> Iterator[SimpleNamespace]:
    """A hub with one model at one commit, which remembers what it was asked."""
    seen = SimpleNamespace(asked=[], url="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            seen.asked.append(f"{self.command} {path}")
            hashes = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
            prefix = f"/{NAME}/resolve/{COMMIT}/"
            if path == f"/api/models/{NAME}/revision/{COMMIT}":
                siblings = [{"rfilename": n, "size": len(b), "blobId": hashes[n]} for n, b in files.items()]
                body = {"_id": "1", "id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "siblings": siblings, "tags": []}
                self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            elif path == f"/api/models/{NAME}/tree/{COMMIT}":
                tree = [{"type": "file", "path": n, "size": len(b), "oid": hashes[n]} for n, b in files.items()]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif path.startswith(prefix) and (name := path.removeprefix(prefix)) in files:
                self.answer(200, files[name], ETag=f'"{hashes[name]}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
            else:
                code = "RevisionNotFound" if f"/{NAME}/" in path else "RepoNotFound"
                self.answer(404, b"{}", X_Error_Code=code, Content_Type="application/json")

        do_HEAD = do_GET

    with serve(Handler) as seen.url:
        yield seen


def run(project: Project, environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    inherited = dict.fromkeys(("HF_TOKEN", "HF_HUB_OFFLINE", "JMEDLORA_RUNS", "JMEDLORA_MODELS"))
    return run_python("-c", code, cwd=project.root, **(inherited | environment))


LOAD = """
from jmedlora_utils.models import loading
model, tokenizer = loading.load_base("{name}")
print(sum(p.numel() for p in model.parameters()), tokenizer("薬").input_ids[0])
"""
OTHER_COMMIT = f"from jmedlora_utils.models import hub, registry; hub.look_up(registry.resolve('{NAME}@{'a' * 40}'))"
FETCH = "from jmedlora_utils.models import hub; print(*hub.fetch('mini'))"


@pytest.mark.slow
def test_fetched_models_load_on_a_machine_without_a_network(project: Project, tmp_path: Path) -> None:
    """`hub.fetch` from a hub on this machine; then the package's own loader, offline and with no hub there."""
    base = tiny.make_checkpoint(tmp_path / "base", hidden=32)
    files = {p.name: p.read_bytes() for p in base.iterdir()} | {"pytorch_model.bin": b"a second copy", "original/model.pth": b"a third"}
    declared = 'preset = "mini"  # preset\nseed = 1  # seed\nrun_name = ""  # run\nbase = ""  # base\n'
    for stem, more in (("20_tune_lora", ""), ("30_evaluate_exam", 'adapter = ""  # adapter\n')):
        write_notebook(project.notebooks / f"{stem}.ipynb", declared + more)
    name = f"{NAME}@{COMMIT}"
    project.preset.write_text(f"runs: {{a: {{tune: {{base: '{name}'}}, evaluate: {{base: '{name}', adapter: a}}}}}}\n")
    cache = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with local_hub(files) as seen:
        first = run(project, cache | {"HF_ENDPOINT": seen.url}, FETCH)
        assert first.returncode == 0, first.stderr
        fetched = {line.rsplit("/", 1)[-1] for line in seen.asked if line.startswith("GET") and "/resolve/" in line}
        assert fetched == {n for n in files if n.endswith((".json", ".safetensors", ".jinja"))}
        before = len([line for line in seen.asked if line.startswith("GET") and "/resolve/" in line])
        again = run(project, cache | {"HF_ENDPOINT": seen.url}, FETCH)
        assert "0.0 of them to fetch" in again.stdout, again.stderr
        assert len([line for line in seen.asked if line.startswith("GET") and "/resolve/" in line]) == before
        other = run(project, cache | {"HF_ENDPOINT": seen.url}, OTHER_COMMIT)
        assert f"the hub has no commit {'a' * 40}; choose one on" in other.stderr
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    loaded = run(project, cache | nowhere, LOAD.format(name=name))
    assert loaded.returncode == 0, loaded.stderr
    missing = run(project, {"HF_HOME": str(tmp_path / "empty")} | nowhere, LOAD.format(name=name))
    assert missing.returncode == 1 and "is not in the local cache: fetch it on a machine with network" in missing.stderr
    unreached = run(project, cache | {"HF_ENDPOINT": "http://127.0.0.1:9"}, FETCH)
    assert "the hub cannot be reached" in unreached.stderr and "on a machine with a network" in unreached.stderr


def test_one_copy_of_the_weights_is_chosen() -> None:
    both = {"config.json": 1, "model-00001-of-00002.safetensors": 5, "pytorch_model-00001-of-00001.bin": 5, "original/model.pth": 5}
    assert set(hub.chosen_files(both | {"README.md": 1})) == {"config.json", "model-00001-of-00002.safetensors"}
    assert set(hub.chosen_files({"adapter_config.json": 1, "adapter_model.bin": 5})) == {"adapter_config.json", "adapter_model.bin"}
    assert hub.chosen_files({"config.json": 1}) == {}


def test_models_of_a_preset_are_bases_and_adapters_each_once_without_those_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a token")
    found = hub.models_of(presets.load_preset("paper"))
    assert [e.name for e in found] == ["open-calm-7b", "llama-2-70b-chat"]
    runs = (presets.Run("a", {"base": "en-small"}, {"base": "en-small", "adapter": "a"}),)
    assert (
        hub.models_of(presets.Preset("made-up", "", "any", (1,), {"19_pretrain_mini_bases": {"bases": ["en-small"]}}, runs, {}, "")) == []
    )


def test_everything_that_stands_in_the_way_is_said_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(JmedloraError) as said:
        hub.models_of(presets.load_preset("paper-adapters"))
    assert "llama-2-70b-chat: meta-llama/Llama-2-70b-chat-hf is gated and no token was given" in str(said.value)
    assert "swallow-70b-instruct: its revision is unknown" in str(said.value)


def test_too_small_a_disk_is_refused_before_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = [hub.Wanted(registry.resolve("open-calm-7b"), {"model.safetensors": 14 * 10**9}, 14 * 10**9)]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10 * 10**9))
    with pytest.raises(JmedloraError, match=r"take 14\.0 GB \(open-calm-7b 14\.0\).*has 10\.0 GB free; nothing was fetched.*HF_HOME"):
        hub.check_disk(wanted, tmp_path / "not" / "yet" / "there")
