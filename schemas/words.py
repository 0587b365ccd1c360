"""What prompts are put together from: classes with their wording, attributes with their values, wildcard files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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


class ClassNumbers:
    """The number of a class by what a row says: its name, or its number as a dataset of labels has it."""

    def __init__(self, classes: Sequence[LabelClass]) -> None:
        self._numbers = {each.name: number for number, each in enumerate(classes)}

    def get(self, value: Any) -> int | None:
        """None for what is no class."""
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas' integers with a gap
        if (number := self._numbers.get(str(value))) is not None or isinstance(value, str):
            return number
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value if is_number and 0 <= value < len(self._numbers) else None
