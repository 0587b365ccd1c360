"""The metrics of a run, from what its listener is told; where they go is a meter's matter."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final, Protocol

from promptmill.pipeline.execution.budget import Budget
from promptmill.pipeline.execution.progress import ProgressState
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, Shard, ShardStats

_ON_DEVICE: Final = ("generate", "score")
_GROWING: Final = {
    "samples_made": "promptmill_images_total",
    "model_loads": "promptmill_model_loads_total",
    "lost": "promptmill_workers_lost_total",
    "storage_waits": "promptmill_storage_waits_total",
    "storage_wait_s": "promptmill_storage_wait_seconds_total",
}
_NOW: Final = {
    "workers": "promptmill_workers",
    "wanted": "promptmill_workers_wanted",
    "queued": "promptmill_shards_queued",
    "in_hand": "promptmill_shards_in_hand",
}


class Meter(Protocol):
    """Where metrics go, by the names and labels of `schemas/metrics.py`."""

    def add(self, name: str, amount: float, **labels: str) -> None: ...

    def set(self, name: str, value: float) -> None: ...


class Metered:
    """Hands everything on to the listener of a run, and counts. The `budget` is told of pulses by the run itself."""

    def __init__(self, listener: Any, meters: Sequence[Meter], budget: Budget) -> None:
        self._listener, self._meters, self._budget = listener, meters, budget
        self._progress = ProgressState()
        self._pulse = Pulse(0, 0, 0)
        self._worker_s = self._device_s = 0.0
        self.complete = False

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        self._progress.begin(plan, todo, done)
        self._listener.begin(plan, todo, done)
        self._set("promptmill_run_active", 1)
        if self._budget.limit is not None:
            self._set("promptmill_budget", self._budget.limit)
        self._tell_dataset()

    def shard_done(self, receipt: ShardStats) -> None:
        self._progress.shard_done(receipt)
        if not receipt.already_done:
            self._count(receipt)
        self._tell_dataset()
        self._listener.shard_done(receipt)

    def pulse(self, pulse: Pulse) -> None:
        self._progress.pulse(pulse)
        self._time_workers()
        for field, name in _GROWING.items():
            before, now = getattr(self._pulse, field), getattr(pulse, field)
            # A dispatcher that begins again counts from 0.
            self._add(name, now - before if now >= before else now)
        self._pulse = pulse
        for field, name in _NOW.items():
            self._set(name, getattr(pulse, field))
        self._tell_dataset()
        self._listener.pulse(pulse)

    def notice(self, text: str) -> None:
        self._listener.notice(text)

    def ended(self) -> None:
        """Last of all, whatever ended the run; `complete` was set where all of the dataset is done."""
        self._time_workers()
        for name in (*_NOW.values(), "promptmill_run_active"):
            self._set(name, 0)
        if self.complete:
            self._set("promptmill_last_success_timestamp_seconds", time.time())

    def _count(self, receipt: ShardStats) -> None:
        for field in fields(receipt.counts):
            if field.name != "samples":
                self._add("promptmill_samples_total", getattr(receipt.counts, field.name), state=field.name)
        for reason, count in receipt.rejected.items():
            self._add("promptmill_rejected_total", count, reason=reason)
        for kind, count in receipt.failed.items():
            self._add("promptmill_failed_total", count, kind=kind)
        for stage, spent in receipt.seconds.items():
            if stage != "total":
                self._add("promptmill_stage_seconds_total", spent, stage=stage)
        self._add("promptmill_shards_total", 1)
        self._add("promptmill_written_bytes_total", receipt.data_bytes)
        self._add("promptmill_retries_total", receipt.attempts - 1)
        self._device_s += sum(receipt.seconds.get(stage, 0.0) for stage in _ON_DEVICE)

    def _time_workers(self) -> None:
        before, self._worker_s = self._worker_s, self._budget.worker_s
        self._add("promptmill_worker_seconds_total", self._worker_s - before)
        if self._budget.spent is not None:
            self._set("promptmill_cost", self._budget.spent)
        if self._worker_s:
            self._set("promptmill_device_busy_ratio", min(1.0, self._device_s / self._worker_s))

    def _tell_dataset(self) -> None:
        self._set("promptmill_dataset_samples", self._progress.samples)
        self._set("promptmill_dataset_samples_done", self._progress.done)

    def _add(self, name: str, amount: float, **labels: str) -> None:
        for meter in self._meters:
            meter.add(name, amount, **labels)

    def _set(self, name: str, value: float) -> None:
        for meter in self._meters:
            meter.set(name, value)
