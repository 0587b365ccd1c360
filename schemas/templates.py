"""Texts with `{names}` of columns, filled by plain lookup: no attribute, index or format is ever evaluated."""

from __future__ import annotations

import string
from collections.abc import Mapping

Parts = tuple[tuple[str, str | None], ...]
"""Text, and the name that follows it; None behind the last text."""


def parts_of(template: str) -> Parts:
    """Raises ValueError for braces that do not belong together, and for anything in them but a column's name."""
    found = []
    for text, name, form, conversion in string.Formatter().parse(template):
        if name is not None and (not name.strip() or form or conversion):
            raise ValueError(f"{{{name}{'!' if conversion else ':' if form else ''}…}}")
        found.append((text, name))
    return tuple(found)


def names_in(template: str) -> list[str]:
    return list(dict.fromkeys(name for _, name in parts_of(template) if name is not None))


def filled(template: str, values: Mapping[str, object]) -> tuple[str, str | None]:
    """The text, and the first name that has no value."""
    texts, missing = [], None
    for text, name in parts_of(template):
        value = None if name is None else values.get(name)
        if name is not None and (value is None or value == ""):
            missing = missing or name
        texts += [text, "" if value is None else str(value)]
    return "".join(texts), missing
