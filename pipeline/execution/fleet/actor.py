"""One Ray actor per device: loads once, then takes shards until the run ends."""

from __future__ import annotations

import os
import platform
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import ray

from promptmill.pipeline.execution.dispatch import SLOTS
from promptmill.pipeline.execution.fleet.lost_devices import Device
from promptmill.pipeline.execution.fleet.sight import Beacon, prove_sight
from promptmill.pipeline.planning.plan_json import from_json
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.shard import process_shard, try_samples
from promptmill.schemas.errors import PlaceError, SampleError
from promptmill.schemas.plan import Shard, ShardStats


@dataclass(frozen=True)
class Vitals:
    """Totals of the process; `notices` are what its storage said since the last look."""

    samples: int = 0
    model_loads: int = 0
    silent_s: float = 0.0
    notices: tuple[str, ...] = ()
    waits: int = 0
    waited_s: float = 0.0

    def __add__(self, other: Vitals) -> Vitals:
        made = (self.samples + other.samples, self.model_loads + other.model_loads)
        return Vitals(*made, waits=self.waits + other.waits, waited_s=self.waited_s + other.waited_s)


def versions() -> dict[str, str]:
    """What driver and workers must have in common, so that they mean the same by a plan and make the same of it."""
    return {"promptmill": version("promptmill"), "Python": ".".join(platform.python_version_tuple()[:2])}


def refuse_other_versions(here: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name, wanted in expected.items():
        if here.get(name) != wanted:
            raise PlaceError(f"has {name} {here.get(name)}, the driver {wanted}: install the same on all nodes")


def _take_priority(niceness: int | None) -> str | None:
    """Of this process and all it starts; why not, where the system does not allow it."""
    if niceness is None or os.getpriority(os.PRIO_PROCESS, 0) == niceness:
        return None
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    except OSError as error:
        now = os.getpriority(os.PRIO_PROCESS, 0)
        hint = f"start Ray on the nodes with RAY_worker_niceness={niceness}"
        return f"workers on {socket.gethostname()} run with niceness {now}, not {niceness} ({error.strerror}): {hint}"
    return None


@ray.remote(concurrency_groups={"shards": SLOTS, "vitals": 2})
class ShardActor:
    """Shards run in the group `shards`, two at a time; `vitals` answers beside them.

    A DeviceLostError goes to the dispatcher, which ends this process: only a new one gets a working context.
    """

    def __init__(self, plan: bytes, url: str) -> None:
        self._plan, self._url = plan, url
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._notices: deque[str] = deque(maxlen=4)
        self._opened: WorkerContext | None = None

    @property
    def _context(self) -> WorkerContext:
        if self._opened is None:
            store = Store(self._url, on_wait=self._notices.append)
            self._opened = WorkerContext(from_json(self._plan), store, self._name, on_gpu=bool(self._gpus))
        return self._opened

    @property
    def _gpus(self) -> tuple[str, ...]:
        return tuple(ray.get_runtime_context().get_accelerator_ids().get("GPU", ()))

    @ray.method(concurrency_group="vitals")
    def ready(self, beacon: Beacon, expected: Mapping[str, str]) -> Device:
        """Once the process is up and has proved that it can work here; raises what stands in its way."""
        refuse_other_versions(versions(), expected)
        if (problem := _take_priority(self._context.plan.job.compute.niceness)) is not None:
            self._notices.append(problem)
        prove_sight(beacon, self._context.store, self._name.replace(":", "-"))
        return Device(str(ray.get_runtime_context().get_node_id()), self._gpus)

    @ray.method(concurrency_group="vitals")
    def vitals(self) -> Vitals:
        notices = tuple(self._notices.popleft() for _ in range(len(self._notices)))
        if self._opened is None:
            return Vitals(notices=notices)
        pulse, store = self._opened.pulse, self._opened.store
        return Vitals(pulse.samples, pulse.model_loads, pulse.silent_s(), notices, store.waits, store.waited_s)

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
