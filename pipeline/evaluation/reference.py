"""A dataset's variants against a reference set of images, as `scores/reference-<hash>.json` beside the data."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from promptmill.pipeline.dataset.image_sets import images_at
from promptmill.pipeline.dataset.samples import plain
from promptmill.pipeline.dataset.selections import kept_by
from promptmill.pipeline.dataset.side_json import fitting
from promptmill.pipeline.dataset.side_scores import FOLDER
from promptmill.pipeline.display import cut, redact
from promptmill.pipeline.evaluation.distances import MIN_IMAGES, Features, distances
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.interface import Embedder, Pixels
from promptmill.pipeline.planning.variants import variant_name
from promptmill.pipeline.prompts.pixels import MAX_BYTES, ImageError, decode_image
from promptmill.pipeline.prompts.views import is_view, open_view, shown_name
from promptmill.pipeline.scores.score_dataset import Unit, check_columns, find_units, read_pictures
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, MissingObjectError, Problem
from promptmill.schemas.reports import ReferenceTable, ReferenceVariant

_BATCH = 64
_HELD_BYTES = 256 << 20
"""Of pixels that wait to be encoded: 64 images of 1024×1024 have 200 MB."""
_PREFIX = f"{FOLDER}/reference-"


@dataclass(frozen=True)
class Seen:
    """Finite features of images by variant, float32 [images, features], each as long as the square root of their
    number; `left_out` images did not decode."""

    by_variant: dict[str, Features]
    left_out: int


def compare_with_reference(
    store: Store, reference: str, clip: ResolvedClip, encoder: Embedder, selection: str | None = None
) -> ReferenceTable:
    """FID, KID, precision and recall of the kept images of each variant, written and returned; with the name of a
    `selection`, of those that it keeps.

    Raises JobError where the reference or all variants have fewer than 8 images that decode.
    """
    there = _look((("", pixels) for _, pixels in reference_images(reference)), encoder)
    expected = there.by_variant.get("", np.zeros((0, 1), np.float32))
    _check_size(redact(reference), len(expected), there.left_out)
    made = _look(dataset_images(store, selection), encoder)
    _check_size(store.url, max(map(len, made.by_variant.values()), default=0), made.left_out)
    compared = [
        ReferenceVariant(name=variant_name(json.loads(variant)), variant=variant, **plain(distances(expected, rows)))
        for variant, rows in made.by_variant.items()
    ]
    result = ReferenceTable(
        reference=redact(reference),
        reference_images=len(expected),
        reference_left_out=there.left_out,
        left_out=made.left_out,
        features=clip.path,
        features_revision=clip.revision,
        dimensions=expected.shape[1],
        selection=selection,
        few=_few(len(expected), compared, expected.shape[1]),
        cells=compared,
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


def _look(images: Iterator[tuple[str, Pixels | None]], encoder: Embedder) -> Seen:
    waiting: list[tuple[str, Pixels]] = []
    found: dict[str, list[Features]] = defaultdict(list)
    left_out = 0

    def encode() -> None:
        rows = encoder.images([pixels for _, pixels in waiting])
        rows *= np.sqrt(rows.shape[1])  # KID's kernel divides by it: at this length it is (cosine + 1)³
        for (variant, _), row in zip(waiting, rows, strict=True):
            if np.isfinite(row).all():
                found[variant].append(row)
        waiting.clear()

    for variant, pixels in images:
        if pixels is None:
            left_out += 1
            continue
        waiting.append((variant, pixels))
        if len(waiting) == _BATCH or sum(each.nbytes for _, each in waiting) > _HELD_BYTES:
            encode()
    if waiting:
        encode()
    return Seen({variant: np.stack(rows) for variant, rows in found.items()}, left_out)


def dataset_images(store: Store, selection: str | None = None) -> Iterator[tuple[str, Pixels | None]]:
    """Variant and pixels of each kept image, None where it does not decode; object by object."""
    units = find_units(store)
    check_columns(store, units, ())
    chosen = None if selection is None else kept_by(store, selection)
    for key in (key for unit in units for key in (unit.keys[:1] if chosen is None else unit.keys)):
        with contextlib.suppress(MissingObjectError):
            yield from _parquet_images(store, key, chosen)


def reference_images(source: str) -> Iterator[tuple[str, Pixels | None]]:
    """Of image files at any depth, or of Parquet files; of our own datasets the kept ones, or those of a selection.

    Raises JobError where there is neither.
    """
    there = images_at(source, "--reference")
    store = there.store
    for start in range(0, len(there.files), _BATCH):
        batch = store.map(lambda entry: _content(store, entry), there.files[start : start + _BATCH])
        yield from (("{}", _decoded(data)) for data in batch)
    for entry in there.tables:
        yield from _view_images(store, entry) or _parquet_images(store, entry.name)


def _view_images(store: Store, entry: Entry) -> Iterator[tuple[str, Pixels | None]] | None:
    """What the selection keeps, where the file is one."""
    if not is_view(parquet_metadata(store, entry).schema.to_arrow_schema()):
        return None
    view = open_view(store, store.read(entry.name), shown_name(entry.name))
    view.check()
    chosen = view.sample_ids
    return (image for key in view.kept for image in _parquet_images(view.dataset, key, chosen))


def _parquet_images(
    store: Store, key: str, chosen: frozenset[str] | None = None
) -> Iterator[tuple[str, Pixels | None]]:
    pictures, broken = read_pictures(store, Unit(key, (key,)), chosen)
    yield from ((str(picture.fields.get("variant") or "{}"), picture.pixels) for picture in pictures)
    yield from (("{}", None) for _ in range(broken))


def _content(store: Store, entry: Entry) -> bytes:
    return b"" if entry.size_bytes > MAX_BYTES else store.read(entry.name)


def _decoded(data: bytes) -> Pixels | None:
    try:
        return decode_image(data)
    except ImageError:
        return None


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
