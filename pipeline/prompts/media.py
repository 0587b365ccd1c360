"""Columns of images and sounds that nobody mapped: they would come into every record of their prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import whole_parquet
from promptmill.pipeline.prompts.formats import is_parquet
from promptmill.pipeline.prompts.kinds import as_kind, carried, is_bytes, is_media, looks_like_media
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts

_ROWS_LOOKED_AT = 16


def without_media(
    store: Store, files: Sequence[SourceFile], schema: pa.Schema, prompts: Prompts
) -> tuple[pa.Schema, list[str]]:
    """The schema without them, and what is said about it. Raises InputError where `prompts.carry` names no column."""
    where = "prompts.carry"
    if unknown := [name for name in prompts.carry if name not in schema.names]:
        got = ", ".join(map(repr, unknown))
        raise InputError(Problem(where, f"columns of the source: {', '.join(map(repr, schema.names))}", got))
    spared = {*prompts.mapped.named.values(), *prompts.carry}
    left = [field for field in schema if field.name not in spared]
    media = {field.name for field in left if is_media(field.type)}
    unsure = [field.name for field in left if is_bytes(field.type)]
    media |= set(_looked_into(store, files, unsure)) if unsure else set()
    notices = [
        f"column {name!r} holds images or sounds and is not carried; prompts.carry: [{name}] asks for it"
        for name in schema.names
        if name in media
    ]
    return pa.schema([field for field in schema if field.name not in media]), notices


def _looked_into(store: Store, files: Sequence[SourceFile], names: list[str]) -> Iterator[str]:
    """Those of the columns whose first value begins as an image does."""
    for name in names:
        values = (value for file in files if is_parquet(file.name) for value in _first_values(store, file, name))
        if looks_like_media(next((value for value in values if value), None)):
            yield name


def _first_values(store: Store, file: SourceFile, name: str) -> list[bytes | None]:
    with whole_parquet(file.name), store.open(file.name) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=_ROWS_LOOKED_AT, columns=[name]):
            column = pa.chunked_array([batch.column(0)])
            plain = carried(column.type)
            kind = pa.large_binary() if not pa.types.is_dictionary(plain) else plain.value_type
            values: list[bytes | None] = as_kind(column, kind).to_pylist()
            return values
    return []
