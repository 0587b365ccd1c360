"""How far a set of images is from a reference set, by the features of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.evaluation.fid import fid_and_kid
from promptmill.pipeline.evaluation.variety import effective_number, nearest_distances

MIN_IMAGES = 8
"""In either set: below it there is no neighbourhood and no subset to draw."""

NEIGHBOURS = 3
"""Kynkäänniemi et al. 2019, section 3.1."""

_MAX_SUBSET = 1_000
_ROWS = 1_024

Features = npt.NDArray[np.float32]
Radii = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Distances:
    """`fid` and `kid` are 0 for equal distributions; `precision` and `recall` are shares.

    `kid_std` is over random subsets of `kid_subset` images. `coverage` is the share of the reference with a made image
    as near as its neighbours, `effective` how many images the made ones are worth, `nearest` quantiles of the distance
    to the nearest of the reference (`variety.py`). All are None for a set that is too small.
    """

    images: int
    fid: float | None = None
    kid: float | None = None
    kid_std: float | None = None
    kid_subset: int | None = None
    precision: float | None = None
    recall: float | None = None
    coverage: float | None = None
    effective: float | None = None
    nearest: list[float] | None = None


def distances(reference: Features, made: Features, radii: Radii | None = None) -> Distances:
    """Of float32 [images, features]; the two may differ in the number of images. `radii` are `radii_of(reference)`,
    here as below: whoever compares it more than once finds them once, for they take longer than all the rest."""
    least = min(len(reference), len(made))
    if least < MIN_IMAGES:
        return Distances(len(made))
    # A subset as large as the set would be the same one each time.
    subset = min(_MAX_SUBSET, least // 2)
    fid, kid, kid_std = fid_and_kid(reference, made, subset)
    radii = radii_of(reference) if radii is None else radii
    precision, recall = precision_recall(reference, made, radii=radii)
    more = coverage(reference, made, radii=radii), effective_number(made), nearest_distances(reference, made)
    return Distances(len(made), fid, kid, kid_std, subset, precision, recall, *more)


def precision_recall(
    reference: Features, made: Features, neighbours: int = NEIGHBOURS, radii: Radii | None = None
) -> tuple[float, float]:
    """Share of made images inside the reference's manifold, and of reference images inside the made ones'.

    Kynkäänniemi et al. 2019, Improved Precision and Recall Metric for Assessing Generative Models, equations 1 and 2:
    the manifold is the union of balls, each as far as the `neighbours`-th nearest of the same set.
    """
    there = radii_of(reference, neighbours) if radii is None else radii
    return _share_inside(made, reference, there), _share_inside(reference, made, radii_of(made, neighbours))


def coverage(reference: Features, made: Features, neighbours: int = NEIGHBOURS, radii: Radii | None = None) -> float:
    """Share of the reference's images whose ball, to the `neighbours`-th nearest of their own set, holds a made one.

    Naeem et al. 2020, Reliable Fidelity and Diversity Metrics for Generative Models, equation 5. Unlike recall it is
    not raised by a few made images far from everything.
    """
    radii = radii_of(reference, neighbours) if radii is None else radii
    least = np.concatenate([rows.min(axis=1) for rows in _squares(reference, made)])
    return float((least <= radii).mean())


def _share_inside(queries: Features, centres: Features, radii: Radii) -> float:
    return float(np.concatenate([(rows <= radii).any(axis=1) for rows in _squares(queries, centres)]).mean())


def radii_of(centres: Features, neighbours: int = NEIGHBOURS) -> Radii:
    """Squared distances, float64 [images], of each to its `neighbours`-th nearest in the set, itself not counted."""
    return np.concatenate([np.partition(rows, neighbours)[:, neighbours] for rows in _squares(centres, centres)])


def _squares(a: Features, b: Features) -> Iterator[npt.NDArray[Any]]:
    """Squared distances of some rows of `a` at a time to all of `b`: float64 [≤ 1,024, len(b)]."""
    wide = b.astype(np.float64)
    lengths = np.einsum("nd,nd->n", wide, wide)
    for start in range(0, len(a), _ROWS):
        rows = a[start : start + _ROWS].astype(np.float64)
        yield np.maximum(np.einsum("nd,nd->n", rows, rows)[:, None] + lengths - 2 * rows @ wide.T, 0.0)
