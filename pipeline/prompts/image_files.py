"""Image files as a source: each is a source file of its own, with one row, so that a folder may grow anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from promptmill.pipeline.prompts.columns import OpenedFile
from promptmill.pipeline.prompts.formats import LFS_BYTES, refuse_lfs
from promptmill.pipeline.prompts.held import unchanged
from promptmill.pipeline.storage.digests import file_digest
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts

IMAGE_FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".jp2", ".ppm", ".tga")
FILE_NAME = "file_name"
"""Path of the image relative to the source, as Hugging Face's `metadata.jsonl` has it; `image` is another word."""
LABEL = "label"
"""The folder that an image lies in."""
_MAP = "Map `columns: {image: file_name}`"
_NO_TEXT = (
    'Write metadata.jsonl beside the images, a line an image, such as {"file_name": "a.png", "prompt": "…"}, or say '
    'what is drawn from each: `prompts.templates: ["an oil painting"]`'
)


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_FORMATS)


def check_images(prompts: Prompts, names: Sequence[str]) -> None:
    """Raises InputError where the job does not say what the images are for, or what is drawn from them."""
    where = f"prompts.source: {names[0]}"
    if not prompts.columns.images:
        expected = "a column for the images, in prompts.columns"
        raise InputError(Problem(where, expected, f"{len(names):,} images and none", f"{_MAP}. {_NO_TEXT}"))
    if not prompts.templates:
        raise InputError(Problem(where, "a prompt for each image", f"{len(names):,} images alone", _NO_TEXT))


def image_schema(names: Sequence[str], prompts: Prompts) -> pa.Schema:
    """`label` is a column where images lie in folders below the source."""
    asked = [name for name in ("image",) if name in prompts.columns.images.values()]
    labels = [LABEL] if any(image_label(name) for name in names) else []
    return pa.schema([(name, pa.string()) for name in (FILE_NAME, *asked, *labels)])


def open_image_file(store: Store, entry: Entry, schema: pa.Schema) -> OpenedFile:
    """Hashed whole on disk; of a remote one the store's word counts, and nothing is read."""
    if entry.size_bytes < LFS_BYTES:
        refuse_lfs(store.read(entry.name), entry.name)
    path = store.local_path(entry.name)
    with unchanged(entry.name):
        digest = None if path is None else file_digest(path)
    file = SourceFile(entry.name, absolute_url(f"{store.url.rstrip('/')}/{entry.name}"), entry.size_bytes, 1)
    return OpenedFile(replace(file, digest=digest, version=store.content_version(entry)), schema, judged=pa.table({}))


def image_rows(file: SourceFile, schema: pa.Schema) -> pa.Table:
    """The one row of a file, without what its folders say in Hive's way."""
    known = {FILE_NAME: file.name, "image": file.name, LABEL: image_label(file.name)}
    there = [field for field in schema if field.name in known]
    return pa.table({field.name: pa.array([known[field.name]], field.type) for field in there})


def image_label(name: str) -> str | None:
    """The innermost folder that an image lies in, but for those of a partition."""
    return next((part for part in reversed(name.split("/")[:-1]) if "=" not in part), None)
