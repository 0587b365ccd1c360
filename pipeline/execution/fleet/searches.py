"""Searches for the samples that break their workers, beside the run."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from promptmill.pipeline.execution.fleet.bisect import find_poison_sample
from promptmill.pipeline.execution.fleet.trial import TrialWorker, WorkerFactory
from promptmill.schemas.plan import Shard


class Searches:
    """A context manager; on leaving it, searches that still run are abandoned within a second or so."""

    def __init__(self, factory: WorkerFactory, at_once: int) -> None:
        self._factory = factory
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="search")
        self._abandoned = threading.Event()
        self._running: dict[Future[str | None], Shard] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, shard: Shard, quarantined: Collection[str]) -> None:
        self._running[self._pool.submit(self._search, shard, quarantined)] = shard

    def ended(self) -> Iterator[tuple[Shard, Future[str | None]]]:
        """Each search once; its result is the sample to blame, None where no sample is."""
        for search in [search for search in self._running if search.done()]:
            yield self._running.pop(search), search

    def _search(self, shard: Shard, quarantined: Collection[str]) -> str | None:
        trial = TrialWorker(self._factory, shard, self._abandoned)
        try:
            samples = [sample for sample in trial.sample_ids() if sample not in quarantined]
            return find_poison_sample(samples, trial.survives, lambda sample: trial.survives([sample], blank=True))
        finally:
            trial.close()
