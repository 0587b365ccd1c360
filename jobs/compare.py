"""`promptmill compare`: two datasets on the prompts that both have."""

from __future__ import annotations

from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.report.compare import compare_datasets
from promptmill.schemas.reports import CompareResult


def compare(
    url_a: str, url_b: str, out: str = "compare", selection: str | None = None, selection_b: str | None = None
) -> CompareResult:
    """Writes a page like the report's to the folder or URL `out` and returns its numbers.

    `selection` names a view of both, `selection_b` one of the second alone.

    Raises JobError where one of them is no dataset, or no prompt is in both.
    """
    target = open_target(out, "--out", page=True)
    both = (selection, selection_b or selection)
    summary = compare_datasets(open_dataset(url_a), open_dataset(url_b), target, both)
    target.tidy()
    return summary
