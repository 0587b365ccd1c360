"""One Ray actor per device: loads once, then takes shards until the run ends."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from promptmill.pipeline.execution.dispatch import SLOTS
from promptmill.pipeline.execution.fleet.lost_devices import Device
from promptmill.pipeline.planning.plan_json import from_json
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.shard import process_shard, try_samples
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Shard, ShardStats


@dataclass(frozen=True)
class Vitals:
    """Totals of the process; `notices` are what its storage said since the last look."""

    samples: int = 0
    model_loads: int = 0
    silent_s: float = 0.0
    notices: tuple[str, ...] = ()

    def __add__(self, other: Vitals) -> Vitals:
        return Vitals(self.samples + other.samples, self.model_loads + other.model_loads)


@ray.remote(concurrency_groups={"shards": SLOTS, "vitals": 2})
class ShardActor:
    """Shards run in the group `shards`, two at a time; `vitals` answers beside them.

    A DeviceLostError goes to the dispatcher, which ends this process: only a new one gets a working context.
    """

    def __init__(self, plan: bytes, url: str) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._notices: deque[str] = deque(maxlen=4)
        self._context = WorkerContext(from_json(plan), Store(url, on_wait=self._notices.append), name)

    @ray.method(concurrency_group="vitals")
    def ready(self) -> Device:
        """Once the process is up."""
        context = ray.get_runtime_context()
        return Device(str(context.get_node_id()), tuple(context.get_accelerator_ids().get("GPU", ())))

    @ray.method(concurrency_group="vitals")
    def vitals(self) -> Vitals:
        pulse = self._context.pulse
        notices = tuple(self._notices.popleft() for _ in range(len(self._notices)))
        return Vitals(pulse.samples, pulse.model_loads, pulse.silent_s(), notices)

    @ray.method(concurrency_group="shards")
    def process(self, shard: Shard, quarantined: Mapping[str, SampleError], attempt: int) -> ShardStats:
        return process_shard(shard, self._context, quarantined, attempt)

    @ray.method(concurrency_group="shards")
    def sample_ids(self, shard: Shard) -> list[str]:
        """Samples of the shard that can be tried; loads the model, so that a later `try_samples` does nothing else."""
        return try_samples(shard, self._context, ())

    @ray.method(concurrency_group="shards")
    def try_samples(self, shard: Shard, sample_ids: Sequence[str], blank: bool) -> None:
        """Make these samples and throw them away: who survives this is not to blame."""
        try_samples(shard, self._context, sample_ids, blank)
