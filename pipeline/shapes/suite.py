"""The built-in prompt suite: captions of the shapes world by category, each with what it claims. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from promptmill.pipeline.shapes.world import (
    KINDS,
    Kind,
    Scene,
    Split,
    sample_scene,
)

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


@dataclass(frozen=True)
class ShapesPrompt:
    """A caption, what it claims (`Claims.to_dict`), the kind it was drawn for, and a scene that shows it."""

    caption: str
    truth: dict[str, Any]
    category: Kind
    scene: Scene


def sample_prompts(
    n: int, seed: int, split: Split = "held_out", kind: Kind = "one", first: int = 0
) -> list[ShapesPrompt]:
    """`n` prompts of one kind with their truth, from number `first` of an endless row that the seed gives.

    Every kind but "colour" and "shape" names colour and shape of each object; in the held-out split the ground of a
    single object is always named too, so that the words alone say a combination that training never saw.
    """
    from promptmill.pipeline.shapes import captions

    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    prompts: list[ShapesPrompt] = []
    for index in range(first, first + n):
        rng = np.random.default_rng([seed, KINDS.index(kind), int(split == "train"), index])
        scene = sample_scene(rng, split, 2 if kind in ("two", "relation") else 1)
        claims = captions.claims_of_kind(scene, kind, rng, name_ground=split == "held_out")
        prompts.append(ShapesPrompt(captions.write(claims, rng), claims.to_dict(), kind, scene))
    return prompts
