"""Logs for machines: every line on standard error is one JSON object, whoever wrote it."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final, Self, TextIO

from promptmill.pipeline.display import redact, shown
from promptmill.pipeline.execution.progress import LINE_EVERY_S, ProgressState
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, Shard, ShardStats

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
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"time": now, "level": level, "event": event, **self.fields, **content}
        self._stream.write(f"{json.dumps(record, default=str)}\n")
        self._stream.flush()

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


class JsonLog(ProgressState):
    """A display for logs: an object for each shard and each notice, and one of the counts every 30 s."""

    def __init__(self, stream: JsonStream, every_s: float = LINE_EVERY_S) -> None:
        super().__init__()
        self._stream, self._every_s = stream, every_s
        self._next = time.monotonic() + every_s
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.samples and not self._ended:
            self._ended = True
            self._stream.say("info", "ended", **self._counts())

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        super().begin(plan, todo, done)
        self._stream.fields |= {"dataset": shown(self.name), "output": shown(plan.job.output.url)}
        self._stream.say("info", "begun", shards_to_do=len(todo), **self._counts())

    def shard_done(self, receipt: ShardStats) -> None:
        super().shard_done(receipt)
        made = receipt.counts
        self._stream.say(
            "info",
            "shard",
            shard=receipt.shard,
            worker=receipt.worker,
            node=node_of_worker(receipt.worker),
            device=receipt.device,
            kept=made.kept,
            rejected=made.rejected,
            failed=made.failed,
            seconds=receipt.seconds.get("total"),
            attempts=receipt.attempts,
            already_done=receipt.already_done,
        )

    def pulse(self, pulse: Pulse) -> None:
        super().pulse(pulse)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            queue = {"workers_wanted": pulse.wanted, "queued": pulse.queued, "in_hand": pulse.in_hand}
            self._stream.say("info", "progress", **self._counts(), **queue)

    def notice(self, text: str) -> None:
        self._stream.say("warning", "notice", message=shown(text), **getattr(text, "about", {}))

    def _counts(self) -> dict[str, Any]:
        total = self.total
        return {
            "samples": self.samples,
            "samples_done": self.done,
            "kept": total.kept,
            "rejected": total.rejected,
            "failed": total.failed,
            "shards": self.shards,
            "shards_done": self.shards_done,
            "workers": self.workers,
            "images_per_second": round(self.rate, 3),
        }


def node_of_worker(worker: str) -> str:
    """A worker of a fleet is called by its host and process."""
    return worker.rpartition(":")[0] or worker
