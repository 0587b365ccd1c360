"""A run as objects for machines, one a line on standard error."""

from __future__ import annotations

import time
from typing import Any, Self

from promptmill.pipeline.display import shown
from promptmill.pipeline.execution.json_stream import JsonStream
from promptmill.pipeline.execution.progress import LINE_EVERY_S, ProgressState
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, Shard, ShardStats


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
