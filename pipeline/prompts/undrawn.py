"""Images that lie beside descriptions of images, and that no line of these names: nothing is drawn from them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from promptmill.pipeline.prompts.columns import OpenedFile
from promptmill.pipeline.prompts.kinds import is_text
from promptmill.pipeline.prompts.some_columns import column_tables
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import DESCRIPTION
from promptmill.schemas.prompts import Prompts

_DESCRIPTIONS: Final = frozenset({"metadata.jsonl", "metadata.csv", "metadata.parquet", f"metadata{DESCRIPTION}"})
_SHOWN: Final = 3


def undrawn(store: Store, opened: Sequence[OpenedFile], images: Sequence[str], prompts: Prompts) -> list[str]:
    """What is said of them."""
    named: set[str] = set()
    folders: list[str] = []
    for each in opened:
        folder, _, base = each.file.name.rpartition("/")
        columns = [name for name in prompts.columns.images.values() if _is_path(each.schema, name)]
        if base in _DESCRIPTIONS and columns:
            folders.append(f"{folder}/".lstrip("/"))
            for table in column_tables(store, each.file, prompts, columns):
                cells = (cell for name in columns for cell in table.column(name).to_pylist() if cell)
                named |= {posixpath.normpath(posixpath.join(folder, str(cell))) for cell in cells}
    alone = [image for image in images if image not in named and any(image.startswith(folder) for folder in folders)]
    if not alone:
        return []
    some = ", ".join(alone[:_SHOWN]) + (" …" if len(alone) > _SHOWN else "")
    return [f"prompts.source: {len(alone):,} images have no line in metadata, and are not drawn: {some}"]


def _is_path(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and is_text(schema.field(name).type)
