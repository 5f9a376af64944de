"""A chat completions server that follows a script, for tests of generation. Invented articles."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from jmedlora_utils.data.articles import Article
from tests.servers import serve

ARTICLES = [Article(f"a{i}", f"第{i}の架空の疾患は夜間のしびれで始まります。") for i in range(6)]
PAIRS = '{"instruction": "初期症状は何ですか?", "output": "夜間のしびれです。"}\n{"instruction": "何時に'


class Scripted:
    """What the server does, and what it was asked.

    Attributes:
        script: Called with the user's message and how often it came; returns (status, body, headers, delay in seconds).
        asked: How often each message came.
        most_at_once: The most requests under way at one time.
    """

    def __init__(self) -> None:
        self.script = lambda message, times: (200, completion(PAIRS), {}, 0.0)
        self.url = ""
        self.models_status = 200
        self.asked: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.running = self.most_at_once = 0
        self.lock = threading.Lock()

    def article_counts(self) -> Counter[str]:
        """Requests by the article whose text stands in the prompt."""
        return Counter({a.id: n for a in ARTICLES for message, n in self.asked.items() if a.text in message})


def completion(content, finish="stop", usage=(100, 20)) -> str:
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny"}
    body["choices"] = [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}]
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(body, ensure_ascii=False)


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    state = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def reply(self, status, body, headers):
            data = body.encode()
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            models = [{"id": name, "object": "model"} for name in ("tiny", "other")]
            self.reply(state.models_status, json.dumps({"object": "list", "data": models}), {})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = request["messages"][0]["content"]
            with state.lock:
                state.asked[message] += 1
                state.requests.append(request)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                times = state.asked[message]
                state.running += 1
                state.most_at_once = max(state.most_at_once, state.running)
            status, body, headers, delay = state.script(message, times)
            time.sleep(delay)
            with state.lock:
                state.running -= 1
            try:
                self.reply(status, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    with serve(Handler) as address:
        state.url = f"{address}/v1"
        yield state
