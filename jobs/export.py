"""`promptmill export`: images in the folders that a suite's own scorer reads."""

from __future__ import annotations

from dataclasses import replace

from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.export.suites import export_dataset
from promptmill.schemas.errors import JobError, MissingObjectError, Problem
from promptmill.schemas.results import ExportResult


def export(url: str, layout: str, out: str, rejected: bool = False, selection: str | None = None) -> ExportResult:
    """`out` is a folder or URL. Raises JobError where the dataset lacks what the layout holds."""
    target = open_target(out, "OUT")
    try:
        made = export_dataset(*open_dataset(url), target, layout, rejected, selection)
    except MissingObjectError as error:
        expected = "a dataset of which nothing is removed meanwhile"
        hint = "`verify --repair` is at work: export again when it is done"
        raise JobError(Problem(url, expected, str(error), hint)) from None
    target.tidy()
    return replace(made, out=out)
