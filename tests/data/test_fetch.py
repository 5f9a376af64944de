"""Download and verification, against a real local HTTP server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import fetch

FILES = {
    "IgakuQA/data/2018/112-A.jsonl": b'{"problem_id": "112A1"}\n',
    "IgakuQA/baseline_results/2018/112-A_gpt4.jsonl": b'{"problem_id": "112A1", "prediction": "a"}\n',
    "IgakuQA/scripts/prompts/prompt.jsonl": b'{"problem_id": "100E5"}\n',
    "JJSIMQA/jjsimqa.jsonl": b'{"problem_id": "107_64-0"}\n',
}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The published files under their public paths, on a local server; `fetch` is pointed at it."""
    root = tmp_path / "public"
    for name, content in FILES.items():
        top, _, rest = name.partition("/")
        target = root / fetch.SOURCES[top] / rest
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(root)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetch, "BASE_URL", f"http://127.0.0.1:{httpd.server_port}")
    monkeypatch.setattr(fetch, "sums", lambda: {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()})
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path / "cache"))
    yield root
    httpd.shutdown()
    httpd.server_close()


def test_missing_files_are_downloaded_verified_and_kept(server):
    found = fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    assert (found.folder, found.verified, found.downloaded) == (paths.exam_data_dir(), 4, 4)
    assert all((found.folder / name).read_bytes() == content for name, content in FILES.items())
    again = fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    assert (again.verified, again.downloaded) == (4, 0)


def test_the_command_fetches_the_year_of_the_method_page_alone(server, capsys):
    from jmedlora_utils.__main__ import main

    assert main(["exams", "--example"]) == 0
    assert "3 files verified" in capsys.readouterr().out
    assert not fetch.missing(["IgakuQA/"]) and fetch.missing(["JJSIMQA/"]) == ["JJSIMQA/jjsimqa.jsonl"]


def test_only_what_is_asked_for_is_fetched(server):
    assert fetch.ensure(["jjsimqa"]).downloaded == 1
    assert not fetch.available(["igakuqa"], [2018])
    assert fetch.available(["jjsimqa"])
    with pytest.raises(JmedloraError, match="no exam 'usmle'"):
        fetch.ensure(["usmle"])


def test_a_download_with_another_checksum_is_refused_and_not_kept(server):
    changed = server / fetch.SOURCES["JJSIMQA"] / "jjsimqa.jsonl"
    changed.write_bytes(b"{}\n")
    with pytest.raises(JmedloraError, match=r"jjsimqa\.jsonl: what came is not the published file"):
        fetch.ensure(["jjsimqa"])
    assert not (paths.exam_data_dir() / "JJSIMQA" / "jjsimqa.jsonl").exists()


def test_a_changed_local_file_is_refused_with_both_sums_and_the_mend(server):
    folder = fetch.ensure(["igakuqa"], [2018]).folder
    name = "IgakuQA/data/2018/112-A.jsonl"
    (folder / name).write_bytes(b'{"problem_id": "112A1", "answer": ["b"]}\n')
    with pytest.raises(JmedloraError, match=name) as caught:
        fetch.ensure(["igakuqa"], [2018])
    message = str(caught.value)
    assert fetch.sums()[name] in message
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() in message
    assert "delete it and run this again" in message


def test_a_year_without_sums_is_used_with_a_notice(server):
    folder = fetch.ensure(["igakuqa"], [2018]).folder
    extra = folder / "IgakuQA" / "data" / "2031" / "125-A.jsonl"
    extra.parent.mkdir(parents=True)
    extra.write_text("{}\n", encoding="utf-8")
    found = fetch.ensure(["igakuqa"], [2018, 2031])
    assert found.unlisted == ("IgakuQA/data/2031/125-A.jsonl",)
    assert "1 files have no published sum" in found.notice()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_network_and_no_cache_says_which_files_from_where_and_how(server, monkeypatch):
    monkeypatch.setattr(fetch, "BASE_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(JmedloraError, match="4 exam files are missing") as caught:
        fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    message = str(caught.value)
    for part in (*FILES, *fetch.SOURCES.values(), "By hand", "export JMEDLORA_DATA=", str(paths.exam_data_dir())):
        assert part in message


def test_a_file_the_server_does_not_have_is_named(server):
    (server / fetch.SOURCES["JJSIMQA"] / "jjsimqa.jsonl").unlink()
    with pytest.raises(JmedloraError, match=r"1 exam files are missing[\s\S]*JJSIMQA/jjsimqa\.jsonl"):
        fetch.ensure(["jjsimqa"])


def test_without_download_nothing_is_asked_of_the_network(server, monkeypatch):
    monkeypatch.setattr(fetch, "BASE_URL", "http://127.0.0.1:1")
    found = fetch.ensure(["igakuqa"], [2018], download=False)
    assert (found.verified, found.downloaded) == (0, 0)


def test_the_package_pins_every_upstream_file():
    sums = fetch.sums()
    assert len(sums) == 243
    assert all(len(digest) == 64 for digest in sums.values())
    assert {name.split("/")[0] for name in sums} == set(fetch.SOURCES)
    assert len(fetch.wanted(["igakuqa"], [2022])) == 48 + 2
    assert fetch.url_of("JJSIMQA/jjsimqa.jsonl") == (
        "https://raw.githubusercontent.com/aistairc/medLLM_QA_benchmark/614599e5042052a374fca74590a2dd95c80a56b3/data/ja/JJSIMQA/jjsimqa.jsonl"
    )
    assert Path(fetch.url_of("IgakuQA/data/2018/112-A.jsonl")).name == "112-A.jsonl"
