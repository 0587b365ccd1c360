"""A selection in place of a table of prompts: the samples that it keeps, out of the dataset that it lies in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.display import redact
from promptmill.pipeline.prompts.bombs import check_strangers, whole_parquet
from promptmill.pipeline.prompts.formats import as_schema
from promptmill.pipeline.prompts.kinds import carried, is_media
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import DESCRIPTION, SELECTION
from promptmill.schemas.records import VIEW

_FILE: Final = ".parquet"
_READ_ROWS: Final = 64
_MOST_BYTES: Final = 1 << 30
"""Of a table that is copied below the output: 700 images of 1024×1024 in PNG."""


def is_view(schema: pa.Schema) -> bool:
    return bool(schema.names == VIEW.names)


def shown_name(key: str) -> str:
    """`best.selection` for `best.parquet`: what is read for it is not what the file holds."""
    return key.removesuffix(_FILE) + SELECTION


def view_key(name: str) -> str:
    """Also of a description of images, which is read in the place of its file too."""
    ending = next((each for each in (SELECTION, DESCRIPTION) if name.endswith(each)), None)
    return name if ending is None else name.removesuffix(ending) + _FILE


@dataclass(frozen=True)
class View:
    """`kept` are row and sample id by object of the `dataset`, in the order of the view, which is called `name`."""

    name: str
    dataset: Store
    kept: dict[str, list[tuple[int, str]]]

    @property
    def sample_ids(self) -> frozenset[str]:
        return frozenset(sample for rows in self.kept.values() for _, sample in rows)

    def check(self) -> None:
        """Raises InputError where the objects are not there, or are no whole Parquet files."""
        entries = []
        for key in self.kept:
            entry = self.dataset.entry(key)
            if entry is None:
                hint = "A selection is read in the dataset that it was made in"
                where = f"prompts.source: {self.name}"
                raise InputError(Problem(where, f"{redact(self.dataset.url)}/{key}", "nothing there", hint))
            entries.append(entry)
        check_strangers(self.dataset, entries)


def open_view(store: Store, data: bytes, name: str) -> View:
    """`data` are the bytes of a view in the folder `selections` of the dataset, which is that of the `store`.

    Raises InputError where it keeps nothing, or names objects that a dataset does not have.
    """
    with whole_parquet(name):
        rows = pq.read_table(pa.BufferReader(data), schema=VIEW).to_pylist()
    kept: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if row["reason"] is None:
            kept[f"{row['object']}"].append((int(row["row"] or 0), f"{row['sample_id']}"))
    where = f"prompts.source: {name}"
    if not kept:
        raise InputError(Problem(where, "a selection that keeps something", f"{len(rows)} samples, none of them kept"))
    if strange := [key for key in kept if ".." in key or not key.startswith(("data/part-", "rejects/part-"))]:
        raise InputError(Problem(where, "objects of a dataset", repr(strange[0])))
    return View(name, Store(store.url.rstrip("/").rpartition("/")[0] or "/"), dict(kept))


def selected_rows(view: View, images: Sequence[str]) -> pa.Table:
    """The rows of what the view keeps, with those of their `images` columns that are asked for.

    Raises InputError where an object is not there, or holds other samples than the view says.
    """
    view.check()
    parts: list[pa.Table] = []
    size = 0
    for part in (part for key in view.kept for part in _rows_of(view, key, images)):
        parts.append(part)
        size += part.nbytes
        if size > _MOST_BYTES:
            where, hint = f"prompts.source: {view.name}", "Select fewer, or map no column to images"
            raise InputError(Problem(where, f"images of at most {_MOST_BYTES >> 30} GiB together", "more", hint))
    return pa.concat_tables(parts, promote_options="permissive")


def _rows_of(view: View, key: str, images: Sequence[str]) -> Iterator[pa.Table]:
    wanted = dict(view.kept[key])
    found: list[str] = []
    with whole_parquet(key), view.dataset.open(key) as stream:
        parquet = pq.ParquetFile(stream)
        fields = [each for each in parquet.schema_arrow if each.name in images or not is_media(each.type)]
        plain = pa.schema([each.with_type(carried(each.type)) for each in fields])
        start = 0
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=plain.names):
            places = [row - start for row in wanted if start <= row < start + batch.num_rows]
            if places:
                part = as_schema(pa.Table.from_batches([batch]).take(np.array(places)), plain)
                found += part.column("sample_id").to_pylist() if "sample_id" in plain.names else []
                yield part
            start += batch.num_rows
    if Counter(found) != Counter(wanted.values()):
        hint = "Make the selection again: `promptmill select`"
        raise InputError(Problem(f"prompts.source: {view.name}", f"its samples in {key}", "others", hint))
