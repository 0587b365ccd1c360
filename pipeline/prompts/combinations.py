"""All combinations of attributes by arithmetic: how many a text has, and which is the n-th."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate

from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.wildcards import names_of, read_template
from promptmill.schemas.words import Attribute

_MOST_STATES = 100_000
"""Of names that are still to be chosen together: more say that values are tangled beyond what anyone reads."""


class Combinations:
    """An attribute that only some values of another hold is chosen where such a value is, and not otherwise."""

    def __init__(self, attributes: Sequence[Attribute], wildcards: bool) -> None:
        self._values = {each.name: each.values for each in attributes if each.column is None}
        self._held: dict[str, list[tuple[str, ...]]] = {}
        for name, values in self._values.items():
            self._held[name] = [self.own(names_of(read_template(v, wildcards))) if "{" in v else () for v in values]
        self._states = 0
        self._steps = cache(self._steps_of)

    def own(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the names that are chosen."""
        return tuple(name for name in names if name in self._values)

    def count(self, names: tuple[str, ...]) -> int:
        return self._steps(names, frozenset(names))[-1] if names else 1

    def choice(self, names: tuple[str, ...], index: int) -> dict[str, int]:
        """Number of the value of each attribute that is chosen; the last one runs fastest."""
        chosen: dict[str, int] = {}
        waiting, known = names, frozenset(names)
        while waiting:
            first, rest = waiting[0], waiting[1:]
            ends = self._steps(waiting, known)
            value, index = self._place(ends, index, len(self._values[first]))
            chosen[first] = value
            more = tuple(name for name in self._held[first][value] if name not in known)
            waiting, known = (*rest, *more), known.union(more)
        return chosen

    def _place(self, ends: Sequence[int], index: int, values: int) -> tuple[int, int]:
        if len(ends) == 1:  # each value has as many
            return divmod(index, ends[0] // values)
        value = bisect_right(ends, index)
        return value, index - (ends[value - 1] if value else 0)

    def _steps_of(self, waiting: tuple[str, ...], known: frozenset[str]) -> Sequence[int]:
        """How many combinations there are up to each value of the first name, or in all where each has as many."""
        self._states += 1
        if self._states > _MOST_STATES:
            got = f"{len(self._values)} that hold each other in more than {_MOST_STATES:,} ways"
            raise InputError(Problem("prompts.attributes", "attributes that can be counted", got, "Use prompts.draws"))
        first, rest = waiting[0], waiting[1:]
        sizes: dict[tuple[str, ...], int] = {}
        for held in dict.fromkeys(self._held[first]):
            more = tuple(name for name in held if name not in known)
            following = (*rest, *more)
            sizes[held] = self._steps(following, known.union(more))[-1] if following else 1
        if len(set(sizes.values())) == 1:
            return (len(self._held[first]) * next(iter(sizes.values())),)
        return list(accumulate(sizes[held] for held in self._held[first]))


def by_name(attributes: Sequence[Attribute]) -> Mapping[str, Attribute]:
    return {each.name: each for each in attributes}
