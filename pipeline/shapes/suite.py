"""The built-in prompt suite: captions of the shapes world by category, each with what it claims. Needs no torch."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

from pipeline.shapes.world import Kind, Split, sample_prompts

CATEGORIES: Final[tuple[Kind, ...]] = ("colour", "shape", "one", "size", "place", "relation")
"""One word of a single object; both words; both and its size or place; two objects and how they stand.

`placed` and `two` of the world are left out: their captions are those of `size`, `place` and `relation`.
"""
_MISSES: Final = 100
"""Draws in a row without a new caption after which a category counts as exhausted: "a red shape" has few wordings."""


def suite_rows(per_category: int, seed: int, split: Split) -> list[dict[str, Any]]:
    """Rows of `id`, `prompt`, `category` and `truth` (`Claims.to_dict`), the categories in turn.

    Prompts differ, so a category has fewer than asked for where the grammar has no more. The first rows of a category
    are the same for any `per_category`.
    """
    columns = [_category(kind, per_category, seed, split) for kind in CATEGORIES]
    return [row for rows in zip_longest(*columns) for row in rows if row is not None]


def _category(kind: Kind, count: int, seed: int, split: Split) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    drawn = misses = 0
    while len(found) < count and misses < _MISSES:
        (prompt,) = sample_prompts(1, seed, split, kind, first=drawn)
        row = {"id": f"{kind}-{len(found):04d}", "prompt": prompt.caption, "category": kind, "truth": prompt.truth}
        misses = misses + 1 if prompt.caption in found else 0
        found.setdefault(prompt.caption, row)
        drawn += 1
    return list(found.values())
