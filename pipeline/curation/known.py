"""The images that samples must not be copies of: real ones to train on, and those of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.display import redact
from promptmill.pipeline.prompts.files import kept_of_dataset
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem

PART_IMAGES = 256
_AT_ONCE = 64


@dataclass(frozen=True)
class KnownPart:
    """Some images of one set: files, or the rows of one Parquet object. `number` is its place among the parts."""

    option: str
    number: int
    source: str
    names: tuple[str, ...]
    rows: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.option}-{self.number:06d}"


def parts_of(option: str, sources: Sequence[str]) -> list[KnownPart]:
    """Of folders of images at any depth, and of Parquet files with a column `image`, such as our own datasets.

    Raises InputError where there are none.
    """
    found: list[KnownPart] = []
    for source in sources:
        for names, rows in _pieces(option, source):
            found.append(KnownPart(option, len(found), source, names, rows))
    return found


def _pieces(option: str, source: str) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    store, entries = find_objects(source)
    files = [entry.name for entry in entries if is_image(entry.name)]
    tables = [] if files else [each for each in kept_of_dataset(entries) if each.name.endswith(".parquet")]
    rows = [(entry.name, _image_rows(store, entry)) for entry in tables]
    if not files and not any(count for _, count in rows):
        got = f"{len(entries)} other files" if entries else "nothing there"
        expected = "a folder of images, or Parquet files with a column `image`"
        raise InputError(Problem(f"--{option} {redact(source)}", expected, got))
    for start in range(0, len(files), PART_IMAGES):
        yield tuple(files[start : start + PART_IMAGES]), ()
    for name, count in rows:
        for start in range(0, count, PART_IMAGES):
            yield (name,), tuple(range(start, min(start + PART_IMAGES, count)))


def _image_rows(store: Store, entry: Entry) -> int:
    with store.open(entry.name) as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowException as error:
            where = f"{store.url}/{entry.name}"
            raise InputError(Problem(where, "a whole Parquet file", str(error)[:200])) from None
        return int(parquet.metadata.num_rows) if "image" in parquet.schema_arrow.names else 0


def known_images(part: KnownPart) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    store, entries = find_objects(part.source)
    if part.rows:
        (key,) = part.names
        yield from ((f"{key}:{row}", data) for row, data in read_images(store, key, part.rows))
        return
    for start in range(0, len(part.names), _AT_ONCE):
        names = part.names[start : start + _AT_ONCE]
        yield from zip(names, store.map(store.read, names), strict=True)


def content_of(parts: Sequence[KnownPart]) -> str:
    """A hash over names and bytes of all images, which says which set it is wherever it lies."""
    digest = hashlib.sha256()
    for part in parts:
        for name, data in known_images(part):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()
