"""What prompts are put together from: classes with their wording, attributes with their values, wildcard files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
MOST_CLASSES = 100_000
"""ImageNet-21k has 21,841."""


@dataclass(frozen=True)
class LabelClass:
    """What a label stands for; its number is its place among the classes. `wording` stands for `{class}` in a text."""

    name: str
    wording: str


@dataclass(frozen=True)
class Attribute:
    """Values that a name in a text may have, or the `column` of the source that has them.

    `weights` are as many as values, or none. `origin` is the file that they were read from, and `lines` where in it.
    """

    name: str
    values: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    column: str | None = None
    origin: str | None = field(default=None, compare=False)
    lines: tuple[int, ...] = field(default=(), compare=False)

    def place(self, number: int) -> str:
        """Where a value stands, for people."""
        if self.origin is None:
            return f"prompts.attributes.{self.name}"
        return f"{self.origin}:{self.lines[number]}"


@dataclass(frozen=True)
class Words:
    """Of a plan: the same for every worker, whatever files they were read from.

    `pools` are the lines of wildcard files, `seed` begins all draws.
    """

    classes: tuple[LabelClass, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    pools: tuple[Attribute, ...] = ()
    seed: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)


NO_WORDS = Words()


def plain_label(value: Any) -> Any:
    """What a cell says: text for bytes, an integer for a whole float (pandas' integers with a gap), None for NaN."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


class ClassNumbers:
    """The number of a class by what a row says: its name, or its number as a dataset of labels has it.

    Where a class is called by a number, numbers are names: 1 is then the class `1`, and never the second one.
    """

    def __init__(self, classes: Sequence[LabelClass]) -> None:
        self._numbers = {each.name: number for number, each in enumerate(classes)}
        self._counts = not any(_NUMBER.fullmatch(each.name) for each in classes)

    def get(self, value: Any) -> int | None:
        """None for what is no class."""
        value = plain_label(value)
        if (number := self._numbers.get(str(value))) is not None or not self._counts:
            return number
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value if is_number and 0 <= value < len(self._numbers) else None
