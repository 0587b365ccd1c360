"""Images of web servers that are away, that come back, and that have no such file."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from promptmill.pipeline.prompts import servers
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.schemas.errors import SampleError
from tests.heart import mill


class _Web(BaseHTTPRequestHandler):
    """Says the status that its server has, and counts how often."""

    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else b"image")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def web(status: int, port: int = 0) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), _Web)
    server.status, server.asked = status, 0
    server.url = f"http://127.0.0.1:{server.server_port}/a.png"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_server_that_starts_late_costs_no_sample() -> None:
    """A refused connection was told as a file that is not there, after 0.4 s."""
    port, last = free_port(), threading.Event()

    def late() -> None:
        threading.Event().wait(1)
        with web(200, port):
            last.wait(60)

    thread = threading.Thread(target=late)
    thread.start()
    try:
        assert InputReader(mill.memory()).read(f"http://127.0.0.1:{port}/a.png") == b"image"
    finally:
        last.set()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_never_comes_is_no_missing_file(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(servers, "FETCH_PATIENCE_S", 0.3)
    port = free_port()
    with pytest.raises(SampleError, match="the server did not answer") as said:
        InputReader(mill.memory()).read(f"http://{host}:{port}/a.png")
    assert "no file" not in str(said.value) and f"{host}:{port}" in str(said.value)


def test_after_a_whole_patience_a_server_is_asked_once_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "FETCH_PATIENCE_S", 1.0)
    reader, asked = InputReader(mill.memory()), []
    with web(503) as server:
        for status in (503, 503, 200, 503):
            server.status, server.asked = status, 0
            with contextlib.suppress(SampleError):
                assert reader.read(server.url) == b"image"
            asked.append(server.asked)
    one = 2  # HEAD, then GET
    assert asked[0] > one and asked[1] == one and asked[3] > one


def test_a_server_that_throttles_gets_all_patience_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "FETCH_PATIENCE_S", 1.0)
    reader, asked = InputReader(mill.memory()), []
    with web(429) as server:
        for _ in range(2):
            server.asked = 0
            with pytest.raises(SampleError):
                reader.read(server.url)
            asked.append(server.asked)
    assert min(asked) > 2


@pytest.mark.parametrize(("status", "reason"), [(404, "no file at"), (410, "no file at"), (403, "403")])
def test_what_a_server_says_is_believed_at_once(status: int, reason: str) -> None:
    with web(status) as server:
        with pytest.raises(SampleError, match=reason) as said:
            InputReader(mill.memory()).read(server.url)
        assert server.asked == 2
        assert ("no file" in str(said.value)) == (status != 403)
