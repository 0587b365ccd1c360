"""`promptmill select`: which of the images that are there count, as a view beside the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
