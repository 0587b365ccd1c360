"""Searches for the samples that break their workers, beside the run."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pipeline.fleet.culprit import find_culprit
from pipeline.fleet.rehearsal import Recruiter, Rehearsal
from schemas.plan import Shard


class Searches:
    """A context manager; on leaving it, searches that still run are abandoned within a second or so."""

    def __init__(self, recruiter: Recruiter, at_once: int) -> None:
        self._recruiter = recruiter
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

    def begin(self, shard: Shard, given_up: Collection[str]) -> None:
        self._running[self._pool.submit(self._search, shard, given_up)] = shard

    def ended(self) -> Iterator[tuple[Shard, Future[str | None]]]:
        """Each search once; its result is the sample to blame, None where no sample is."""
        for search in [search for search in self._running if search.done()]:
            yield self._running.pop(search), search

    def _search(self, shard: Shard, given_up: Collection[str]) -> str | None:
        rehearsal = Rehearsal(self._recruiter, shard, self._abandoned)
        try:
            samples = [sample for sample in rehearsal.sample_ids() if sample not in given_up]
            return find_culprit(samples, rehearsal.survives, lambda sample: rehearsal.survives([sample], blank=True))
        finally:
            rehearsal.close()
