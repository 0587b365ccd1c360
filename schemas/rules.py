"""What all parts of the job file share: strict frozen values, and rules between fields that name their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

Text = Annotated[str, Field(min_length=1)]


class StrictModel(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def broken_rule(loc: tuple[str | int, ...], expected: str, got: Any, hint: str, fields: str) -> InitErrorDetails:
    """A rule between fields that is broken at `loc`; `fields` names all it looks at, with spaces between."""
    context = {"expected": expected, "got": str(got), "hint": hint, "fields": fields}
    error = PydanticCustomError("rule", "expected {expected}, got {got}. {hint}", context)
    return InitErrorDetails(type=error, loc=loc, input=got)


def raise_all(found: list[InitErrorDetails]) -> None:
    # Pydantic merges a ValidationError out of a validator into its own, with the place of each detail.
    if found:
        raise ValidationError.from_exception_data("Job", found)


def repeats(values: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Index of each value that was there before, and of its first occurrence."""
    first: dict[Any, int] = {}
    for index, value in enumerate(values):
        if first.setdefault(value, index) != index:
            yield index, first[value]
