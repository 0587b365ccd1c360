"""`prompts.attributes` of the job file: what `{name}` in a template may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter

from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all

MOST_NAME: Final = 64
LARGEST_WEIGHT: Final = 1e9


class AttributeFrom(StrictModel):
    """Values that stand elsewhere: one of the two."""

    file: Text | None = None
    """A value a line, or a table with the columns `value` and `weight`. Relative to where the command is started."""
    column: Text | None = None
    """A column of the source: each row has its own value."""


_Listed = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
_Weighted = Annotated[dict[Text, Annotated[float, Field(gt=0, le=LARGEST_WEIGHT)]], Field(min_length=1)]
_LISTED: Final = TypeAdapter(_Listed, config=ConfigDict(strict=True, allow_inf_nan=False))
_WEIGHTED: Final = TypeAdapter(_Weighted, config=ConfigDict(strict=True, allow_inf_nan=False))


def _values(value: Any) -> Any:
    """Told apart here, so that an error names one of the three and not all."""
    if isinstance(value, AttributeFrom):
        return value
    if isinstance(value, dict) and any(isinstance(each, str) for each in value.values()):
        found = AttributeFrom.model_validate(value)
        if (found.file is None) == (found.column is None):
            raise_all([broken_rule((), "one of `file` and `column`", "both", "For example `{file: places.txt}`.", "")])
        return found
    if isinstance(value, dict) and value:
        return _WEIGHTED.validate_python(value)
    if isinstance(value, list | tuple) and value:
        return _LISTED.validate_python(value)
    got = repr(value)[:80] if value else "nothing"
    hint = "For example `colour: [red, blue]`, `{red: 3, blue: 1}` or `{file: colours.txt}`."
    raise_all([broken_rule((), "a list of values, values with weights, or where they stand", got, hint, "")])
    return None


if TYPE_CHECKING:
    AttributeValues = tuple[str, ...] | dict[str, float] | AttributeFrom
else:
    AttributeValues = Annotated[
        Any, PlainValidator(_values, json_schema_input_type=_Listed | _Weighted | AttributeFrom)
    ]
"""A list, values with their weights, or where they stand."""
