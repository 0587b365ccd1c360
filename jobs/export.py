"""`promptmill export`: images in the folders that a suite's own scorer reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.claim import require_plan
from pipeline.report.export import Layout, export_dataset
from pipeline.storage import Store


def export(url: str, layout: Layout, out: str, rejected: bool = False) -> dict[str, Any]:
    """`out` is a folder or URL. Raises JobError where the dataset lacks what the layout holds."""
    store = Store(url)
    return {"out": out, **asdict(export_dataset(require_plan(store), store, Store(out), layout, rejected))}
