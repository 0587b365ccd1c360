"""How shards get to workers. One contract, two ways: in this process, and on Ray (`pipeline.fleet`)."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from pipeline.plan import Plan
from pipeline.storage import Store
from pipeline.workbench import Workbench
from pipeline.worker import process_shard
from schemas.errors import PromptmillError, WorkerHungError
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
        self._compute = plan.job.compute
        self._bench = Workbench(plan, store)
        self._waiting: deque[Shard] = deque()
        self._in_hand: dict[Future[Receipt], Shard] = {}
        self._errors: Counter[int] = Counter()
        self._failure: BaseException | None = None

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        """Raises WorkerHungError after `compute.step_timeout_s` without a step; the hung thread lives on."""
        self._waiting.extend(shards)
        pool = ThreadPoolExecutor(SLOTS, thread_name_prefix="shard")
        try:
            while self._waiting or self._in_hand:
                if self._failure is None and not stop.requested:
                    self._assign(pool)
                if not self._in_hand:
                    break
                for call in wait(self._in_hand, _POLL_S, FIRST_COMPLETED).done:
                    self._answer(call, listener)
                self._watch(listener)
        finally:
            pool.shutdown(wait=not isinstance(self._failure, WorkerHungError), cancel_futures=True)
            self._bench.close()
        if self._failure is not None:
            raise self._failure

    def _assign(self, pool: ThreadPoolExecutor) -> None:
        while self._waiting and len(self._in_hand) < SLOTS:
            shard = self._waiting.popleft()
            self._in_hand[pool.submit(process_shard, shard, self._bench)] = shard

    def _answer(self, call: Future[Receipt], listener: Listener) -> None:
        shard, error = self._in_hand.pop(call), call.exception()
        if error is None:
            listener.shard_done(call.result())
        elif isinstance(error, PromptmillError) or not isinstance(error, Exception):
            self._failure = self._failure or error
        else:
            listener.notice(f"shard {shard.number}: {type(error).__name__}: {error}; trying again")
            self._errors[shard.number] += 1
            self._waiting.append(shard)
            if self._errors[shard.number] >= self._compute.max_attempts:
                self._failure = self._failure or error

    def _watch(self, listener: Listener) -> None:
        pulse = self._bench.pulse
        listener.pulse(pulse.samples, 1, pulse.model_loads)
        if pulse.silent_s() > self._compute.step_timeout_s:
            self._in_hand.clear()
            self._failure = WorkerHungError(
                f"no denoising step for {pulse.silent_s():.0f} s (compute.step_timeout_s). What was committed stays. "
                "Run on Ray, without --in-process: there a hung worker is ended and the sample that hangs it is found"
            )
