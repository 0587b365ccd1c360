"""A worker of its own for one suspicious shard, to find the sample that breaks it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from promptmill.pipeline.execution.fleet.actor import ShardActor
from promptmill.pipeline.execution.fleet.cluster import Demand
from promptmill.pipeline.execution.fleet.places import Places
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.plan_json import to_json
from promptmill.schemas.errors import DeviceLostError
from promptmill.schemas.plan import Shard

_TRIES_TO_LOAD = 5


class Abandoned(Exception):
    """The run ends: nobody waits for the answer any more."""


@dataclass(frozen=True)
class WorkerFactory:
    """Starts workers of one kind, on nodes that are not left out."""

    plan: Plan
    url: str
    demand: Demand
    places: Places

    def start(self) -> Any:
        threads = self.plan.job.compute.threads_per_worker
        environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        options: dict[str, Any] = {
            **self.demand.options,
            "max_restarts": 0,  # the dispatcher replaces workers itself: it knows what they had in hand
            "runtime_env": {"env_vars": environment},
            "label_selector": self.places.selector(),
        }
        return ShardActor.options(**options).remote(to_json(self.plan), self.url)  # type: ignore[attr-defined]


class TrialWorker:
    """Its worker is replaced each time that it dies. All methods raise Abandoned once the event is set."""

    def __init__(self, factory: WorkerFactory, shard: Shard, abandoned: threading.Event) -> None:
        self._factory = factory
        self._timeout_s = factory.plan.job.compute.step_timeout_s
        self._shard = shard
        self._abandoned = abandoned
        self._actor: Any = None

    def sample_ids(self) -> list[str]:
        """Raises RayActorError where no worker lives long enough to load the model, after a few tries."""
        for attempt in range(_TRIES_TO_LOAD):
            if self._actor is None:
                self._actor = self._factory.start()
            try:
                ids: list[str] = self._answer(self._actor.sample_ids.remote(self._shard))
                return ids
            except RayActorError:
                self.close()
                if attempt == _TRIES_TO_LOAD - 1:
                    raise
        raise AssertionError("unreachable")

    def survives(self, samples: Sequence[str], blank: bool = False) -> bool:
        """Whether a worker lives on after making them, `blank` with empty prompts in place of their own."""
        self.sample_ids()  # a worker with its model loaded, so that only the making itself is on trial
        try:
            self._answer(self._actor.try_samples.remote(self._shard, samples, blank))
        except RayActorError:
            self.close()
            return False
        except RayTaskError as error:
            if not isinstance(error.cause, DeviceLostError):
                raise
            self.close()
            return False
        return True

    def _answer(self, call: Any) -> Any:
        vitals = self._actor.vitals.remote()
        while not ray.wait([call], timeout=1)[0]:
            if self._abandoned.is_set():
                raise Abandoned
            if not ray.wait([vitals], timeout=0)[0]:
                continue  # it still waits for a device
            if ray.get(vitals).silent_s > self._timeout_s:
                ray.kill(self._actor)
            vitals = self._actor.vitals.remote()
        return ray.get(call)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None
