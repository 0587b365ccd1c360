"""`promptmill report`: the page and the numbers of a dataset, built again from what is there."""

from __future__ import annotations

import math
from typing import Any

from pipeline.claim import require_plan
from pipeline.report.build import build_report
from pipeline.storage import Store
from schemas.errors import JobError, Problem


def report(url: str, price_per_hour: float | None = None) -> dict[str, Any]:
    """`price_per_hour` is that of one device, in any currency. Raises JobError where there is no dataset."""
    if price_per_hour is not None and not math.isfinite(price_per_hour):
        raise JobError(Problem("--price-per-hour", "an amount of money", str(price_per_hour)))
    store = Store(url)
    return build_report(require_plan(store), store, price_per_hour=price_per_hour)
