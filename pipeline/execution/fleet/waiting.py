"""Waiting for workers: what is waited for, what the cluster has, and how long that is worth it."""

from __future__ import annotations

import time

from promptmill.pipeline.execution.events import Listener
from promptmill.pipeline.execution.fleet.cluster import Demand, capacity, no_worker_came
from promptmill.schemas.errors import ClusterError

_FIRST_S = 10.0
_LONGEST_S = 600.0


class Patience:
    """Says it after 10 s, and then at times that grow apart; again from the start once all are there."""

    def __init__(self, demand: Demand, wait_s: float, listener: Listener) -> None:
        self._demand = demand
        self._wait_s = wait_s
        self._listener = listener
        self._began = time.monotonic()
        self._since: float | None = None
        self._pause_s = _FIRST_S

    def look(self, ready: int, wanted: int) -> None:
        now = time.monotonic()
        if ready >= wanted:
            self._since, self._pause_s = None, _FIRST_S
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._pause_s:
            self._since, self._pause_s = now, min(self._pause_s * 3, _LONGEST_S)
            self._listener.notice(
                f"waiting for workers: {ready} of {wanted} are up, each of {self._demand}; {capacity()}"
            )

    def with_nobody(self) -> ClusterError | None:
        """Called while there has not been a single worker."""
        if time.monotonic() - self._began <= self._wait_s:
            return None
        return no_worker_came(self._wait_s, self._demand)
