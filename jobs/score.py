"""`promptmill score`: more metrics for a dataset that exists, without generating again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.claim import read_plan
from pipeline.metrics.choose import choose_metrics
from pipeline.metrics.score import score_dataset
from pipeline.report.build import build_report
from pipeline.storage import Store
from schemas.errors import JobError, Problem


def score(
    url: str,
    metric: Sequence[str],
    distractors: str | None = None,
    again: bool = False,
    threads: int = 1,
    on_unit: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Writes `scores/` and, in our own datasets, the report anew. `distractors` is a text file, one caption a line.

    Raises JobError for an unknown metric, a CLIP that does not load, a missing column, a folder without images.
    """
    metrics = choose_metrics(metric, _captions(distractors), threads)
    store = Store(url)
    summary = asdict(score_dataset(store, metrics, again, on_unit))
    plan = read_plan(store)
    if plan is not None:
        build_report(plan, store)
    return {"url": url, **summary}


def _captions(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(Problem("--distractors", "a text file with one caption a line", f"{path}: {error}")) from None
    return [line.strip() for line in lines if line.strip()]
