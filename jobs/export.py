"""`promptmill export`: images in the folders that a suite's own scorer reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from promptmill.jobs.console import show
from promptmill.jobs.options import AsJson, Selection, Url
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.export.registry import LAYOUTS
from promptmill.pipeline.export.suites import export_dataset
from promptmill.schemas.errors import JobError, MissingObjectError, Problem
from promptmill.schemas.results import ExportResult

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[LAYOUTS]  # as many as there are modules, which no type checker can count


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


def command(
    url: Url,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL to write.")],
    layout: Annotated[LayoutName, typer.Option(help="dpg: four images as a 2×2 grid.")],
    rejected: Annotated[bool, typer.Option("--rejected", help="With the images that were not kept.")] = False,
    selection: Selection = None,
    as_json: AsJson = False,
) -> None:
    """Write the folders that a suite's own scorer reads."""
    show(export(url, layout, out, rejected, selection).as_json(), as_json)
