"""What a YAML file said and where it said it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from promptmill.pipeline import display
from promptmill.pipeline.display import redact
from promptmill.schemas.errors import Problem

FieldPath = tuple[str | int, ...]
"""Keys and list positions from the top of the job down to a value."""


@dataclass(frozen=True, order=True)
class Place:
    """Line and column count from 1. `order` is 0 in the file; `--set` overrides count from 1 and have line 0."""

    order: int
    line: int
    column: int
    origin: str

    def where(self, path: FieldPath) -> str:
        if self.order:
            return self.origin
        dotted = ".".join(printable(str(part)) for part in path)
        return f"{self.origin}:{self.line}" + (f": {dotted}" if dotted else "")


@dataclass(frozen=True)
class Finding:
    """A `Problem` that can still be sorted and grouped."""

    place: Place
    path: FieldPath
    expected: str
    got: str
    hint: str = ""

    def problem(self) -> Problem:
        return Problem(self.place.where(self.path), self.expected, self.got, self.hint)


@dataclass
class Document:
    """`data` holds dicts, lists and scalars; at the paths in `broken` it holds what is refused already.

    `keys` and `values` give the place of each key and value; `plain` the text of each scalar written without quotes.
    `readable` is false after a syntax error.
    """

    data: Any = None
    keys: dict[FieldPath, Place] = field(default_factory=dict)
    values: dict[FieldPath, Place] = field(default_factory=dict)
    plain: dict[FieldPath, str] = field(default_factory=dict)
    broken: set[FieldPath] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    readable: bool = True

    def place(self, path: FieldPath) -> Place:
        """Of the key, else the list item, else the nearest section around it."""
        for end in range(len(path), -1, -1):
            found = self.keys.get(path[:end]) or self.values.get(path[:end])
            if found:
                return found
        return Place(0, 1, 1, "")

    def value(self, path: FieldPath) -> Any:
        """None where there is nothing."""
        here = self.data
        for part in path:
            try:
                here = here[part]
            except (KeyError, IndexError, TypeError):
                return None
        return here

    def shown(self, path: FieldPath) -> str:
        """The value as a reader would name it: "the string '20'", "a list", 012."""
        value = self.value(path)
        if isinstance(value, str):
            return f"the string {printable(repr(value))}" if value else "an empty string"
        if isinstance(value, dict):
            return "a mapping (" + printable(", ".join(map(str, value))) + ")" if value else "an empty mapping"
        if isinstance(value, list):
            return "a list" if value else "an empty list"
        return "null" if value is None else printable(self.plain.get(path) or repr(value))


def printable(text: str, limit: int = 60) -> str:
    """Without secrets, control characters, bidi controls or lone surrogates, and never longer than `limit` or so."""
    text = redact(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return display.printable(text)
