"""How long workers were at work on a dataset: what it cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from promptmill.schemas.plan import ShardStats


def seconds_in_hand(stats: Iterable[ShardStats]) -> float | None:
    """Of each worker the time covered by its shards, which overlap; None where one does not say when it began."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in stats:
        if not one.began:
            return None
        spans[one.worker].append((one.began, one.began + one.seconds.get("total", 0.0)))
    total = 0.0
    for shards in spans.values():
        until = -math.inf
        for began, ended in sorted(shards):
            total += max(0.0, ended - max(began, until))
            until = max(until, ended)
    return total
