"""Logs for machines: each line that this process writes to standard error is one JSON object.

That of libraries' code below Python is not: it does not pass here.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from promptmill.pipeline.display import redact

_LINE_LIMIT: Final = 65_536


class JsonStream:
    """In place of standard error: `say` writes an object, and what else is written becomes one for each line.

    `fields` are in all of them. Never raises, as the outlet under it.
    """

    def __init__(self, stream: TextIO, **fields: Any) -> None:
        self._stream, self.fields = stream, fields
        self._begun = ""
        self.encoding, self.errors, self.closed = "utf-8", "replace", False

    def say(self, level: str, event: str, **content: Any) -> None:
        self._stream.write(f"{self.line(level, event, **content)}\n")
        self._stream.flush()

    def line(self, level: str, event: str, **content: Any) -> str:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": now, "level": level, "event": event, **self.fields, **content}, default=str)

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say_line(line)
        if len(self._begun) > _LINE_LIMIT:
            self._say_line(self._begun)
            self._begun = ""
        return len(text)

    def _say_line(self, line: str) -> None:
        if line.strip():
            self.say("error" if line.startswith("error:") else "info", "message", message=redact(line))

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def json_stderr() -> JsonStream:
    """From now on; `run` is an id of this process alone."""
    if not isinstance(sys.stderr, JsonStream):
        sys.stderr = JsonStream(sys.stderr, run=secrets.token_hex(6), process=os.getpid())
    assert isinstance(sys.stderr, JsonStream)
    return sys.stderr
