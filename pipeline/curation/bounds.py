"""How alike copies must be: found by images that are known not to be copies of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from promptmill.pipeline.curation.embed import REAL, TEST, of_kind, read_part, vectors_in
from promptmill.pipeline.curation.settings import LARGEST_DIFFERENCE, Settings
from promptmill.pipeline.curation.vectors import MIRRORED, Floats, Vectors, cosines, differences
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.results import Calibration

_MOST_IMAGES = 20_000
"""Of a known set that are looked at."""
_CHUNK_ROWS = 512
LEAST_IMAGES = 5_000
"""Known images without which no cosine is found, so that the default quantile is one that was seen: 100 scenes of the
shapes world said 0.985, at which 5 of 300 other scenes were lost, and 600 said 0.998 once in three times, at which 50
of 2,000 were."""
_TAIL_SHARE, _TAIL_LEAST = 0.05, 8
NEVER = math.inf


@dataclass(frozen=True)
class Bounds:
    """Copies are what looks less different than `difference`, or has a cosine above `cosine`."""

    difference: float
    cosine: float
    calibration: Calibration | None = None


def find_bounds(store: Store, settings: Settings, known: Sequence[str], images: int) -> Bounds:
    """`known` are the parts of both sets, `images` how many are held against each other or against them.

    Too few known images say nothing of the cosine: then looks alone decide, or `threshold`.
    """
    if settings.features is None:
        return Bounds(-1.0, NEVER)
    declared = NEVER if settings.threshold is None else settings.threshold
    if not known:
        return Bounds(LARGEST_DIFFERENCE, declared)
    tables = [read_part(store, key) for key in known]
    real, test = (
        _some(pa.concat_tables([of_kind(each, kind) for each in tables if each.num_rows] or tables[:1]))
        for kind in (REAL, TEST)
    )
    one, other = (real, test) if real.num_rows and test.num_rows else (real if real.num_rows else test,) * 2
    nearest, looks = _nearest(one, other)
    if not len(nearest):
        return Bounds(LARGEST_DIFFERENCE, declared)
    against = max(1, other.num_rows // 2)
    rate = (1 - settings.quantile) * against / max(against, images)
    told = Calibration(len(nearest), against, float(nearest.max()), float(looks.min()), rate)
    seen = float(np.sort(looks)[min(len(looks) - 1, max(1, int((1 - settings.quantile) * len(looks))))])
    difference = min(LARGEST_DIFFERENCE, seen)  # the second least: real sets hold a copy or two
    if settings.threshold is not None or len(nearest) < LEAST_IMAGES:
        return Bounds(difference, declared, told)
    return Bounds(difference, 1 - _extrapolated(2 - 2 * nearest, rate) / 2, told)


def _some(table: pa.Table) -> pa.Table:
    """Evenly from all over the set; an image and its mirror image stay together."""
    every = -(-table.num_rows // 2 // _MOST_IMAGES) or 1
    rows = np.arange(table.num_rows)
    return table.take(pa.array(rows[(rows // 2) % every == 0]))


def _nearest(one: pa.Table, other: pa.Table) -> tuple[Floats, Floats]:
    """Of each image of `one` the largest cosine and the least difference to any of `other`, either way round.

    Without pairs of the same pixels or, inside one set, of one image: those are copies indeed.
    """
    upright = pa.array(np.arange(0, one.num_rows, 2))
    own, theirs = one.take(upright), other
    rows, against = vectors_in(own), vectors_in(theirs)
    copies = _copies(own, theirs)
    times = np.where(theirs["mirrored"].to_numpy(zero_copy_only=False), MIRRORED, 1.0)
    found, looks = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(rows))
        part = rows.take(np.arange(start, stop))
        same = copies[start:stop]
        found[start:stop] = _best(part, against, same)
        looks[start:stop] = np.where(same, np.inf, differences(part, against) * times).min(axis=1)
    there = np.isfinite(found) & np.isfinite(looks)
    return found[there], looks[there]


def _best(part: Vectors, against: Vectors, same: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Floats:
    return np.asarray(np.where(same, -np.inf, cosines(part, against)).max(axis=1))


def _copies(own: pa.Table, theirs: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """bool [own, theirs]: the same pixels either way round, or the same image of the same set."""
    groups: dict[bytes, set[int]] = {}
    places = [
        (kind, place) for kind, place in zip(theirs["kind"].to_pylist(), theirs["place"].to_pylist(), strict=True)
    ]
    by_place: dict[tuple[int, int], set[int]] = {}
    for row, (digest, place) in enumerate(zip(theirs["pixels"].to_pylist(), places, strict=True)):
        groups.setdefault(digest, set()).update((row - row % 2, row - row % 2 + 1))
        by_place.setdefault(place, set()).add(row)
    found = np.zeros((own.num_rows, theirs.num_rows), bool)
    mine = zip(own["pixels"].to_pylist(), own["kind"].to_pylist(), own["place"].to_pylist(), strict=True)
    for row, (digest, kind, place) in enumerate(mine):
        found[row, sorted(groups.get(digest, set()) | by_place.get((kind, place), set()))] = True
    return found


def _extrapolated(squared: Floats, rate: float) -> float:
    """The squared distance within which a share `rate` of images has a neighbour that is no copy.

    A quantile, as far as there are images enough; beyond it the tail goes on as the power of the distance that the
    nearest twentieth shows (Hill's estimator; Levina and Bickel 2004 of its meaning as a dimension).
    """
    sorted_ = np.sort(np.maximum(squared, 1e-12))
    if rate * len(sorted_) >= 1:
        return float(sorted_[int(rate * len(sorted_)) - 1])
    tail = min(len(sorted_) - 1, max(_TAIL_LEAST, int(_TAIL_SHARE * len(sorted_))))
    power = tail / max(1e-9, float(np.log(sorted_[tail] / sorted_[:tail]).sum()))
    return float(sorted_[tail] * (rate * len(sorted_) / (tail + 1)) ** (1 / power))
