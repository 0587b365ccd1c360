"""`promptmill report`: the page and the numbers of a dataset, built again from what is there."""

from __future__ import annotations

from typing import Any

from pipeline.claim import require_plan
from pipeline.report.build import build_report
from pipeline.storage import Store


def report(url: str) -> dict[str, Any]:
    """Raises JobError where there is no dataset."""
    store = Store(url)
    return build_report(require_plan(store), store)
