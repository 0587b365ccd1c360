"""How much of a reference the images of each class and attribute reach, and which images are nearest to one of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from promptmill.pipeline.dataset.passed import values_told
from promptmill.pipeline.display import printable
from promptmill.pipeline.evaluation.distances import MIN_IMAGES, Features, Radii, coverage, precision_recall, radii_of
from promptmill.pipeline.evaluation.looked import LABEL, Image, Looked
from promptmill.pipeline.evaluation.variety import effective_number, nearest_distances, nearest_of
from promptmill.pipeline.models.catalog.classifiers import plain_name
from promptmill.pipeline.prompts.thumbs import small_picture
from promptmill.schemas.coverage import GroupCoverage, NearestPair

PAIRS: Final = 8
_SIDE: Final = 96


@dataclass(frozen=True)
class _Reference:
    rows: Features

    @cached_property
    def radii(self) -> Radii:
        return radii_of(self.rows)


def group_coverage(
    reference: Looked, made: Looked, columns: Mapping[str, str] = MappingProxyType({}), classes: Sequence[str] = ()
) -> tuple[list[GroupCoverage], dict[str, int]]:
    """By class, then by attribute, the values in the order of their names; and of how many values of an attribute
    nothing is told, where there are such. Classes are all there, those of `classes`, which were asked for, without
    images too. `columns` are those of the record by attribute."""
    whole = _Reference(reference.rows)
    found = _by_class(reference, whole, made, classes)
    left_out: dict[str, int] = {}
    for attribute, column in columns.items():
        groups = made.by_value(column)
        values, more = values_told({value: len(places) for value, places in groups.items()})
        told = column if attribute == LABEL else attribute  # LABEL stands for the class
        found += [_coverage(told, value, whole, made.rows[groups[value]]) for value in values]
        left_out |= {attribute: more} if more else {}
    return found, left_out


def _by_class(reference: Looked, whole: _Reference, made: Looked, classes: Sequence[str]) -> list[GroupCoverage]:
    """Those of the reference that nobody asked for are there too, where it has classes of the dataset's at all."""
    own, theirs = _classes(made), _classes(reference)
    names = {plain_name(name): name for name in classes}
    names = {**{key: name for key, (name, _) in own.items()}, **names}
    if names.keys() & theirs.keys():
        names = {**{key: name for key, (name, _) in theirs.items()}, **names}
    found = []
    for key, name in sorted(names.items(), key=lambda each: each[1]):
        there = _Reference(reference.rows[theirs[key][1]]) if key in theirs else whole
        rows = made.rows[own[key][1]] if key in own else made.rows[:0]
        found.append(_coverage(LABEL, name, there, rows))
    return found


def _classes(looked: Looked) -> dict[str, tuple[str, npt.NDArray[np.intp]]]:
    """Names and places of the images, by the plain name: of those that are one class, under the first name."""
    found: dict[str, tuple[str, npt.NDArray[np.intp]]] = {}
    for name, places in looked.by_value(LABEL).items():
        first, before = found.get(plain_name(name), (name, places[:0]))
        found[plain_name(name)] = first, np.concatenate([before, places])
    return found


def _coverage(column: str, value: str, reference: _Reference, made: Features) -> GroupCoverage:
    rows = reference.rows
    few = min(len(rows), len(made)) < MIN_IMAGES
    precision, recall = (None, None) if few else precision_recall(rows, made, radii=reference.radii)
    return GroupCoverage(
        column=column,
        value=printable(value),
        images=len(made),
        reference_images=len(rows),
        precision=precision,
        recall=recall,
        coverage=None if few else coverage(rows, made, radii=reference.radii),
        effective=effective_number(made) if len(made) else None,
        nearest=nearest_distances(rows, made) if len(made) else None,
    )


def closest_pairs(reference: Looked, made: Looked) -> list[NearestPair]:
    """The made images that are nearest to one of the reference, with small pictures of both."""
    places, distances = nearest_of(reference.rows, made.rows)
    first: npt.NDArray[np.intp] = np.argsort(distances, kind="stable")[:PAIRS]
    return [_pair(made.images[row], reference.images[places[row]], float(distances[row])) for row in first]


def _pair(own: Image, real: Image, distance: float) -> NearestPair:
    name, label, there = (printable(each) for each in (own.name, str(own.fields.get(LABEL) or ""), real.name))
    return NearestPair(name, label, distance, there[-300:], *(_small(each) for each in (own, real)))


def _small(image: Image) -> str | None:
    pixels = image.again()
    return None if pixels is None else small_picture(Pillow.fromarray(pixels), _SIDE)
