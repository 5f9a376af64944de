"""Download and verification, against a real local HTTP server."""

import hashlib
from urllib.parse import urlsplit

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import fetch
from tests.servers import serve_files

FILES = {
    "IgakuQA/data/2018/112-A.jsonl": b'{"problem_id": "112A1"}\n',
    "IgakuQA/baseline_results/2018/112-A_gpt4.jsonl": b'{"problem_id": "112A1", "prediction": "a"}\n',
    "IgakuQA/scripts/prompts/prompt.jsonl": b'{"problem_id": "100E5"}\n',
    "JJSIMQA/jjsimqa.jsonl": b'{"problem_id": "107_64-0"}\n',
}
QUESTIONS, JOURNAL = "IgakuQA/data/2018/112-A.jsonl", "JJSIMQA/jjsimqa.jsonl"


@pytest.fixture
def public(tmp_path, monkeypatch):
    """Writes published files: the server has them under their public paths, and `fetch` is pointed at it."""

    def place(name):
        return tmp_path / "public" / urlsplit(fetch.url_of(name)).path.lstrip("/")

    for name, content in FILES.items():
        place(name).parent.mkdir(parents=True, exist_ok=True)
        place(name).write_bytes(content)
    monkeypatch.setattr(fetch, "sums", lambda: {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()})
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    with serve_files(tmp_path / "public") as address:
        monkeypatch.setattr(fetch, "BASE_URL", address)
        yield place


def test_missing_files_are_downloaded_verified_and_kept(public):
    assert fetch.here() == {}
    found = fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    assert (found.folder, found.verified, found.downloaded) == (paths.exam_data_dir(), 4, 4)
    assert all((found.folder / name).read_bytes() == content for name, content in FILES.items())
    again = fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    assert (again.verified, again.downloaded) == (4, 0)
    assert fetch.here() == fetch.sums()


def test_only_what_is_asked_for_is_fetched(public, capsys):
    from jmedlora_utils.__main__ import main

    assert main(["exams", "--example"]) == 0
    assert "3 files verified" in capsys.readouterr().out
    assert fetch.available(["igakuqa"], [2018]) and not fetch.available(["igakuqa"], [2018, 2019]) and not fetch.available(["jjsimqa"])
    assert sorted(fetch.here()) == sorted(set(FILES) - {JOURNAL}) and fetch.missing(["JJSIMQA/"]) == [JOURNAL]
    for refused in (fetch.ensure, fetch.available):
        with pytest.raises(JmedloraError, match="no exam 'usmle' to fetch; known: igakuqa"):
            refused(["usmle"])


def test_a_mistyped_data_folder_is_refused_and_not_made(public, tmp_path, monkeypatch):
    monkeypatch.setenv("JMEDLORA_DATA", str(tmp_path / "cahce"))
    with pytest.raises(JmedloraError, match=r"JMEDLORA_DATA: .*cahce is not a folder"):
        fetch.ensure(["igakuqa"], [2018])
    assert not (tmp_path / "cahce").exists()


def test_a_download_with_another_checksum_is_refused_and_not_kept(public):
    public(JOURNAL).write_bytes(b"{}\n")
    with pytest.raises(JmedloraError, match=r"jjsimqa\.jsonl: what came is not the published file"):
        fetch.ensure(["jjsimqa"])
    assert not (paths.exam_data_dir() / JOURNAL).exists()


def test_a_changed_local_file_is_refused_with_both_sums_and_the_fix(public):
    folder = fetch.ensure(["igakuqa"], [2018]).folder
    (folder / QUESTIONS).write_bytes(b'{"problem_id": "112A1", "answer": ["b"]}\n')
    sums = rf"expected {fetch.sums()[QUESTIONS]}, found {hashlib.sha256((folder / QUESTIONS).read_bytes()).hexdigest()}"
    for read in (lambda: fetch.ensure(["igakuqa"], [2018]), lambda: fetch.verified(["IgakuQA/data/"])):
        with pytest.raises(JmedloraError, match=rf"{QUESTIONS}: not the published file .*{sums}.*delete it and run this again"):
            read()


def test_a_year_without_sums_is_used_with_a_notice(public):
    extra = paths.exam_data_dir() / "IgakuQA" / "data" / "2031" / "125-A.jsonl"
    extra.parent.mkdir(parents=True)
    extra.write_text("{}\n", encoding="utf-8")
    found = fetch.ensure(["igakuqa"], [2018, 2031])
    assert found.unlisted == ("IgakuQA/data/2031/125-A.jsonl",)
    assert "1 files have no published sum" in found.notice()


def test_no_network_and_no_cache_says_which_files_from_where_and_how(public, monkeypatch):
    monkeypatch.setattr(fetch, "BASE_URL", "http://127.0.0.1:1")
    found = fetch.ensure(["igakuqa"], [2018], download=False)
    assert (found.verified, found.downloaded) == (0, 0)
    with pytest.raises(JmedloraError, match="4 exam files are missing") as caught:
        fetch.ensure(["igakuqa", "jjsimqa"], [2018])
    commits = [source.commit for source in fetch.SOURCES if source.exam in ("igakuqa", "jjsimqa")]
    for part in (*FILES, *commits, "By hand", "export JMEDLORA_DATA=", str(paths.exam_data_dir())):
        assert part in str(caught.value)


def test_the_package_pins_every_upstream_file():
    assert all(len(digest) == 64 for digest in fetch.sums().values())
    assert {name.split("/")[0] for name in fetch.sums()} == {source.folder for source in fetch.SOURCES}
    assert len(fetch.source_of("igakuqa").files([2022])) == 48 + 2
    assert fetch.url_of(JOURNAL) == (
        "https://raw.githubusercontent.com/aistairc/medLLM_QA_benchmark/614599e5042052a374fca74590a2dd95c80a56b3/data/ja/JJSIMQA/jjsimqa.jsonl"
    )
