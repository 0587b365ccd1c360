"""One Ray actor per device: loads once, then takes shards until the run ends."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from pipeline.dispatch import SLOTS
from pipeline.fleet.devices import Device
from pipeline.plan import from_json
from pipeline.storage import Store
from pipeline.workbench import Workbench
from pipeline.worker import process_shard, rehearse
from schemas.errors import SampleError
from schemas.plan import Receipt, Shard


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
        self._bench = Workbench(from_json(plan), Store(url, on_wait=self._notices.append), name)

    @ray.method(concurrency_group="vitals")
    def ready(self) -> Device:
        """Once the process is up."""
        context = ray.get_runtime_context()
        return Device(str(context.get_node_id()), tuple(context.get_accelerator_ids().get("GPU", ())))

    @ray.method(concurrency_group="vitals")
    def vitals(self) -> Vitals:
        pulse = self._bench.pulse
        notices = tuple(self._notices.popleft() for _ in range(len(self._notices)))
        return Vitals(pulse.samples, pulse.model_loads, pulse.silent_s(), notices)

    @ray.method(concurrency_group="shards")
    def process(self, shard: Shard, given_up: Mapping[str, SampleError]) -> Receipt:
        return process_shard(shard, self._bench, given_up)

    @ray.method(concurrency_group="shards")
    def sample_ids(self, shard: Shard) -> list[str]:
        """Samples of the shard that can be tried; loads the model, so that a later `rehearse` does nothing else."""
        return rehearse(shard, self._bench, ())

    @ray.method(concurrency_group="shards")
    def rehearse(self, shard: Shard, sample_ids: Sequence[str], blank: bool) -> None:
        """Make these samples and throw them away: who survives this is not to blame."""
        rehearse(shard, self._bench, sample_ids, blank)
