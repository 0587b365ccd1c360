"""A dataset's variants against a reference set of images, as `scores/reference-<hash>.json` beside the data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from promptmill.pipeline.dataset.samples import plain
from promptmill.pipeline.dataset.side_json import fitting
from promptmill.pipeline.dataset.side_scores import FOLDER
from promptmill.pipeline.display import cut, redact
from promptmill.pipeline.evaluation.distances import MIN_IMAGES, distances, radii_of
from promptmill.pipeline.evaluation.groups import closest_pairs, group_coverage
from promptmill.pipeline.evaluation.looked import dataset_images, look, reference_images
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.interface import Embedder
from promptmill.pipeline.planning.variants import variant_name
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.coverage import GroupCoverage, NearestPair, ReferenceTable, ReferenceVariant
from promptmill.schemas.errors import JobError, Problem

_PICTURE = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]+")
"""All that a page shows of a dataset that may be somebody else's."""
_PREFIX = f"{FOLDER}/reference-"


def compare_with_reference(
    store: Store,
    reference: str,
    clip: ResolvedClip,
    encoder: Embedder,
    selection: str | None = None,
    columns: Mapping[str, str] = MappingProxyType({}),
    classes: Sequence[str] = (),
) -> ReferenceTable:
    """FID, KID, precision and recall of the kept images of each variant, written and returned; with the name of a
    `selection`, of those that it keeps. `columns` are those by whose values it is told too, by attribute; `classes` are
    those that were asked for.

    Raises JobError where the reference or all variants have fewer than 8 images that decode.
    """
    there = look(reference_images(reference), encoder)
    _check_size(redact(reference), len(there.rows), there.left_out)
    made = look(dataset_images(store, selection, tuple(columns.values())), encoder)
    by_variant = {variant: made.rows[rows] for variant, rows in made.by_variant.items()}
    _check_size(store.url, max(map(len, by_variant.values()), default=0), made.left_out)
    radii = radii_of(there.rows)
    groups, left_out = group_coverage(there, made, columns, classes)
    compared = [
        ReferenceVariant(
            name=variant_name(json.loads(variant)), variant=variant, **plain(distances(there.rows, rows, radii))
        )
        for variant, rows in by_variant.items()
    ]
    result = ReferenceTable(
        reference=redact(reference),
        reference_images=len(there.rows),
        reference_left_out=there.left_out,
        left_out=made.left_out,
        features=clip.path,
        features_revision=clip.revision,
        dimensions=there.rows.shape[1],
        selection=selection,
        few=_few(len(there.rows), compared, there.rows.shape[1]),
        cells=compared,
        groups=groups,
        groups_left_out=left_out,
        closest=closest_pairs(there, made),
    )
    what = [result.reference, clip.path, *([] if selection is None else [selection])]
    key = hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]
    store.put(f"{_PREFIX}{key}.json", json.dumps(as_written(result), indent=2, allow_nan=False).encode())
    return result


def as_written(table: ReferenceTable) -> dict[str, Any]:
    """Without `few`, which follows from the rest."""
    return {name: value for name, value in asdict(table).items() if name != "few"}


def _check_size(where: str, images: int, left_out: int) -> None:
    if images < MIN_IMAGES:
        got = f"{images}" + (f", and {left_out} that do not decode" if left_out else "")
        hint = "With thousands the numbers are worth comparing."
        raise JobError(Problem(where, f"at least {MIN_IMAGES} images", got, hint))


@dataclass(frozen=True)
class _Variant:
    """A `ReferenceVariant` as an older version may have written it."""

    name: str
    images: int
    fid: float | None
    kid: float | None
    kid_std: float | None
    precision: float | None
    recall: float | None
    kid_subset: int | None = None
    variant: str = "{}"
    coverage: float | None = None
    effective: float | None = None
    nearest: list[float] | None = None


@dataclass(frozen=True)
class _Reference:
    reference: str
    reference_images: int
    reference_left_out: int
    left_out: int
    features: str
    dimensions: int
    cells: list[_Variant]
    features_revision: str = ""
    selection: str | None = None
    groups: list[GroupCoverage] = field(default_factory=list)
    groups_left_out: dict[str, int] = field(default_factory=dict)
    closest: list[NearestPair] = field(default_factory=list)


_REFERENCE = TypeAdapter(_Reference)


def read_references(store: Store) -> tuple[list[ReferenceTable], list[str]]:
    """What `compare_with_reference` wrote, and which objects are left out because they do not look like it."""
    found, problems = [], []
    for entry in store.list(FOLDER):
        if not (entry.name.startswith(_PREFIX) and entry.name.endswith(".json")):
            continue
        try:
            content = fitting(_REFERENCE, store.read_if_exists(entry.name))
            if not content.cells:
                raise ValueError("no cells")
            if not all(
                each is None or _PICTURE.fullmatch(each) for pair in content.closest for each in (pair.made, pair.real)
            ):
                raise ValueError("what is no small picture")
        except ValueError as error:
            problems.append(f"{entry.name}: left out: {cut(error, 200)}")
        else:
            found.append(_table(content))
    return found, problems


def _table(content: _Reference) -> ReferenceTable:
    cells = [ReferenceVariant(**plain(variant)) for variant in content.cells]
    few = _few(content.reference_images, cells, content.dimensions)
    return ReferenceTable(**{**vars(content), "cells": cells, "few": few})


def _few(reference_images: int, cells: list[ReferenceVariant], dimensions: int) -> int | None:
    """The least number of images in a set that is not larger than the number of features, None where all are."""
    least = min(reference_images, *(variant.images for variant in cells))
    return least if least <= dimensions else None
