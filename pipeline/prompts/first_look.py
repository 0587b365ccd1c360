"""A stranger's Parquet is met in a process of its own first: bytes that end the native reader end that process only.

Flipping single bytes of a footer ended pyarrow 25 in 159 of 38,241 tries, by abort or segmentation fault; no exception
tells of it. The process starts once for all files of a source.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

_CHILD: Final = Path(__file__).with_name("parquet_child.py")
_SECONDS: Final = 120.0
"""For one answer; a footer takes a millisecond, a gigabyte that is decoded some seconds."""
_MOST_DEATHS: Final = 5
"""Each costs half a second: a folder of thousands of such files is no accident."""


class LookError(Exception):
    """What is wrong with the bytes, in words that follow "got"."""


@dataclass(frozen=True)
class FooterFacts:
    """What a Parquet footer says. `groups` are rows and decoded bytes; `etag` is of the footer's content."""

    rows: int
    groups: tuple[tuple[int, int], ...]
    packed: int
    schema: pa.Schema
    etag: str


class FirstLook:
    """Safe to use from several threads, which wait for each other: the work is short, the reading before it long."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._deaths = 0

    def start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # -P: the folder of the script holds names that are not meant for the standard library's imports.
            command = [sys.executable, "-P", str(_CHILD)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def footer(self, tail: bytes) -> FooterFacts:
        """`tail` ends where the file ends and holds its footer. Raises LookError."""
        answer = self._ask({"what": "footer"}, tail)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(answer["schema"])))
        groups = tuple((rows, size) for rows, size in answer["groups"])
        return FooterFacts(answer["rows"], groups, answer["packed"], schema, answer["etag"])

    def decode(self, path: str | None, data: bytes, limit: int, longest: int) -> tuple[int, int]:
        """Bytes that came out of a file, or of its `data`, and the length of a value longer than `longest`, else 0.

        Stops at `limit` bytes. Raises LookError.
        """
        answer = self._ask({"what": "decode", "path": path, "limit": limit, "longest": longest}, data)
        return answer["bytes"], answer["longest"]

    def table(self, data: bytes, limit: int) -> pa.Table:
        """All of a file. Raises LookError, also for more than `limit` bytes."""
        answer = self._ask({"what": "table", "limit": limit}, data)
        return pa.ipc.open_stream(pa.py_buffer(base64.b64decode(answer["stream"]))).read_all()

    def _ask(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        with self._lock:
            return self._answer(request, data)

    def _answer(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        if self._deaths == _MOST_DEATHS:
            raise LookError("bytes that nobody looks at, after those before it")
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(_SECONDS, process.kill)
        late.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n" + data)
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            late.cancel()
        if not line.endswith(b"\n"):  # it died, maybe in the middle of its answer
            raise LookError(self._last_word(process))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LookError(answer["error"])
        return answer

    def _last_word(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self._process = None
        self._deaths += 1
        if code == -signal.SIGKILL:
            return f"bytes that kept the reader busy for {_SECONDS:.0f} s, or took all memory"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"bytes that end the native reader ({how})"


@contextlib.contextmanager
def first_look(at_once: bool = False) -> Iterator[FirstLook]:
    """`at_once` starts the process before the first question, while its answer is still being fetched."""
    look = FirstLook()
    if at_once:
        look.start()
    try:
        yield look
    finally:
        look.close()
