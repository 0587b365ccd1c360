"""Cells by arithmetic: every combination once, in order, but for those left out."""

from __future__ import annotations

import time
import tracemalloc
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptmill.schemas.grid import Grid

Exclusion = tuple[frozenset[int] | None, ...]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    sizes = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    exclusions: st.SearchStrategy[Exclusion] = st.tuples(
        *(st.none() | st.frozensets(st.integers(0, size - 1), min_size=1) for size in sizes)
    )
    return Grid(sizes, tuple(draw(st.lists(exclusions, max_size=5))))


def listed(grid: Grid) -> list[tuple[int, ...]]:
    """The cells that remain, the slow way."""
    return [
        cell
        for cell in product(*map(range, grid.sizes))
        if not any(all(n is None or p in n for p, n in zip(cell, e, strict=True)) for e in grid.excluded)
    ]


@settings(max_examples=300, deadline=None)
@given(grids())
def test_every_cell_that_is_not_left_out_comes_once_and_in_order(grid: Grid) -> None:
    assert [grid.positions(index) for index in range(grid.cells)] == listed(grid)
    for outside in (-1, grid.cells):
        with pytest.raises(IndexError):
            grid.positions(outside)


@settings(max_examples=200, deadline=None)
@given(grids(), st.data())
def test_a_grid_with_fixed_axes_counts_what_has_those_positions(grid: Grid, data: st.DataObject) -> None:
    fixed = {
        axis: data.draw(st.integers(0, size - 1)) for axis, size in enumerate(grid.sizes) if data.draw(st.booleans())
    }
    there = [cell for cell in listed(grid) if all(cell[axis] == position for axis, position in fixed.items())]
    assert grid.at(fixed).cells == len(there)


def test_a_million_cells_with_exclusions_cost_neither_time_nor_memory() -> None:
    exclusions: list[Exclusion] = [(frozenset({i}), None, frozenset({i % 100})) for i in range(100)]
    exclusions += [(None, frozenset({i}), frozenset({0, 1})) for i in range(100)]
    tracemalloc.start()
    began = time.process_time()
    grid = Grid((100, 100, 100), tuple(exclusions))
    # Of the cells with the last position 0 or 1 none is left, of those from 2 on one in a hundred is excluded.
    assert grid.cells == 98 * (100 * 100 - 100)
    assert len({grid.positions(index) for index in range(0, grid.cells, 997)}) == -(-grid.cells // 997)
    assert grid.positions(grid.cells - 1) == (99, 99, 98)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20
    assert time.process_time() - began < 20
