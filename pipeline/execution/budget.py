"""What a dataset costs while it is made, and an end to it: `compute.max_cost`."""

from __future__ import annotations

import time
from collections.abc import Callable

from promptmill.pipeline.dataset.spent import seconds_in_hand
from promptmill.pipeline.dataset.state import read_receipts
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.compute import Compute


class Budget:
    """Earlier runs by their receipts, this one by the time that its workers are up, busy or not: they are paid for."""

    def __init__(self, compute: Compute, before_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`before_s` is the workers' time of earlier runs."""
        self._price, self.limit = compute.worker_price, compute.max_cost
        self._before_s, self.worker_s = before_s, 0.0
        self._workers, self._at, self._clock = 0, clock(), clock

    def pulse(self, workers: int) -> None:
        """So many are up from now on; `worker_s` is the time of all of them in this run."""
        now = self._clock()
        self.worker_s += self._workers * (now - self._at)
        self._workers, self._at = workers, now

    @property
    def spent(self) -> float | None:
        """None where nobody says the price."""
        return None if self._price is None else self._price * (self._before_s + self.worker_s) / 3600

    @property
    def is_spent(self) -> bool:
        return self.limit is not None and self.spent is not None and self.spent >= self.limit

    def __str__(self) -> str:
        return f"{self.spent:,.2f} of {self.limit:,.2f} (compute.max_cost) is spent"


def budget_of(compute: Compute, store: Store) -> Budget:
    """Receipts are read where there is a price: they are for reports, and of a lost one nobody knows the cost."""
    if compute.worker_price is None:
        return Budget(compute)
    return Budget(compute, seconds_in_hand(read_receipts(store)) or 0.0)
