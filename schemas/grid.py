"""Cells of axes that multiply, some left out, by arithmetic: no list of cells is ever made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Active = frozenset[int]
"""Exclusions that the positions chosen so far still match."""


@dataclass(frozen=True)
class Grid:
    """`sizes` are the values on each axis; the last axis runs fastest.

    An exclusion has for each axis the positions that it leaves out, None for all: cells that match it on every axis are
    no part of the grid. What remains is counted axis by axis, over the positions that exclusions name and all others
    together, so the cost depends on what is excluded and not on the number of cells.
    """

    sizes: tuple[int, ...]
    excluded: tuple[tuple[frozenset[int] | None, ...], ...] = ()
    _below: dict[tuple[int, Active], int] = field(default_factory=dict, compare=False, repr=False)
    _branches: dict[tuple[int, Active], tuple[Active, dict[int, Active]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def cells(self) -> int:
        return self._count(0, self._all)

    def positions(self, index: int) -> tuple[int, ...]:
        """Of cell `index` on each axis. Raises IndexError for a cell that the grid does not have."""
        if not 0 <= index < self.cells:
            raise IndexError(index)
        active, found = self._all, []
        for axis in range(len(self.sizes)):
            position, index, active = self._step(axis, active, index)
            found.append(position)
        return tuple(found)

    def at(self, fixed: Mapping[int, int]) -> Grid:
        """The grid of the other axes where those in `fixed` (axis to position) stay as they are."""
        kept = [axis for axis in range(len(self.sizes)) if axis not in fixed]
        matching = (
            exclusion
            for exclusion in self.excluded
            if all((named := exclusion[axis]) is None or position in named for axis, position in fixed.items())
        )
        return Grid(tuple(self.sizes[a] for a in kept), tuple(tuple(e[a] for a in kept) for e in matching))

    @property
    def _all(self) -> Active:
        return frozenset(range(len(self.excluded)))

    def _step(self, axis: int, active: Active, index: int) -> tuple[int, int, Active]:
        """Position of cell `index` on this axis, its index among the cells there, and what is still active."""
        others, named = self._branch(axis, active)
        each = self._count(axis + 1, others)
        start = 0
        for position in sorted(named):
            gap = (position - start) * each
            if index < gap:
                break
            index -= gap
            inside = self._count(axis + 1, named[position])
            if index < inside:
                return position, index, named[position]
            index -= inside
            start = position + 1
        return start + index // each, index % each, others

    def _count(self, axis: int, active: Active) -> int:
        """Cells over this axis and those after it."""
        if not active:
            return math.prod(self.sizes[axis:])
        if axis == len(self.sizes):
            return 0
        if (axis, active) not in self._below:
            others, named = self._branch(axis, active)
            rest = (self.sizes[axis] - len(named)) * self._count(axis + 1, others)
            self._below[axis, active] = rest + sum(self._count(axis + 1, inside) for inside in named.values())
        return self._below[axis, active]

    def _branch(self, axis: int, active: Active) -> tuple[Active, dict[int, Active]]:
        """What is active after a position that no exclusion names, and after each that one does."""
        if (axis, active) not in self._branches:
            others = frozenset(number for number in active if self.excluded[number][axis] is None)
            named: dict[int, set[int]] = {}
            for number in active - others:
                for position in self.excluded[number][axis] or ():
                    named.setdefault(position, set()).add(number)
            self._branches[axis, active] = others, {p: others | numbers for p, numbers in named.items()}
        return self._branches[axis, active]
