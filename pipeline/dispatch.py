"""How shards get to workers. One contract, two ways: in this process, and on Ray (`pipeline.fleet`)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from pipeline.plan import Plan
from pipeline.storage import Store
from pipeline.workbench import Workbench
from pipeline.worker import process_shard
from schemas.errors import PromptmillError
from schemas.plan import Receipt, Shard

SLOTS = 2
"""Shards in hand at once: while one encodes and uploads, the next is on the device."""

_POLL_S = 0.2


class Listener(Protocol):
    """Called on the dispatching thread only."""

    def shard_done(self, receipt: Receipt) -> None: ...

    def pulse(self, samples_made: int, workers: int, model_loads: int) -> None:
        """Totals since the run began, samples of unfinished shards included."""

    def notice(self, text: str) -> None:
        """Something a person should know: a wait, a lost worker, a shard that is tried again."""


class Stop:
    """Set from a signal handler: shards in hand are finished, no new one is taken."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def request(self) -> None:
        self._event.set()

    @property
    def requested(self) -> bool:
        return self._event.is_set()


class Dispatcher(Protocol):
    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        """Returns when all shards are done, or after a stop when those in hand are.

        A job or storage error of any shard ends the run: it is raised when the shards in hand have ended.
        """


class InProcessDispatcher:
    """Runs `process_shard` as it is: for a notebook, a debugger, a machine with one GPU and without Ray."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan = plan
        self._bench = Workbench(plan, store)

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        waiting = deque(shards)
        attempts: dict[int, int] = {}
        pending: dict[Future[Receipt], Shard] = {}
        failure: BaseException | None = None
        with ThreadPoolExecutor(SLOTS, thread_name_prefix="shard") as pool:
            while waiting or pending:
                while waiting and len(pending) < SLOTS and failure is None and not stop.requested:
                    shard = waiting.popleft()
                    pending[pool.submit(process_shard, shard, self._bench)] = shard
                if not pending:
                    break
                for future in wait(pending, _POLL_S, FIRST_COMPLETED).done:
                    shard = pending.pop(future)
                    error = future.exception()
                    if error is None:
                        listener.shard_done(future.result())
                    elif isinstance(error, PromptmillError) or not isinstance(error, Exception):
                        failure = failure or error
                    else:
                        attempts[shard.number] = attempts.get(shard.number, 0) + 1
                        listener.notice(f"shard {shard.number}: {type(error).__name__}: {error}; trying again")
                        if attempts[shard.number] >= self._plan.job.compute.max_attempts:
                            failure = failure or error
                        else:
                            waiting.append(shard)
                pulse = self._bench.pulse
                listener.pulse(pulse.samples, 1, pulse.model_loads)
        self._bench.close()
        if failure is not None:
            raise failure
