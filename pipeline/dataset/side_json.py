"""JSON that lies beside the data: it may have been damaged or written by anybody, and is held against a shape."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def fitting(shape: TypeAdapter[T], data: bytes | None) -> T:
    """The content in its shape, where numbers are numbers. Raises ValueError that says what does not fit, and where.

    pydantic's own reader stops at 200 levels, where Python's would overflow its stack.
    """
    try:
        return shape.validate_json(data or b"", strict=True)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
