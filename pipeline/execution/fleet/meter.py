"""Metrics through Ray: its nodes export them beside Ray's own, with `ray_` before each name."""

from __future__ import annotations

import sys
from typing import Any, Final

from promptmill.pipeline.display import shown
from promptmill.schemas.metrics import METRICS

_TOTAL: Final = "_total"  # which Ray's exporter adds to counters


class RayMeter:
    """A meter (`execution/metered.py`) that says nothing until there is a cluster, and after it is left."""

    def __init__(self, dataset: str) -> None:
        self._dataset = shown(dataset)
        self._families: dict[str, Any] = {}
        self._owed: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def add(self, name: str, amount: float, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        self._owed[key] = self._owed.get(key, 0.0) + amount
        if self._connected():
            for (owed, tags), value in self._owed.items():
                if value > 0:
                    self._families[owed].inc(value, {"dataset": self._dataset, **dict(tags)})
            self._owed.clear()

    def set(self, name: str, value: float) -> None:
        if self._connected():
            self._families[name].set(value, {"dataset": self._dataset})

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
