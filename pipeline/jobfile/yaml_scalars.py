"""What a scalar means: the core schema of YAML 1.2.2, section 10.3.2, where `no` is text and 012 is twelve."""

from __future__ import annotations

import math
import re
from typing import Any, Final

MAX_DIGITS: Final = 400
"""Below Python's own limit for reading integers (4,300), above any float."""

_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE: Final = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


def plain_value(text: str) -> Any:
    """None, a bool, an int, a float, or the text itself. `text` is no number of more than `MAX_DIGITS` digits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    infinite = _INFINITE.fullmatch(text)
    return float(f"{infinite[1]}inf") if infinite else text


def is_number(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text))


def quoted_value(text: str) -> str | None:
    """Join pairs of surrogates, as JSON writes emoji. None where one is alone, or the text holds NUL."""
    if "\0" in text:
        return None
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
