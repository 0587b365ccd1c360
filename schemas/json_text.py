"""JSON that somebody else wrote: the answer is a value or a ValueError, whatever the text holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
"""Our own objects and every model configuration stay below 12."""


def parse_json(text: bytes | str, max_depth: int = MAX_DEPTH, finite: bool = True) -> Any:
    """Raises ValueError for what is no JSON, for more than `max_depth` levels; if `finite` for NaN and infinities."""
    try:
        value = json.loads(text, parse_constant=_refuse if finite else float, parse_float=_finite if finite else float)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if _depth_exceeds(value, max_depth):
        raise ValueError(f"nested more than {max_depth} deep")
    return value


def parse_object(text: bytes | str, max_depth: int = MAX_DEPTH, finite: bool = True) -> dict[str, Any]:
    """As `parse_json`; raises ValueError for anything but an object too."""
    value = parse_json(text, max_depth, finite)
    if not isinstance(value, dict):
        raise ValueError(f"JSON of type {type(value).__name__}")  # noqa: TRY004 - one kind of error for all that is wrong
    return value


def leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no object and no list, with the keys that lead to it; of a list's items its keys."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while waiting:
        keys, item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(((*keys, key), inner) for key, inner in item.items())
        elif isinstance(item, list):
            waiting.extend((keys, inner) for inner in item)
        else:
            yield keys, item


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number too large for any use")
    return value


def _depth_exceeds(value: Any, max_depth: int) -> bool:
    """Level by level, without recursion: Python's own limit is for programs, not for data."""
    level = [value]
    for _ in range(max_depth + 1):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return False
    return True


def _inside(item: Any) -> list[Any]:
    inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]
