"""Copies of prompts below the output, so that every shard reads the same rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import whole_parquet
from promptmill.pipeline.prompts.first_look import first_look
from promptmill.pipeline.prompts.folders import add_folder_columns
from promptmill.pipeline.prompts.formats import (
    as_schema,
    file_suffix,
    is_parquet,
    read_text_format,
    read_unpacked,
)
from promptmill.pipeline.prompts.held import changed
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.source import (
    made_files,
    source_file,
)
from promptmill.pipeline.prompts.texts import hash_of, read_text
from promptmill.pipeline.storage.digests import ChangedMeanwhileError, digest_of
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.identity import digest
from promptmill.schemas.plan import STAGED, SourceFile
from promptmill.schemas.prompts import Columns, Prompts
from promptmill.schemas.urls import split_query


def stage(
    files: Sequence[SourceFile], prompts: Prompts, output: Store, schema: pa.Schema | None = None
) -> tuple[SourceFile, ...]:
    """The files as workers read them: Parquet and images stay where they are, all else is copied as Parquet below the
    output.

    Parquet behind a URL with a query is copied too: workers are told no secrets. Raises InputError where a file is no
    longer what was planned, or cannot be read with the `schema` of a dataset that is there already.
    """
    if prompts.suite is None and prompts.source is not None:
        query = split_query(prompts.source or "")[1]
        return tuple(
            file
            if is_image(file.name) or (is_parquet(file.name) and not query and file.whole is None)
            else _staged(_rooted(file, prompts.columns), _rows_of(file, prompts, query), output, schema)
            for file in files
        )
    found = {source_file(each): each.table for each in made_files(prompts, output.url)}
    for file in files:
        if file not in found:
            raise changed(file)
    return tuple(_staged(file, found[file], output, schema) for file in files)


def _rooted(file: SourceFile, columns: Columns) -> SourceFile:
    """With the folder that its rows name images relative to, where they do."""
    return replace(file, folder=file.path.rpartition("/")[0]) if columns.images else file


def read_whole(file: SourceFile, prompts: Prompts) -> pa.Table:
    """Raises InputError where the file is no longer what was planned."""
    return _read_again(replace(file, first=0, whole=None), prompts, split_query(prompts.source or "")[1])


def _rows_of(file: SourceFile, prompts: Prompts, query: str) -> pa.Table:
    table = _read_again(file, prompts, query)
    return table if file.whole is None else table.slice(file.first, file.rows)


def _read_again(file: SourceFile, prompts: Prompts, query: str) -> pa.Table:
    folder, _, name = file.path.rpartition("/")
    store = Store(folder, query=query)
    if not is_parquet(file.name):
        rows = file.whole or file.rows
        try:
            table = read_text(store, name, prompts, planned=file).table
        except ChangedMeanwhileError:
            raise changed(file) from None
        return table if table.num_rows == rows else _as_before(store, file, prompts, rows)
    data = read_unpacked(store, name)
    with whole_parquet(file.name), first_look() as look:
        another = file.version is not None and store.content_version(store.entry(name)) != file.version
        another = another or (file.digest is not None and _digest(data) != file.digest)
        if another or look.footer(data).etag != file.etag:
            raise changed(file)
        return pq.ParquetFile(pa.BufferReader(data)).read()


def _as_before(store: Store, file: SourceFile, prompts: Prompts, rows: int) -> pa.Table:
    """In the `rows` that an earlier version read."""
    data = read_unpacked(store, file.path.rpartition("/")[2])
    if hash_of(data) != file.etag:
        raise changed(file)
    return read_text_format(data, file_suffix(file.name), file.name, prompts, rows)[0]


def _digest(data: bytes) -> str:
    return digest_of(lambda: io.BytesIO(data), len(data))


def _staged(file: SourceFile, table: pa.Table, output: Store, schema: pa.Schema | None) -> SourceFile:
    if schema is not None:
        try:
            as_schema(add_folder_columns(table, file.name, schema), schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            expected = "values of the types that the columns of the dataset have"
            hint = "Give these prompts a job and an output of their own"
            raise InputError(Problem(f"prompts.source: {file.name}", expected, f"{error}", hint)) from None
    part = [] if file.whole is None else [file.first, file.rows]
    name = digest([file.name, file.etag, str(table.schema), *part])[:16]  # types may be told apart otherwise one day
    return stage_table(table, replace(file, whole=None), name, output)


def stage_table(table: pa.Table, file: SourceFile, name: str, output: Store) -> SourceFile:
    """The file as it is read from the copy; the same `name` must mean the same content.

    A copy that is there and holds something else is written anew: two versions of Arrow pack the same rows into other
    bytes, so the rows are what is compared.
    """
    key = f"inputs/{name}.parquet"
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=50_000)
    data = sink.getvalue()
    if not output.create(key, data):
        there = output.read(key)
        if there != data and _holds(there, table):
            data = there
        elif there != data:
            output.put(key, data)
    digest = _digest(data)
    version = output.content_version(output.entry(key))
    return replace(file, path=f"{STAGED}{key}", digest=digest, version=version)


def _holds(data: bytes, table: pa.Table) -> bool:
    try:
        return bool(pq.read_table(pa.BufferReader(data)).equals(table))
    except (pa.ArrowException, OSError):
        return False
