"""`promptmill select`: which of the images that are there count, as a view beside the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import typer

from promptmill.jobs.console import show
from promptmill.jobs.options import AsJson, Url
from promptmill.pipeline.curation.selection import Wanted, select_again
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.export.card import tell_selections
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.results import SelectResult


def select(url: str, keep: int | None, by: Sequence[str], least: Sequence[str], name: str | None) -> SelectResult:
    """`least` are `NAME=VALUE`, or a value alone for the first of `by`. Raises JobError."""
    if keep is None and not least:
        raise JobError(Problem("select", "--keep, or --min", "neither: all images would be kept"))
    if keep is not None and not by:
        raise JobError(Problem("--keep", "--by: the score by which they are the best", "none"))
    bounds = dict(_bound(text, by) for text in least)
    named = name or "-".join(["keep", str(keep), *by] if keep is not None else ["min", *bounds])
    plan, store = open_dataset(url)
    made = select_again(plan, store, Wanted(keep, tuple(by), bounds), named)
    tell_selections(store)
    return made


def _bound(text: str, by: Sequence[str]) -> tuple[str, float]:
    score, _, value = text.rpartition("=")
    try:
        name, least = score or by[0], float(value)
    except (ValueError, IndexError):
        name, least = "", math.nan
    if not math.isfinite(least):
        raise JobError(Problem("--min", "NAME=VALUE, or a value for --by", repr(text)))
    return name, least


def command(
    url: Url,
    keep: Annotated[int | None, typer.Option(min=1, help="Best so many images of each prompt and variant.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Score that says which are best; of several the ranks are added.")
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="NAME=VALUE", help="Leave out what scores below; repeat for more."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the view; else made of the above.")] = None,
    as_json: AsJson = False,
) -> None:
    """Select again among the images that are there, as a view beside them; no image is made."""
    show(select(url, keep, by or [], least or [], name).as_json(), as_json)
