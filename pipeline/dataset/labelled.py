"""Images with a class and a caption, of a dataset, Parquet files or a folder: what adapters learn, and proofs.

A class is the column `label_name`, else `label`; of image files the folder they lie in. Captions are `caption`,
`prompt` or `text` of a table; of image files those of `metadata.jsonl` beside them, else a `.txt` of the same name.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.image_sets import images_at
from promptmill.pipeline.display import redact
from promptmill.pipeline.prompts.pixels import MAX_BYTES, ImageError, decode_image
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.json_text import parse_json

_CAPTIONS: Final = ("caption", "prompt", "text")
_COLUMNS: Final = (*named("sample_id", "image", "label", "label_name"), *_CAPTIONS)
_READ_ROWS: Final = 64

Read = Callable[[Store, str], bytes]


@dataclass(frozen=True, eq=False)
class Labelled:
    """One image, uint8 [height, width, 3]. `name` is its file, or its row's id; `label` is empty where none is said."""

    name: str
    pixels: npt.NDArray[np.uint8]
    label: str
    caption: str

    @cached_property
    def sha256(self) -> str:
        """Of the pixels, so that the same picture in another format is the same."""
        height, width, _ = self.pixels.shape
        return hashlib.sha256(f"{height}x{width}:".encode() + self.pixels.tobytes()).hexdigest()


def read_labelled(source: str, where: str, read: Read = lambda store, key: store.read(key)) -> list[Labelled]:
    """In the order of their names. `read` gives the bytes of an object: whoever counts openings gives its own.

    Raises JobError where there are no images, or one does not decode: a training set is looked at as a whole.
    """
    there = images_at(source, where)
    found = list(_files(there.store, there.files, there.entries, where, read))
    found += [each for entry in there.tables for each in _rows(there.store, entry, where, read)]
    if not found:
        raise JobError(Problem(f"{where} {redact(source)}", "rows with an image", "none"))
    return found


def listing(source: str) -> list[tuple[str, int]]:
    """Names and sizes of what lies there: nothing is opened."""
    return [(entry.name, entry.size_bytes) for entry in find_objects(source)[1]]


def classes_of(images: Sequence[Labelled], where: str) -> list[str]:
    """Their classes in order. Raises JobError where an image has none."""
    if bare := [each.name for each in images if not each.label]:
        hint = "Put images into a folder for each class, or give the table a column label or label_name."
        raise JobError(Problem(where, "a class for each image", f"none for {bare[0]}, and {len(bare) - 1} more", hint))
    return sorted({each.label for each in images})


def _files(
    store: Store, files: Sequence[Entry], entries: Sequence[Entry], where: str, read: Read
) -> Iterator[Labelled]:
    there = {entry.name for entry in entries}
    said = _metadata(store, there, read)
    for entry in files:
        path = PurePosixPath(entry.name)
        own = said.get(entry.name, {})
        text = str(path.with_suffix(".txt"))
        caption = next((str(own[name]) for name in _CAPTIONS if own.get(name) is not None), "")
        if not caption and text in there:
            caption = read(store, text).decode("utf-8", "replace").strip()
        label = own.get("label_name", own.get("label"))
        label = str(label) if label is not None else path.parent.name
        yield Labelled(entry.name, _pixels(_content(store, entry, read), entry.name, where), label, caption)


def _metadata(store: Store, there: set[str], read: Read) -> dict[str, Mapping[str, Any]]:
    """By file, what `metadata.jsonl` of an image folder says."""
    found: dict[str, Mapping[str, Any]] = {}
    for name in sorted(each for each in there if PurePosixPath(each).name == "metadata.jsonl"):
        folder = PurePosixPath(name).parent
        for line in read(store, name).decode("utf-8", "replace").splitlines():
            try:
                row = parse_json(line) if line.strip() else None
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("file_name"), str):
                found[str(folder / row["file_name"])] = row
    return found


def _rows(store: Store, entry: Entry, where: str, read: Read) -> Iterator[Labelled]:
    parquet = pq.ParquetFile(io.BytesIO(read(store, entry.name)))
    names = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
    if "image" not in names:
        raise JobError(Problem(f"{where} {entry.name}", "a column image", ", ".join(parquet.schema_arrow.names)[:200]))
    class_names = _class_names(parquet.schema_arrow.metadata)
    number = 0
    for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=names):
        for row in batch.to_pylist():
            data = row["image"].get("bytes") if isinstance(row["image"], dict) else row["image"]
            name = str(row.get("sample_id") or f"{entry.name}:{number}")
            number += 1
            if isinstance(data, bytes):
                caption = next((str(row[each]) for each in _CAPTIONS if row.get(each) is not None), "")
                yield Labelled(name, _pixels(data, name, where), _label(row, class_names), caption)


def _label(row: Mapping[str, Any], class_names: Sequence[str]) -> str:
    name, number = row.get("label_name"), row.get("label")
    if name is not None:
        return str(name)
    if isinstance(number, int) and 0 <= number < len(class_names):
        return class_names[number]
    return "" if number is None else str(number)


def _class_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Of a `ClassLabel`, as Hugging Face writes it into the schema."""
    try:
        said = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(each) for each in said] if isinstance(said, list) else []


def _content(store: Store, entry: Entry, read: Read) -> bytes:
    return b"" if entry.size_bytes > MAX_BYTES else read(store, entry.name)


def _pixels(data: bytes, name: str, where: str) -> npt.NDArray[np.uint8]:
    try:
        return decode_image(data)
    except ImageError as error:
        raise JobError(Problem(f"{where} {name}", "an image", str(error), "Mend it, or take it away.")) from None
