"""How much of a reference the images of each class and attribute reach, and which images are nearest to one of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from promptmill.pipeline.evaluation.distances import MIN_IMAGES, Features, coverage, precision_recall
from promptmill.pipeline.evaluation.looked import LABEL, Image, Looked
from promptmill.pipeline.evaluation.variety import effective_number, nearest_distances, nearest_of
from promptmill.pipeline.prompts.thumbs import small_picture
from promptmill.schemas.coverage import GroupCoverage, NearestPair

MOST_VALUES: Final = 100
"""Of a column, those with most images; each is held against the whole reference."""
PAIRS: Final = 8
_SIDE: Final = 96


def group_coverage(reference: Looked, made: Looked, columns: Sequence[str] = ()) -> list[GroupCoverage]:
    """By class, then by each of `columns`, the values in the order of their names."""
    theirs = {_plain(name): places for name, places in reference.by_value(LABEL).items()}
    found = []
    for column in (LABEL, *columns):
        groups = made.by_value(column)
        most = sorted(groups, key=lambda value: -len(groups[value]))[:MOST_VALUES]
        for value in sorted(most):
            own = theirs.get(_plain(value)) if column == LABEL else None
            there = reference.rows if own is None else reference.rows[own]
            found.append(_coverage(column, value, there, made.rows[groups[value]]))
    return found


def _plain(name: str) -> str:
    """Folders and classes are one name where case, `_` and `-` aside they are."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _coverage(column: str, value: str, reference: Features, made: Features) -> GroupCoverage:
    few = min(len(reference), len(made)) < MIN_IMAGES
    precision, recall = (None, None) if few else precision_recall(reference, made)
    return GroupCoverage(
        column=column,
        value=value,
        images=len(made),
        reference_images=len(reference),
        precision=precision,
        recall=recall,
        coverage=None if few else coverage(reference, made),
        effective=effective_number(made),
        nearest=nearest_distances(reference, made),
    )


def closest_pairs(reference: Looked, made: Looked) -> list[NearestPair]:
    """The made images that are nearest to one of the reference, with small pictures of both."""
    places, distances = nearest_of(reference.rows, made.rows)
    first: npt.NDArray[np.intp] = np.argsort(distances, kind="stable")[:PAIRS]
    return [_pair(made.images[row], reference.images[places[row]], float(distances[row])) for row in first]


def _pair(own: Image, real: Image, distance: float) -> NearestPair:
    label = str(own.fields.get(LABEL) or "")
    return NearestPair(own.name, label, distance, real.name[-300:], *(_small(each) for each in (own, real)))


def _small(image: Image) -> str | None:
    pixels = image.again()
    return None if pixels is None else small_picture(Pillow.fromarray(pixels), _SIDE)
