"""Generation through real HTTP servers: a scripted one for every mishap, and `transformers serve` with a tiny model."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import instructions
from jmedlora_utils.data.articles import Article
from jmedlora_utils.data.instructions import GenerationSettings, generate
from tests import tiny
from tests.scripted import ARTICLES, PAIRS, completion, scripted_server
from tests.servers import free_port, wait_for


@pytest.fixture
def server():
    with scripted_server() as state:
        yield state


def settings_of(**changes) -> GenerationSettings:
    return GenerationSettings.read({"generator": "tiny"} | changes, "parameters")


def ask(server, **changes) -> GenerationSettings:
    return settings_of(**({"endpoint": server.url, "max_retries": 3, "timeout_seconds": 20} | changes))


def test_pairs_tokens_and_rejects(server, tmp_path):
    made = generate(ARTICLES[:3], ask(server), tmp_path)
    assert [r["id"] for r in made.records] == ["a0#1.1", "a1#1.1", "a2#1.1"]
    expected = {"instruction": "初期症状は何ですか?", "input": "", "output": "夜間のしびれです。", "article": "a0", "facts": []}
    assert made.records[0] == {"id": "a0#1.1"} | expected
    assert made.rejects[0] == {"article": "a0", "part": 1, "reason": "truncated", "raw": '{"instruction": "何時に'}
    counts = {"pairs": 3, "rejects": 3, "prompt tokens": 300, "answer tokens": 60, "requests": 3}
    assert made.counts | counts == made.counts
    again = generate(ARTICLES[:3], ask(server), tmp_path)
    assert (again.records, again.rejects, again.counts["requests"]) == (made.records, made.rejects, 0)
    server.script = lambda message, times: (200, completion(PAIRS, usage=None), {}, 0.0)
    assert generate(ARTICLES[3:4], ask(server), tmp_path).counts["answers without token counts"] == 1


def test_the_prompt_asks_as_the_paper_does(server, tmp_path):
    generate(ARTICLES[:1], ask(server, language="en", pairs_per_article=15), tmp_path)
    [request] = server.requests
    prompt = request["messages"][0]["content"]
    for piece in ("Write 15 pairs", '"instruction"', '"output"', "No line breaks", "One pair a line", "### Input:\n" + ARTICLES[0].text):
        assert piece in prompt
    assert (request["model"], request["temperature"], request["seed"]) == ("tiny", 0.0, 1)


def test_several_wordings_are_asked_for_beside_the_other_rules(server, tmp_path):
    generate(ARTICLES[:1], ask(server, language="en", wordings=3), tmp_path)
    generate(ARTICLES[:1], ask(server, language="ja", wordings=2), tmp_path)
    for request, rule in zip(server.requests, ("each fact in 3 differently worded", "言い方の異なる質問を2個ずつ"), strict=True):
        prompt = request["messages"][0]["content"]
        [added] = [line for line in prompt.split("\n") if rule in line]
        one = prompt.replace(f"{added}\n", "")
        assert one in {instructions.build_prompt(ARTICLES[0].text, language, 15) for language in ("en", "ja")}


def test_the_response_is_kept_byte_for_byte_and_for_its_owner_alone(server, tmp_path):
    odd = completion('x "引用" \u2028 {"instruction"：“q”}', finish="length")
    server.script = lambda message, times: (200, odd, {}, 0.0)
    made = generate(ARTICLES[:1], ask(server), tmp_path)
    [kept] = tmp_path.glob("*.json")
    assert json.loads(kept.read_text(encoding="utf-8"))["body"] == odd
    assert kept.stat().st_mode & 0o777 == 0o600
    assert made.counts["answers cut by max_tokens"] == 1


def test_requests_run_side_by_side_but_bounded(server, tmp_path):
    server.script = lambda message, times: (200, completion(PAIRS), {}, 0.2)
    made = generate(ARTICLES, ask(server, concurrency=3), tmp_path)
    assert server.most_at_once == 3
    assert [r["article"] for r in made.records] == [a.id for a in ARTICLES]


WHOLE = completion(PAIRS)
CUT_OFF = (200, WHOLE, {"Content-Length": str(len(WHOLE.encode()) + 9), "Connection": "close"}, 0.0)


@pytest.mark.parametrize("failures", [[(429, "{}", {"retry-after-ms": "10"}, 0.0), (503, "{}", {"retry-after-ms": "10"}, 0.0)], [CUT_OFF]])
def test_a_busy_or_failing_server_or_connection_is_asked_again(server, tmp_path, failures):
    server.script = lambda message, times: [*failures, (200, WHOLE, {}, 0.0)][min(times - 1, len(failures))]
    assert len(generate(ARTICLES[:2], ask(server, timeout_seconds=1), tmp_path).records) == 2
    assert set(server.asked.values()) == {len(failures) + 1}


def test_a_text_that_always_fails_is_named_and_the_rest_is_kept(server, tmp_path):
    def script(message, times):
        bad = ARTICLES[2].text in message
        return (400, '{"error": {"message": "context length exceeded"}}', {}, 0.0) if bad else (200, completion(PAIRS), {}, 0.0)

    server.script = script
    said = r"1 of 6 texts have no answer, the first is article 'a2' .*context length exceeded.*allow_failed"
    with pytest.raises(JmedloraError, match=said):
        generate(ARTICLES, ask(server), tmp_path)
    made = generate(ARTICLES, ask(server, allow_failed=True), tmp_path)
    assert made.failed[0]["article"] == "a2"
    assert len(made.records) == 5
    assert server.article_counts() == Counter({a.id: 1 for a in ARTICLES}) + Counter({"a2": 1})


def test_a_slow_answer_is_a_failure_of_its_text_only(server, tmp_path):
    server.script = lambda message, times: (200, completion(PAIRS), {}, 3.0 if ARTICLES[1].text in message else 0.0)
    made = generate(ARTICLES[:3], ask(server, timeout_seconds=1, max_retries=0, allow_failed=True), tmp_path)
    assert [(f["article"], f["reason"]) for f in made.failed] == [("a1", "no answer within 1 s")]
    assert [r["article"] for r in made.records] == ["a0", "a2"]


NO = '{"error": {"message": "no such parameter"}}'


@pytest.mark.parametrize(
    ("status", "models_status", "body", "message", "requests"),
    [
        (404, 200, NO, r"parameter generator: .* knows no model 'tinny' \(404\); it offers: tiny, other", 1),
        (404, 404, NO, r"parameter generator: .* check the name, and that the address ends in /v1", 1),
        (401, 401, NO, r"parameter endpoint: .* asks for an API key .* api_key_variable", 1),
        (307, 200, NO, r"parameter endpoint: .* answers with status 307", 1),
        (400, 200, NO, r"failed on the first 5 texts .*no such parameter", 5),
        (200, 200, "<html>Welcome</html>", r"sent not a chat completion: '<html>.*does the address end in /v1", 6),
    ],
)
def test_an_endpoint_that_cannot_serve_names_the_parameter_and_the_fix(server, tmp_path, status, models_status, body, message, requests):
    server.models_status = models_status
    server.script = lambda *_: (status, body, {"Location": "http://127.0.0.1:1/v1/chat/completions"}, 0.0)
    with pytest.raises(JmedloraError, match=message):
        generate(ARTICLES, ask(server, generator="tinny", concurrency=1), tmp_path)
    assert len(server.requests) <= requests
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_known_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(JmedloraError, match=r"cannot be reached .* start the server"):
        generate(ARTICLES, settings_of(endpoint=f"http://127.0.0.1:{free_port()}/v1"), tmp_path)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("https://api.openai.com/v1", "api.openai.com is not this machine"),
        ("http://localhost.example.org/v1", "is not this machine"),
        ("http://0/v1", "is not this machine"),
        ("localhost:8000/v1", "is no address"),
        ("/v1", "is no address"),
    ],
)
def test_no_text_leaves_the_machine_unless_allowed(endpoint, message):
    with pytest.raises(JmedloraError, match=f"parameter endpoint: .*{message}"):
        instructions.open_client(settings_of(endpoint=endpoint))


@pytest.mark.parametrize("endpoint", ["http://localhost:1/v1", "http://127.0.0.1/v1", "http://[::1]:8000/v1", "https://127.1.2.3/v1"])
def test_loopback_addresses_need_no_permission(endpoint):
    assert instructions.open_client(settings_of(endpoint=endpoint)).base_url.host
    assert instructions.open_client(settings_of(endpoint="https://example.org/v1", allow_remote=True)).base_url.host == "example.org"


@pytest.mark.parametrize("endpoint", ["http://user:secret@127.0.0.1/v1", "user:secret@localhost/v1", "http://127.0.0.1/v1?key=secret"])
def test_credentials_in_the_address_are_refused_and_never_shown(endpoint):
    with pytest.raises(JmedloraError, match="parameters: 'endpoint': it may hold credentials") as caught:
        settings_of(endpoint=endpoint)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_key_that_the_server_repeats_is_hidden(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WARD_KEY", "ward-secret")
    server.script = lambda *_: (400, '{"error": {"message": "bad key ward-secret"}}', {}, 0.0)
    made = generate(ARTICLES[:1], ask(server, api_key_variable="WARD_KEY", allow_failed=True), tmp_path)
    assert "***" in made.failed[0]["reason"] and "ward-secret" not in made.failed[0]["reason"]


def test_a_proxy_of_the_environment_never_sees_a_text(server, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert len(generate(ARTICLES[:1], ask(server), tmp_path).records) == 1


def test_the_api_key_comes_from_the_named_variable_only(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-this-server")
    monkeypatch.setenv("WARD_KEY", "ward")
    generate(ARTICLES[:1], ask(server), tmp_path)
    generate(ARTICLES[1:2], ask(server, api_key_variable="WARD_KEY"), tmp_path)
    assert [h["authorization"] for h in server.headers] == ["Bearer none", "Bearer ward"]
    with pytest.raises(JmedloraError, match="parameter api_key_variable: the environment variable MISSING_KEY is not set"):
        generate(ARTICLES[:1], ask(server, api_key_variable="MISSING_KEY"), tmp_path)


def test_long_articles_are_sent_whole_in_parts(server, tmp_path):
    article = Article("long", "\n\n".join(f"第{i}段落です。" * 5 for i in range(6)), title="架空の疾患")
    made = generate([article], ask(server, max_text_chars=80), tmp_path)
    sent = [r["messages"][0]["content"].split("### Input:\n")[1] for r in server.requests]
    assert sorted("".join(sorted(sent))) == sorted(f"架空の疾患\n\n{article.text}" + "\n" * len(sent))
    assert made.counts["texts"] == len(sent) > 1
    assert len({r["id"] for r in made.records}) == len(made.records) == len(sent)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"generator": " "}, "generator"),
        ({"language": "de"}, "language"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"max_cost": 1.0}, "max_cost"),
    ],
)
def test_settings_out_of_range_name_the_parameter(change, name):
    with pytest.raises(JmedloraError, match=f"parameters: .*'{name}'"):
        settings_of(**change)


def test_a_damaged_kept_answer_is_named(server, tmp_path):
    generate(ARTICLES[:1], ask(server), tmp_path)
    [kept] = tmp_path.glob("*.json")
    kept.write_text('{"body": "', encoding="utf-8")
    with pytest.raises(JmedloraError, match=f"{kept.name}: not a kept answer .* delete the file"):
        generate(ARTICLES[:1], ask(server), tmp_path)


def test_two_seeds_at_once_ask_for_each_text_once(server, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: generate(ARTICLES, ask(server), tmp_path), range(2)))
    assert both[0].records == both[1].records
    assert sorted(made.counts["requests"] for made in both) == [0, len(ARTICLES)]


def test_a_killed_run_goes_on_and_asks_nothing_twice(server, tmp_path):
    """SIGKILL while the last requests hang: what was answered before is not asked again, the rest once more."""
    hang = threading.Event()

    def script(message, times):
        if times == 1 and any(a.text in message for a in ARTICLES[3:]):
            hang.wait(30)
        return 200, completion(PAIRS.replace("何ですか", message[-12:-2])), {}, 0.0

    server.script = script
    program = (
        "import sys, pathlib\n"
        "from jmedlora_utils.data.instructions import GenerationSettings, generate\n"
        "from tests.scripted import ARTICLES\n"
        "generate(ARTICLES, GenerationSettings(generator='tiny', endpoint=sys.argv[1], concurrency=2), pathlib.Path(sys.argv[2]))\n"
    )
    cache = tmp_path / "cache"
    command, quiet = [sys.executable, "-c", program, server.url, str(cache)], {"JMEDLORA_PROGRESS": "0"}
    process = subprocess.Popen(command, cwd=paths.ROOT, env=os.environ | quiet)
    try:
        wait_for(lambda: len(list(cache.glob("*.json"))) == 3 and len(server.requests) == 5, 60, lambda: process.poll() is None)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    hang.set()
    before = server.article_counts()
    assert before == Counter({"a0": 1, "a1": 1, "a2": 1, "a3": 1, "a4": 1})
    settings = ask(server, concurrency=2)
    made = generate(ARTICLES, settings, cache)
    assert server.article_counts() - before == Counter({"a3": 1, "a4": 1, "a5": 1})
    assert made.counts["answers kept from earlier runs"] == 3
    straight = generate(ARTICLES, settings, tmp_path / "straight")
    assert made.records == straight.records
    assert not list(cache.glob(".*"))


@contextmanager
def transformers_serve(model: Path, log: Path):
    port = free_port()
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:

        def listening():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listening, 600, lambda: process.poll() is None)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_transformers_serve_writes_what_is_kept_and_counted(tmp_path):
    for needed in ("fastapi", "uvicorn"):
        pytest.importorskip(needed, reason="transformers serve needs fastapi and uvicorn (the dev extra)")
    model = tiny.make_checkpoint(tmp_path / "tiny", "qwen3", context=2048)
    with transformers_serve(model, tmp_path / "serve.log") as endpoint:
        settings = settings_of(generator=str(model), endpoint=endpoint, max_tokens=32, concurrency=2)
        made = generate(ARTICLES[:3], settings, tmp_path / "cache")
        with pytest.raises(JmedloraError, match=r"status 400: .*Server is pinned to"):
            generate(ARTICLES, settings_of(generator="another", endpoint=endpoint, concurrency=1), tmp_path / "cache")
    assert made.records == [] and {r["article"] for r in made.rejects} == {"a0", "a1", "a2"}, "a random model writes no pair"
    assert 0 < made.counts["answer tokens"] <= 3 * 32 < made.counts["prompt tokens"]
    again = generate(ARTICLES[:3], settings, tmp_path / "cache")
    assert (again.rejects, again.counts["requests"]) == (made.rejects, 0)
