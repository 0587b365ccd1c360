"""What the report that is there was told and a report that is built again could not know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import TypeAdapter

from promptmill.pipeline.dataset.side_json import fitting
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store

SUMMARY_KEY = "report/summary.json"


@dataclass(frozen=True)
class RunBefore:
    """What a report that is built again could not know: it was said to the one before."""

    wall_seconds: float | None = None
    price_per_hour: float | None = None


@dataclass(frozen=True)
class _SummaryBefore:
    fingerprint: str
    run: RunBefore


_BEFORE = TypeAdapter(_SummaryBefore)


def run_before(plan: Plan, store: Store) -> RunBefore:
    """Nothing where there was no report, or one that is damaged or of another job."""
    try:
        before = fitting(_BEFORE, store.read_if_exists(SUMMARY_KEY))
    except ValueError:
        return RunBefore()
    known = [value for value in (before.run.wall_seconds, before.run.price_per_hour) if value is not None]
    sound = before.fingerprint == plan.fingerprint and all(math.isfinite(value) and value >= 0 for value in known)
    return before.run if sound else RunBefore()
