"""Images of a dataset and of a reference set, as an embedder sees them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.dataset.image_sets import images_at
from promptmill.pipeline.dataset.selections import kept_by
from promptmill.pipeline.evaluation.distances import Features
from promptmill.pipeline.models.interface import Embedder, Pixels
from promptmill.pipeline.prompts.pixels import MAX_BYTES, ImageError, decode_image
from promptmill.pipeline.prompts.views import is_view, open_view, shown_name
from promptmill.pipeline.scores.score_dataset import Unit, check_columns, find_units, read_pictures
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import MissingObjectError

LABEL: Final = named("label_name")[0]
_BATCH = 64
_HELD_BYTES = 256 << 20
"""Of pixels that wait to be encoded: 64 images of 1024×1024 have 200 MB."""


@dataclass(frozen=True)
class Image:
    """`pixels` are None where it does not decode. `name` is its file or sample, in the object `key` of `store`;
    `fields` are what its row says."""

    store: Store
    key: str
    name: str = ""
    pixels: Pixels | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        return str(self.fields.get("variant") or "{}")

    def again(self) -> Pixels | None:
        """Its pixels, read anew."""
        if self.key == self.name:
            return _decoded(_content(self.store, self.key))
        pictures, _ = read_pictures(self.store, Unit(self.key, (self.key,)), {self.name})
        return pictures[0].pixels if pictures else None


@dataclass(frozen=True)
class Looked:
    """Finite features, float32 [images, features], each as long as the square root of their number, and the images
    without their pixels; `left_out` images did not decode."""

    rows: Features
    images: Sequence[Image]
    left_out: int

    @cached_property
    def by_variant(self) -> dict[str, npt.NDArray[np.intp]]:
        return self._places([each.variant for each in self.images])

    def by_value(self, column: str) -> dict[str, npt.NDArray[np.intp]]:
        """Places of the images by what they have in a column; those that have nothing are left out."""
        found = self._places([str(each.fields.get(column) or "") for each in self.images])
        return {value: places for value, places in found.items() if value}

    @staticmethod
    def _places(values: Sequence[str]) -> dict[str, npt.NDArray[np.intp]]:
        found: dict[str, list[int]] = defaultdict(list)
        for place, value in enumerate(values):
            found[value].append(place)
        return {value: np.array(places, np.intp) for value, places in found.items()}


def look(images: Iterator[Image], encoder: Embedder) -> Looked:
    waiting: list[Image] = []
    rows: list[Features] = []
    seen: list[Image] = []
    left_out = 0

    def encode() -> None:
        found = encoder.images([each.pixels for each in waiting if each.pixels is not None])
        found *= np.sqrt(found.shape[1])  # KID's kernel divides by it: at this length it is (cosine + 1)³
        for each, row in zip(waiting, found, strict=True):
            if np.isfinite(row).all():
                rows.append(row)
                seen.append(Image(each.store, each.key, each.name, None, each.fields))
        waiting.clear()

    for each in images:
        if each.pixels is None:
            left_out += 1
            continue
        waiting.append(each)
        if len(waiting) == _BATCH or sum(one.pixels.nbytes for one in waiting if one.pixels is not None) > _HELD_BYTES:
            encode()
    if waiting:
        encode()
    return Looked(np.stack(rows) if rows else np.zeros((0, 1), np.float32), seen, left_out)


def dataset_images(store: Store, selection: str | None = None, columns: Sequence[str] = ()) -> Iterator[Image]:
    """Each kept image, object by object; `columns` are read of its row besides."""
    units = find_units(store)
    check_columns(store, units, ())
    chosen = None if selection is None else kept_by(store, selection)
    for key in (key for unit in units for key in (unit.keys[:1] if chosen is None else unit.keys)):
        with contextlib.suppress(MissingObjectError):
            yield from _parquet_images(store, key, chosen, columns)


def reference_images(source: str) -> Iterator[Image]:
    """Of image files at any depth, whose class is their folder, or of Parquet files; of our own datasets the kept ones,
    or those of a selection.

    Raises JobError where there is neither.
    """
    there = images_at(source, "--reference")
    store = there.store
    for start in range(0, len(there.files), _BATCH):
        entries = there.files[start : start + _BATCH]
        batch = store.map(lambda entry: b"" if entry.size_bytes > MAX_BYTES else store.read(entry.name), entries)
        for entry, data in zip(entries, batch, strict=True):
            label = PurePosixPath(entry.name).parent.name
            yield Image(store, entry.name, entry.name, _decoded(data), {LABEL: label})
    for entry in there.tables:
        yield from _view_images(store, entry) or _parquet_images(store, entry.name)


def _view_images(store: Store, entry: Entry) -> Iterator[Image] | None:
    """What the selection keeps, where the file is one."""
    if not is_view(parquet_metadata(store, entry).schema.to_arrow_schema()):
        return None
    view = open_view(store, store.read(entry.name), shown_name(entry.name))
    view.check()
    chosen = view.sample_ids
    return (image for key in view.kept for image in _parquet_images(view.dataset, key, chosen))


def _parquet_images(
    store: Store, key: str, chosen: frozenset[str] | None = None, columns: Sequence[str] = ()
) -> Iterator[Image]:
    wanted = ("variant", LABEL, *columns)
    pictures, broken = read_pictures(store, Unit(key, (key,)), chosen, (LABEL, *columns))
    for picture in pictures:
        fields = {name: picture.fields[name] for name in wanted if picture.fields.get(name) is not None}
        yield Image(store, key, picture.sample_id, picture.pixels, fields)
    yield from (Image(store, key) for _ in range(broken))


def _content(store: Store, key: str) -> bytes:
    return store.read_if_exists(key, MAX_BYTES) or b""


def _decoded(data: bytes) -> Pixels | None:
    try:
        return decode_image(data)
    except ImageError:
        return None
