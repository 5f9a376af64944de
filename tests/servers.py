"""Servers, free ports and other Pythons on this machine, for tests."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jmedlora_utils.core import paths


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """The server's own log says nothing that a failed check does not."""


@contextmanager
def serve(handler: Callable) -> Iterator[str]:
    """Answers with a handler on a free port until the block ends; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def serve_files(folder: Path):
    return serve(partial(Files, directory=str(folder)))


def run_python(
    *arguments: str, cwd: Path = paths.ROOT, seconds: float = 600, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Runs `python <arguments>` with changes of the environment; None takes a variable out."""
    given = {k: v for k, v in (os.environ | {"PYTHONPATH": str(cwd)} | environment).items() if v is not None}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=given, capture_output=True, text=True, check=False, timeout=seconds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float, alive: Callable[[], object] = lambda: True) -> None:
    """Waits until the condition holds; fails when what should bring it about is no longer alive."""
    until = time.monotonic() + seconds
    while not condition():
        assert alive(), "the process ended early"
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
