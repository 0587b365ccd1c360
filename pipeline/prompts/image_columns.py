"""Columns as descriptions of images name them, under the names that the job maps.

Hugging Face's `metadata.jsonl` calls the column of an image `file_name` and it becomes `image`; another that is called
`mask_file_name` becomes `mask`; the caption is `text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from promptmill.schemas.plan import DESCRIPTION
from promptmill.schemas.prompts import Columns, Prompts

_ENDING = "file_name"
_CAPTIONS = ("text", "caption", "txt")


def named_as_mapped(table: pa.Table, prompts: Prompts) -> tuple[pa.Table, list[str]]:
    """The table of a description of images, and what was taken for what; every other table as it is."""
    found = dict(_renamed(table.column_names, prompts))
    if not found:
        return table, []
    table = table.rename_columns([found.get(name, name) for name in table.column_names])
    return table, [f"prompts.source: column {name!r} is taken as {mapped!r}" for name, mapped in found.items()]


def described_name(name: str, columns: list[str], prompts: Prompts) -> str | None:
    """`metadata.description` for a `metadata.parquet` that has such columns: it is read under the mapped names."""
    base = name.rpartition("/")[2]
    is_one = base == "metadata.parquet" and any(_renamed(columns, prompts))
    return name.removesuffix(".parquet") + DESCRIPTION if is_one else None


def _renamed(names: list[str], prompts: Prompts) -> Iterator[tuple[str, str]]:
    if not any(name.endswith(_ENDING) for name in names):
        return
    columns = prompts.columns
    taken = {name for name in columns.named.values() if name in names}
    for mapped in columns.images.values():
        sought = (f"{mapped}_{_ENDING}", *([_ENDING] if mapped == "image" else []))
        there = next((name for name in sought if name in names and name not in taken), None)
        if mapped not in names and there is not None:
            yield there, mapped
    if caption := caption_among(names, prompts, _CAPTIONS):
        yield caption, columns.prompt


def caption_among(names: list[str], prompts: Prompts, sought: Sequence[str]) -> str | None:
    """The column that holds the prompts of a job that says nothing of them, where no column has their name."""
    columns = prompts.columns
    if prompts.templates or columns.prompt in names or columns.prompt != Columns().prompt:
        return None
    mapped = set(columns.named.values())
    return next((name for name in sought if name in names and name not in mapped), None)
