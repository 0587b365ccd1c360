"""How much of what was asked for is there, by class and attribute, and how much of a reference set it reaches."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReferenceVariant:
    """Kept images of one variant against the reference; None where there are too few to compare.

    `nearest` are the 5 %, 50 % and 95 % quantiles of 1 − cosine to the nearest image of the reference."""

    name: str
    variant: str
    images: int
    fid: float | None
    kid: float | None
    kid_std: float | None
    kid_subset: int | None
    precision: float | None
    recall: float | None
    coverage: float | None = None
    effective: float | None = None
    nearest: list[float] | None = None


@dataclass(frozen=True)
class ClassSummary:
    """`asked` is null where all that passes is kept, `made` counts samples that ended. `right` is the share of the
    `judged` kept images that `judge` (`verified`, `agrees`) holds for right; `reason` the commonest of its rejects."""

    name: str
    asked: int | None
    made: int
    kept: int
    judge: str | None
    judged: int
    right: float | None
    reason: str | None


@dataclass(frozen=True)
class ValueSummary:
    """As `ClassSummary`, of the samples that have `value` in `column`, an attribute of the templates."""

    column: str
    value: str
    made: int
    kept: int
    judge: str | None
    judged: int
    right: float | None
    reason: str | None


@dataclass(frozen=True)
class GroupCoverage:
    """As `ReferenceVariant`, of the kept images that have `value` in `column`.

    `label_name` is the class: where the reference has images of it (by folder, or by a column `label_name`), it is held
    against those, else against all. `reference_images` is how many that were. A class without `images` is one that was
    asked for, or that the reference has.
    """

    column: str
    value: str
    images: int
    reference_images: int
    precision: float | None = None
    recall: float | None = None
    coverage: float | None = None
    effective: float | None = None
    nearest: list[float] | None = None


@dataclass(frozen=True)
class NearestPair:
    """A made image and the image of the reference that it is nearest to: `distance` is 1 − cosine.

    `made` and `real` are small pictures, as data URIs.
    """

    sample_id: str
    label: str
    distance: float
    reference: str
    made: str | None = None
    real: str | None = None


@dataclass(frozen=True)
class ReferenceTable:
    """What `score --reference` found. `few` is a number of images that is not above the number of features.

    `groups` are by class and by attribute of the templates, over all variants, `groups_left_out` how many values of
    an attribute have no group, since it has so many; `closest` the images nearest to one of the reference, the nearest
    first.
    """

    reference: str
    reference_images: int
    reference_left_out: int
    left_out: int
    features: str
    features_revision: str
    dimensions: int
    selection: str | None
    few: int | None
    cells: list[ReferenceVariant]
    groups: list[GroupCoverage] = field(default_factory=list)
    groups_left_out: dict[str, int] = field(default_factory=dict)
    closest: list[NearestPair] = field(default_factory=list)
