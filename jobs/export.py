"""`promptmill export`: images in the folders that a suite's own scorer reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.export.suites import Layout, export_dataset


def export(url: str, layout: Layout, out: str, rejected: bool = False) -> dict[str, Any]:
    """`out` is a folder or URL. Raises JobError where the dataset lacks what the layout holds."""
    return {"out": out, **asdict(export_dataset(*open_dataset(url), open_target(out, "OUT"), layout, rejected))}
