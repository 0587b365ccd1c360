"""`promptmill compare`: two datasets on the prompts that both have."""

from __future__ import annotations

from typing import Any

from pipeline.claim import require_plan
from pipeline.report.compare import compare_datasets
from pipeline.storage import Store


def compare(url_a: str, url_b: str, out: str = "compare") -> dict[str, Any]:
    """Writes a page like the report's to the folder or URL `out` and returns its numbers.

    Raises JobError where one of them is no dataset, or no prompt is in both.
    """
    first, second = Store(url_a), Store(url_b)
    return compare_datasets((require_plan(first), first), (require_plan(second), second), Store(out))
