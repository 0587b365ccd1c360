"""Metrics through Ray: its nodes export them beside Ray's own, with `ray_` before each name."""

from __future__ import annotations

import sys
from typing import Any, Final

from promptmill.pipeline.display import shown
from promptmill.schemas.metrics import METRICS

_TOTAL: Final = "_total"  # which Ray's exporter adds to counters


class RayMeter:
    """A meter (`execution/metered.py`) that keeps what it is told until there is a cluster, and drops it after that."""

    def __init__(self, dataset: str) -> None:
        self._dataset = shown(dataset)
        self._families: dict[str, Any] = {}
        self._owed: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._unset: dict[str, float] = {}

    def add(self, name: str, amount: float, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        self._owed[key] = self._owed.get(key, 0.0) + amount
        self._tell()

    def set(self, name: str, value: float) -> None:
        self._unset[name] = value
        self._tell()

    def _tell(self) -> None:
        if not self._connected():
            return
        for (name, tags), amount in self._owed.items():
            if amount > 0:
                self._families[name].inc(amount, {"dataset": self._dataset, **dict(tags)})
        for name, value in self._unset.items():
            self._families[name].set(value, {"dataset": self._dataset})
        self._owed.clear()
        self._unset.clear()

    def _connected(self) -> bool:
        if "ray" not in sys.modules:  # 2 s to import, for a run that may have nothing to do
            return False
        import ray
        from ray.util.metrics import Counter, Gauge

        if ray.is_initialized() and not self._families:
            for metric in METRICS:
                kind, tags = (Counter if metric.kind == "counter" else Gauge), ("dataset", *metric.labels)
                self._families[metric.name] = kind(metric.name.removesuffix(_TOTAL), metric.meaning, tags)
        return bool(ray.is_initialized())
