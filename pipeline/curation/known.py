"""The images that samples must not be copies of: real ones to train on, and those of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.image_sets import images_at
from promptmill.pipeline.dataset.images import holds_images, read_images
from promptmill.pipeline.display import cut, redact
from promptmill.pipeline.prompts.decoding import decode
from promptmill.pipeline.prompts.image_files import IMAGE_FORMATS
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem, SampleError

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
    there = images_at(source, f"--{option}", IMAGE_FORMATS)
    files = [entry.name for entry in there.files]
    rows = [(entry.name, _image_rows(there.store, entry)) for entry in there.tables]
    if not files and not any(count for _, count in rows):
        got = f"{len(rows)} Parquet files without"
        raise InputError(Problem(f"--{option} {redact(source)}", "Parquet files with rows and a column `image`", got))
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
            raise InputError(Problem(where, "a whole Parquet file", cut(error, 200))) from None
        schema = parquet.schema_arrow
        if "image" not in schema.names:
            return 0
        kind = schema.field("image").type
        if not holds_images(kind):
            where = f"{store.url}/{entry.name}"
            raise InputError(Problem(where, "`image` as bytes, or as a struct that holds `bytes`", f"{kind}"[:200]))
        return int(parquet.metadata.num_rows)


def known_images(part: KnownPart) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each."""
    store = _store_of(part.source)
    if part.rows:
        (key,) = part.names
        yield from ((f"{key}:{row}", data) for row, data in read_images(store, key, part.rows))
        return
    for start in range(0, len(part.names), _AT_ONCE):
        names = part.names[start : start + _AT_ONCE]
        yield from zip(names, store.map(store.read, names), strict=True)


def refuse_sets_without_images(parts: Sequence[KnownPart]) -> None:
    """Raises InputError where a set has none that decodes: nothing could be a copy of it, and nobody would know."""
    for option, source in dict.fromkeys((part.option, part.source) for part in parts):
        own = (part for part in parts if (part.option, part.source) == (option, source))
        looked: list[bool] = []
        for _, data in (image for part in own for image in known_images(part)):
            looked.append(_decodes(data))
            if looked[-1]:
                break
        if not any(looked):
            raise InputError(Problem(f"--{option} {redact(source)}", "images", f"{len(looked)} that do not decode"))


def _decodes(data: bytes) -> bool:
    try:
        decode(data, "image")
    except SampleError:
        return False
    return True


@lru_cache(8)
def _store_of(source: str) -> Store:
    """Found once: a set of a million images is not listed anew for each of its parts."""
    return find_objects(source)[0]


def contents_of(parts: Sequence[KnownPart]) -> dict[str, str]:
    """By kind of set, as `content_of`."""
    kinds = sorted({part.option for part in parts})
    return {kind: content_of([part for part in parts if part.option == kind]) for kind in kinds}


def content_of(parts: Sequence[KnownPart]) -> str:
    """A hash over names and bytes of all images, which says which set it is wherever it lies."""
    digest = hashlib.sha256()
    for part in parts:
        for name, data in known_images(part):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()
