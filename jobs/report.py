"""`promptmill report`: the page and the numbers of a dataset, built again from what is there."""

from __future__ import annotations

import math

from promptmill.jobs.trust import reach_of
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.report.build import build_report
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.reports import ReportResult


def report(
    url: str, price_per_hour: float | None = None, single_file: bool = False, selection: str | None = None
) -> ReportResult:
    """`price_per_hour` is that of one device, in any currency; `single_file` adds `report/single-file.html`.

    Raises JobError where there is no dataset.
    """
    if price_per_hour is not None and not math.isfinite(price_per_hour):
        raise JobError(Problem("--price-per-hour", "an amount of money", str(price_per_hour)))
    plan, store = open_dataset(url)
    reach = reach_of(store, trusted=False, job=None)
    return build_report(plan, store, None, price_per_hour, single_file, selection, reach)
