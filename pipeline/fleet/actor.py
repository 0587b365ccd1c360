"""One Ray actor per device: loads once, then takes shards until the run ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from pipeline.dispatch import SLOTS
from pipeline.plan import from_json
from pipeline.storage import Store
from pipeline.workbench import Workbench
from pipeline.worker import process_shard, rehearse
from schemas.errors import DeviceLostError, SampleError
from schemas.plan import Receipt, Shard


@dataclass(frozen=True)
class Vitals:
    samples: int
    model_loads: int
    silent_s: float


@ray.remote(concurrency_groups={"shards": SLOTS, "vitals": 2})
class ShardActor:
    """Shards run in the group `shards`, two at a time; `vitals` answers beside them."""

    def __init__(self, plan: bytes, url: str) -> None:
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._bench = Workbench(from_json(plan), Store(url), self._name)

    @ray.method(concurrency_group="vitals")
    def ready(self) -> str:
        """Node id, once the process is up."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(concurrency_group="vitals")
    def vitals(self) -> Vitals:
        pulse = self._bench.pulse
        return Vitals(pulse.samples, pulse.model_loads, pulse.silent_s())

    @ray.method(concurrency_group="shards")
    def process(self, shard: Shard, given_up: Mapping[str, SampleError]) -> Receipt:
        try:
            return process_shard(shard, self._bench, given_up)
        except DeviceLostError:
            os._exit(1)  # the context is broken for good; a new process gets a new one

    @ray.method(concurrency_group="shards")
    def sample_ids(self, shard: Shard) -> list[str]:
        """Samples of the shard that can be tried; loads the model, so that a later `rehearse` does nothing else."""
        return rehearse(shard, self._bench, ())

    @ray.method(concurrency_group="shards")
    def rehearse(self, shard: Shard, sample_ids: Sequence[str]) -> None:
        """Make these samples and throw them away: who survives this is not to blame."""
        rehearse(shard, self._bench, sample_ids)
