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
from contextlib import contextmanager
from pathlib import Path

import pytest

from jmedlora_utils.core import paths
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.data import instructions
from jmedlora_utils.data.articles import Article
from jmedlora_utils.data.instructions import GenerationSettings, generate
from tests.scripted import ARTICLES, PAIRS, completion, scripted_server


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
    assert {name: made.counts[name] for name in ("pairs", "rejects", "prompt tokens", "answer tokens", "requests")} == {
        "pairs": 3,
        "rejects": 3,
        "prompt tokens": 300,
        "answer tokens": 60,
        "requests": 3,
    }
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


def test_busy_and_failing_servers_are_asked_again(server, tmp_path):
    def script(message, times):
        status = (429, 503, 200)[min(times, 3) - 1]
        return status, completion(PAIRS) if status == 200 else '{"error": {"message": "later"}}', {"retry-after-ms": "10"}, 0.0

    server.script = script
    assert len(generate(ARTICLES[:2], ask(server), tmp_path).records) == 2
    assert set(server.asked.values()) == {3}


def test_a_text_that_always_fails_is_named_and_the_rest_is_kept(server, tmp_path):
    def script(message, times):
        bad = ARTICLES[2].text in message
        return (400, '{"error": {"message": "context length exceeded"}}', {}, 0.0) if bad else (200, completion(PAIRS), {}, 0.0)

    server.script = script
    with pytest.raises(
        JmedloraError, match=r"1 of 6 texts have no answer, the first is article 'a2' .*context length exceeded.*allow_failed"
    ):
        generate(ARTICLES, ask(server), tmp_path)
    made = generate(ARTICLES, ask(server, allow_failed=True), tmp_path)
    assert made.failed[0]["article"] == "a2"
    assert len(made.records) == 5
    assert server.article_counts() == Counter({a.id: 1 for a in ARTICLES}) + Counter({"a2": 1})


def test_an_endpoint_that_fails_on_everything_is_given_up(server, tmp_path):
    server.script = lambda message, times: (400, '{"error": {"message": "no such parameter"}}', {}, 0.0)
    with pytest.raises(JmedloraError, match=r"failed on the first 5 texts .*no such parameter"):
        generate(ARTICLES, ask(server, concurrency=1), tmp_path)
    assert len(server.requests) == 5


def test_a_slow_answer_is_a_failure_of_its_text_only(server, tmp_path):
    server.script = lambda message, times: (200, completion(PAIRS), {}, 3.0 if ARTICLES[1].text in message else 0.0)
    made = generate(ARTICLES[:3], ask(server, timeout_seconds=1, max_retries=0, allow_failed=True), tmp_path)
    assert [(f["article"], f["reason"]) for f in made.failed] == [("a1", "no answer within 1 s")]
    assert [r["article"] for r in made.records] == ["a0", "a2"]


def test_a_connection_cut_in_the_middle_of_an_answer_is_asked_again(server, tmp_path):
    whole = completion(PAIRS)

    def script(message, times):
        return (
            (200, whole, {"Content-Length": str(len(whole.encode()) + 9), "Connection": "close"}, 0.0)
            if times == 1
            else (200, whole, {}, 0.0)
        )

    server.script = script
    assert len(generate(ARTICLES[:1], ask(server, timeout_seconds=1), tmp_path).records) == 1
    assert set(server.asked.values()) == {2}


@pytest.mark.parametrize(
    ("status", "models_status", "message"),
    [
        (404, 200, r"parameter generator: .* knows no model 'tinny' \(404\); it offers: tiny, other"),
        (404, 404, r"parameter generator: .* check the name, and that the address ends in /v1"),
        (401, 401, r"parameter endpoint: .* asks for an API key .* api_key_variable"),
        (403, 200, r"parameter endpoint: .* asks for an API key or refuses the one given \(403\)"),
        (307, 200, r"parameter endpoint: .* answers with status 307"),
    ],
)
def test_endpoint_problems_name_the_parameter_and_the_fix(server, tmp_path, status, models_status, message):
    server.models_status = models_status
    server.script = lambda *_: (status, '{"error": {"message": "no"}}', {"Location": "http://127.0.0.1:1/v1/chat/completions"}, 0.0)
    with pytest.raises(JmedloraError, match=message):
        generate(ARTICLES, ask(server, generator="tinny", concurrency=1), tmp_path)
    assert len(server.requests) <= 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_instead_of_an_answer_is_refused_and_not_kept(server, tmp_path):
    server.script = lambda *_: (200, "<html>Welcome</html>", {"Content-Type": "text/html"}, 0.0)
    with pytest.raises(JmedloraError, match=r"sent not a chat completion: '<html>.*does the address end in /v1"):
        generate(ARTICLES[:1], ask(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_known_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(JmedloraError, match=r"cannot be reached .* start the server"):
        generate(ARTICLES, settings_of(endpoint=f"http://127.0.0.1:{port}/v1"), tmp_path)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("https://api.openai.com/v1", "api.openai.com is not this machine"),
        ("http://localhost.example.org/v1", "is not this machine"),
        ("http://10.0.0.5:8000/v1", "is not this machine"),
        ("http://0/v1", "is not this machine"),
        ("localhost:8000/v1", "is no address"),
        ("ftp://localhost/v1", "is no address"),
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


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://user:secret@127.0.0.1/v1",
        "user:secret@localhost/v1",
        "http://127.0.0.1@example.org/v1?secret",
        "http://127.0.0.1/v1?key=secret",
    ],
)
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
        ({"pairs_per_article": 0}, "pairs_per_article"),
        ({"temperature": -1.0}, "temperature"),
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
        "from jmedlora_utils.data.articles import Article\n"
        "from jmedlora_utils.data.instructions import GenerationSettings, generate\n"
        "articles = [Article(*row) for row in __import__('json').loads(sys.argv[1])]\n"
        "generate(articles, GenerationSettings(generator='tiny', endpoint=sys.argv[2], concurrency=2), pathlib.Path(sys.argv[3]))\n"
    )
    rows = json.dumps([[a.id, a.text] for a in ARTICLES])
    cache = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-c", program, rows, server.url, str(cache)], cwd=paths.ROOT, env=os.environ | {"JMEDLORA_PROGRESS": "0"}
    )
    try:
        wait_for(lambda: len(list(cache.glob("*.json"))) == 3 and len(server.requests) == 5, process)
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


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended early"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# --- A real local server: `transformers serve` with a tiny Llama ---------------------------------------------------------

LINES = (
    '{"instruction": "架空の疾患の初期症状は何ですか?", "output": "夜間のしびれです。"}',
    '{"instruction": "薬は何ですか?", "output": "カ',
)


def save_reciting_llama(folder: Path) -> None:
    """A tiny Llama whose weights are set so that each token calls the next: it recites LINES after any prompt.

    Its layers add nothing, so the last hidden state is the embedding of the last token, and row t+1 of the head is the
    embedding of token t.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<unk>", "<say>", LINES[0], "\n", LINES[1], "</s>"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<say>", "</s>"])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens[2:5]])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}<say>"
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=5, pad_token_id=5, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokens), 8))
        model.lm_head.weight.copy_(torch.roll(torch.eye(len(tokens), 8), 1, dims=0))
    model.generation_config.eos_token_id = 5
    model.save_pretrained(folder)


@contextmanager
def transformers_serve(model: Path, log: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:

        def listening():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listening, process, seconds=600)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_transformers_serve_with_a_tiny_llama(tmp_path):
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi and uvicorn (the dev extra)")
    pytest.importorskip("uvicorn", reason="transformers serve needs fastapi and uvicorn (the dev extra)")
    model = tmp_path / "tiny"
    save_reciting_llama(model)
    with transformers_serve(model, tmp_path / "serve.log") as endpoint:
        settings = settings_of(generator=str(model), endpoint=endpoint, max_tokens=32, concurrency=2)
        made = generate(ARTICLES[:3], settings, tmp_path / "cache")
        with pytest.raises(JmedloraError, match=r"status 400: .*Server is pinned to"):
            generate(ARTICLES, settings_of(generator="another", endpoint=endpoint, concurrency=1), tmp_path / "cache")
    assert [(r["article"], r["output"]) for r in made.records] == [(a.id, "夜間のしびれです。") for a in ARTICLES[:3]]
    assert {r["reason"] for r in made.rejects} == {"truncated"}
    assert made.counts["answer tokens"] == 3 * 4
    assert made.counts["prompt tokens"] > 0
    again = generate(ARTICLES[:3], settings, tmp_path / "cache")
    assert (again.records, again.counts["requests"]) == (made.records, 0)
