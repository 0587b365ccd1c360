"""How shards get to workers. One contract, two ways: in this process, and on Ray (`promptmill.pipeline.fleet`)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from promptmill.pipeline.execution.events import LeftOut, Listener, Notice, Stop
from promptmill.pipeline.execution.lasting import lasts
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.errors import WorkerHungError
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Shard, ShardStats

SLOTS = 2
"""Shards in hand at once: while one encodes and uploads, the next is on the device."""

_POLL_S = 0.2


class Dispatcher(Protocol):
    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Where nothing was made any more, since it failed there while it worked elsewhere."""

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        """Returns when all shards are done, or after a stop when those in hand are.

        A job error of any shard ends the run, and one of the storage that is met everywhere: it is raised when the
        shards in hand have ended.
        """


class Later:
    """Makes the dispatcher when there is something to do: Ray alone takes seconds to import."""

    def __init__(self, make: Callable[[], Dispatcher]) -> None:
        self._make = make
        self._made: Dispatcher | None = None

    @property
    def left_out(self) -> Sequence[LeftOut]:
        return self._made.left_out if self._made is not None else ()

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        self._made = self._made or self._make()
        self._made.run(shards, listener, stop)


class InProcessDispatcher:
    """Runs `process_shard` as it is: for a notebook, a debugger, a machine with one GPU and without Ray."""

    left_out: Sequence[LeftOut] = ()

    def __init__(self, plan: Plan, store: Store) -> None:
        self._compute = plan.job.compute
        self._context, self._store = WorkerContext(plan, store), store
        self._waiting: deque[Shard] = deque()
        self._in_hand: dict[Future[ShardStats], Shard] = {}
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
            self._context.close()
        if self._failure is not None:
            raise self._failure

    def _assign(self, pool: ThreadPoolExecutor) -> None:
        while self._waiting and len(self._in_hand) < SLOTS:
            shard = self._waiting.popleft()
            attempt = self._errors[shard.number] + 1
            self._in_hand[pool.submit(process_shard, shard, self._context, attempt=attempt)] = shard

    def _answer(self, call: Future[ShardStats], listener: Listener) -> None:
        shard, error = self._in_hand.pop(call), call.exception()
        if error is None:
            listener.shard_done(call.result())
        elif lasts(error) or not isinstance(error, Exception):
            self._failure = self._failure or error
        else:
            text = f"shard {shard.number}: {type(error).__name__}: {error}; trying again"
            listener.notice(Notice(text, shard=shard.number))
            self._errors[shard.number] += 1
            self._waiting.append(shard)
            if self._errors[shard.number] >= self._compute.max_attempts:
                self._failure = self._failure or error

    def _watch(self, listener: Listener) -> None:
        pulse = self._context.pulse
        queue = (len(self._waiting), len(self._in_hand))
        waits = (self._store.waits, self._store.waited_s)
        listener.pulse(Pulse(pulse.samples, 1, pulse.model_loads, 1, *queue, 0, *waits))
        if pulse.silent_s() > self._compute.step_timeout_s:
            self._in_hand.clear()
            self._failure = WorkerHungError(
                f"no denoising step for {pulse.silent_s():.0f} s (compute.step_timeout_s). What was committed stays. "
                "Run on Ray, without --in-process: there a hung worker is ended and the sample that hangs it is found"
            )
