"""The workers of a run: as many as are wanted, on places that work, watched."""

from __future__ import annotations

from typing import Any

import ray

from promptmill.pipeline.execution.events import Listener, Notice
from promptmill.pipeline.execution.fleet.actor import Vitals, versions
from promptmill.pipeline.execution.fleet.cluster import node_name
from promptmill.pipeline.execution.fleet.places import UNKNOWN, Places
from promptmill.pipeline.execution.fleet.sight import Beacon
from promptmill.pipeline.execution.fleet.trial import WorkerFactory
from promptmill.pipeline.execution.fleet.worker_handle import WorkerHandle, draining_nodes
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.events import Pulse


class Crew:
    def __init__(self, factory: WorkerFactory, beacon: Beacon, places: Places, listener: Listener, size: int) -> None:
        self.size, self.lost = size, 0
        self.workers: list[WorkerHandle] = []
        self._parked: list[WorkerHandle] = []
        self._factory = factory
        self._beacon = beacon
        self._places = places
        self._listener = listener
        self._past = Vitals()

    @property
    def calls(self) -> list[Any]:
        return [call for worker in self.workers for call in worker.calls]

    @property
    def busy(self) -> int:
        return sum(bool(worker.in_hand) for worker in self.workers)

    @property
    def ready(self) -> int:
        return sum(worker.device is not None for worker in self.workers)

    @property
    def usable(self) -> list[WorkerHandle]:
        living = [worker for worker in self.workers if worker.device is not None and not worker.draining]
        return [worker for worker in living if not self._places.is_left_out(worker.node)]

    def waits_for(self, call: Any) -> WorkerHandle | None:
        return next((worker for worker in self.workers if call in worker.calls), None)

    def mates(self, worker: WorkerHandle) -> list[WorkerHandle]:
        """All on its node that have started, itself among them."""
        return [other for other in self.workers if other.device is not None and other.node == worker.node]

    def grow(self, wanted: int, searches: int) -> None:
        living = sum(not worker.draining for worker in self.workers) + searches
        for _ in range(wanted - living):
            handle = self._factory.start()
            self.workers.append(WorkerHandle(handle, None))
            self.ask(self.workers[-1])
        if searches:  # after a device was lost for good, an idle worker may hold what a search waits for
            idle = [worker for worker in self.workers if worker.device is not None and not worker.in_hand]
            for worker in idle[: max(0, living - wanted)]:
                self.retire(worker)

    def ask(self, worker: WorkerHandle) -> None:
        """Whether it can work where it is; it has no device until it answers."""
        worker.device, worker.ready_call = None, worker.handle.ready.remote(self._beacon, versions())

    def retire(self, worker: WorkerHandle) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
            self._past += worker.vitals
            ray.kill(worker.handle)

    def park(self, worker: WorkerHandle) -> None:
        """Nobody can tell Ray to leave a GPU out; a worker that keeps it and does nothing comes to the same."""
        self.workers.remove(worker)
        self._parked.append(worker)
        self._past += worker.vitals
        self.size -= 1

    def retire_all(self) -> None:
        for worker in (*self.workers, *self._parked):
            ray.kill(worker.handle)

    def watch(self, step_timeout_s: float) -> None:
        going = draining_nodes()
        for worker in list(self.workers):
            started = worker.device is not None
            worker.draining = started and (worker.node in going or self._places.is_left_out(worker.node))
            if worker.draining and not worker.in_hand:
                self.retire(worker)
            elif worker.vitals.silent_s > step_timeout_s and worker.in_hand and not worker.hung:
                worker.hung = True
                self._listener.notice(f"no denoising step for {worker.vitals.silent_s:.0f} s: ending that worker")
                ray.kill(worker.handle)
            elif worker.vitals_call is None:  # one that starts may have to say that its storage does not answer
                worker.vitals_call = worker.handle.vitals.remote()

    def lose(self, worker: WorkerHandle, what: str) -> None:
        """Count it, and say so: who reads the count looks for the line."""
        self.lost += 1
        node = worker.node
        where = "" if node == UNKNOWN else self._places.meet(node, *node_name(node)).name
        held, gone = len(worker.in_hand), len(worker.suspects)
        parts = [f"its {held} shard(s) go to another one"] if held else []
        parts += [f"{gone} shard(s) went when it could not be reached"] if gone else []
        text = f"lost a worker{where and f' on {where}'} ({what}); {', '.join(parts) or 'it had no shard in hand'}"
        shards = [shard.number for shard in (*worker.in_hand.values(), *worker.suspects)]
        self._listener.notice(Notice(text, node=where, shards=shards))

    def pulse(self, wanted: int, queued: int, store: Store) -> Pulse:
        """`store` is the driver's own, which waits too."""
        total, in_hand = self.totals(), sum(len(worker.in_hand) for worker in self.workers)
        waits = (total.waits + store.waits, total.waited_s + store.waited_s)
        return Pulse(total.samples, self.ready, total.model_loads, wanted, queued, in_hand, self.lost, *waits)

    def totals(self) -> Vitals:
        total = self._past
        for worker in self.workers:
            total += worker.vitals
        return total
