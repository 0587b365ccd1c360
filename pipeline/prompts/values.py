"""Values of mapped columns as the job takes them: the same rule for `validate`, which sees all, and for the reader."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from promptmill.schemas.prompts import LARGEST_SEED

MAX_TEXT_BYTES: Final = 64 << 10
"""Longer texts are no prompts or captions: every text encoder in use reads less than 1 % of this."""
SEED_RULE: Final = f"an integer from 0 to {LARGEST_SEED}, or -1 for one that is derived"
_DERIVE: Final = -1
_EXACT_FLOAT: Final = 1 << 53


class WrongValueError(ValueError):
    def __init__(self, expected: str, value: object) -> None:
        self.expected, self.got = expected, repr(value)
        super().__init__(f"expected {expected}, got {self.got}")


def seed_of(value: Any) -> int | None:
    """None for one that is to be derived: null, NaN, an empty text and -1. Raises WrongValueError for no seed."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = _number(value.strip())
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    is_whole = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value == value // 1
    if not is_whole or (isinstance(value, float) and abs(value) > _EXACT_FLOAT):
        raise WrongValueError(SEED_RULE, value)
    if value == _DERIVE:
        return None
    if not 0 <= value <= LARGEST_SEED:
        raise WrongValueError(SEED_RULE, value)
    return int(value)


def _number(text: str) -> int | float | str | None:
    """A text as the number that it writes, itself where it writes none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _number_of(rule: str, fits: Callable[[Any], bool]) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        """As `strength_of`."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not fits(value):
            raise WrongValueError(rule, value)
        return float(value)

    return read


strength_of: Final = _number_of("a number above 0, at most 1", lambda value: 0 < value <= 1)
"""None where the row says none. Raises WrongValueError for what is no share of the steps."""
_scale_of: Final = _number_of("a number from 0 to 10", lambda value: 0 <= value <= 10)
RULES: Final[Mapping[str, Callable[[Any], int | float | None]]] = {
    "seed": seed_of,
    "strength": strength_of,
    "control_scale": _scale_of,
    "control_start": _number_of("a number from 0, below 1", lambda value: 0 <= value < 1),
    "control_end": strength_of,
    "reference_scale": _scale_of,
}
"""By what a column is mapped to: all that is a number."""


def adapters_of(value: Any) -> tuple[str, ...] | None:
    """Names in a text, or None for all of the model's; the word none is no adapter."""
    if value is None or not str(value).strip():
        return None
    return tuple(name for name in re.split(r"[\s+,]+", str(value).strip()) if name not in ("", "none"))
