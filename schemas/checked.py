"""Objects that somebody else wrote, as what they should be: each field of the type that it has, or ValueError."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
N = TypeVar("N", int, float)

NO_OBJECT: Final = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What readers of such objects raise: each is the answer that it is none."""
MOST: Final = 1 << 53
"""Of anything that is counted: so far JSON, JavaScript and spreadsheets are exact."""


def checked(kind: type[T], content: object) -> T:
    """A dataclass from its fields. Raises ValueError that names the field, and repeats nothing of what it holds."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{kind.__name__}: no object")  # noqa: TRY004 - one kind of error for all that is wrong
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := content.keys() - known:
        raise ValueError(f"{kind.__name__}: {len(unknown)} fields that this version does not know")
    try:
        made: T = _adapter(cast("Hashable", kind)).validate_python(dict(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{kind.__name__}: {place}: {first['msg']}"[:200]) from None
    return made


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def count(value: N, name: str, most: int = MOST) -> N:
    """Raises ValueError for less than nothing, and for more than there can be."""
    if not 0 <= value <= most:
        raise ValueError(f"{name}: {'less than 0' if value < 0 else f'more than {most:,}'}")
    return value


def text_map(value: Any) -> dict[str, str]:
    """Names and texts, both short; empty for anything else."""
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {str(name)[:100]: str(text)[:300] for name, text in list(pairs)[:100]}
