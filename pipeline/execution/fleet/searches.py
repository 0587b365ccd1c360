"""Searches for the samples that break their workers, beside the run."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from ray.exceptions import RayError

from promptmill.pipeline.execution.events import Listener, Notice
from promptmill.pipeline.execution.fleet.backlog import Backlog
from promptmill.pipeline.execution.fleet.bisect import find_poison_sample
from promptmill.pipeline.execution.fleet.blame import Blame, short
from promptmill.pipeline.execution.fleet.trial import TrialWorker, WorkerFactory
from promptmill.schemas.errors import PromptmillError
from promptmill.schemas.plan import Shard


class Searches:
    """A context manager; on leaving it, searches that still run are abandoned within a second or so."""

    def __init__(
        self, factory: WorkerFactory, at_once: int, backlog: Backlog, blame: Blame, listener: Listener
    ) -> None:
        self._factory, self._backlog, self._blame, self._listener = factory, backlog, blame, listener
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

    def begin(self, shard: Shard) -> None:
        """It is in hand until the search has ended."""
        history = self._backlog.of(shard)
        text = f"shard {shard.number} broke {history.deaths} workers; looking for the sample that does"
        self._listener.notice(Notice(text, shard=shard.number))
        self._running[self._pool.submit(self._search, shard, frozenset(history.quarantined))] = shard

    def take_ended(self) -> None:
        """Their shards go on, without the sample that is to blame where there is one."""
        for search in [search for search in self._running if search.done()]:
            shard = self._running.pop(search)
            self._backlog.first(shard)
            try:
                poison_sample = search.result()
            except PromptmillError as error:
                self._blame.end(error)
            except RayError as error:
                self._listener.notice(f"the search in shard {shard.number} was lost ({short(error)}); trying again")
            else:
                self._take(shard, poison_sample)

    def _take(self, shard: Shard, poison_sample: str | None) -> None:
        history = self._backlog.of(shard)
        if poison_sample is None:
            history.searched = True
            return
        kind = history.give_up(poison_sample)
        text = f"shard {shard.number}: sample {poison_sample} is given up ({kind})"
        self._listener.notice(Notice(text, shard=shard.number, sample=poison_sample))

    def _search(self, shard: Shard, quarantined: Collection[str]) -> str | None:
        trial = TrialWorker(self._factory, shard, self._abandoned)
        try:
            samples = [sample for sample in trial.sample_ids() if sample not in quarantined]
            return find_poison_sample(samples, trial.survives, lambda sample: trial.survives([sample], blank=True))
        finally:
            trial.close()
