"""Rows of the source as tables: a block of them, of files in order, without reading what lies before it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import check_widths, whole_parquet
from promptmill.pipeline.prompts.folders import add_folder_columns, folder_columns
from promptmill.pipeline.prompts.formats import as_schema
from promptmill.pipeline.prompts.held import HeldFiles
from promptmill.pipeline.prompts.image_files import image_rows, is_image
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.row_values import values_of

_CACHED_GROUP_BYTES = 128 << 20


class SourceRows:
    """Columns `schema` of all files. Safe to use from several threads; the row group read last is kept, if small."""

    def __init__(self, files: Sequence[SourceFile], output: Store, schema: pa.Schema) -> None:
        self.schema = schema
        self._files = files
        self._held = HeldFiles(output)
        self._ends = list(accumulate(file.rows for file in files))
        self._read = list(schema.names)
        self._lock = threading.Lock()
        self._cached: tuple[tuple[str, int], pa.Table] | None = None

    @property
    def count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def column(self, name: str) -> Iterator[object]:
        """The cells of one column, of every row of the source."""
        for file in self._files:
            yield from self._column_of(file, name)

    def _column_of(self, file: SourceFile, name: str) -> Iterable[object]:
        if is_image(file.name):
            return cells_of(self.read(file, 0, file.rows), name)
        with self._held.open(file) as stream, whole_parquet(file.name):
            there = pq.ParquetFile(stream)
            if name not in there.schema_arrow.names:
                return [folder_columns(file.name).get(name)] * there.metadata.num_rows
            tables = (pa.Table.from_batches([batch]) for batch in there.iter_batches(100_000, columns=[name]))
            return [cell for table in tables for cell in cells_of(table, name)]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[SourceFile, int, int]]:
        """What rows `start` to `stop` are: a file, its first row, and how many."""
        index = bisect_right(self._ends, start)
        while start < stop and index < len(self._files):
            begins = self._ends[index] - self._files[index].rows
            end = min(stop, self._ends[index])
            yield self._files[index], start - begins, end - start
            start, index = end, index + 1

    def read(self, file: SourceFile, first: int, rows: int) -> pa.Table:
        if is_image(file.name):
            return add_folder_columns(image_rows(file, self.schema), file.name, self.schema).select(self.schema.names)
        parts: list[pa.Table] = []
        with self._held.open(file) as stream, whole_parquet(file.name):
            parquet = open_thin(stream)
            if parquet.metadata.num_rows != (file.whole or file.rows):
                raise InputError(
                    Problem(
                        f"prompts.source: {file.name}",
                        f"{file.whole or file.rows} rows, as when the job was planned",
                        f"{parquet.metadata.num_rows}",
                        "Put the file back as it was, or start a new output",
                    )
                )
            begins = 0
            for group in range(parquet.metadata.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                low, high = max(first, begins), min(first + rows, begins + size)
                if low < high:
                    parts.append(self._rows_of_group(parquet, file, group, low - begins, high - low))
                begins += size
            if (found := sum(map(len, parts))) != rows:  # a page may hold fewer than the footer says
                expected, hint = f"{rows} rows from row {first} on", "The file is damaged: put it back as it was"
                raise InputError(Problem(f"prompts.source: {file.name}", expected, f"{found}", hint))
        with whole_parquet(file.name):  # a dictionary may lack what rows ask of it
            table = pa.concat_tables(parts)
            if not table.column_names:  # then Arrow forgets how many rows there are
                table = pa.table({"": pa.nulls(rows)})
            return as_schema(add_folder_columns(table, file.name, self.schema), self.schema)

    def _rows_of_group(self, parquet: pq.ParquetFile, file: SourceFile, group: int, offset: int, rows: int) -> pa.Table:
        with self._lock:
            if self._cached is not None and self._cached[0] == (file.path, group):
                return self._cached[1].slice(offset, rows)
        if parquet.metadata.row_group(group).total_byte_size > _CACHED_GROUP_BYTES or rows > 10_000:
            return _stream_rows(parquet, file.name, group, offset, rows, self._read)
        taken: list[pa.RecordBatch] = []
        total = 0
        # Row groups are read in steps: what a footer claims about decoded size is not to be trusted.
        for batch in parquet.iter_batches(batch_size=1024, row_groups=[group], columns=self._read):
            check_widths(batch, file.name)
            taken.append(batch)
            total += batch.nbytes
            if total > _CACHED_GROUP_BYTES:
                return _stream_rows(parquet, file.name, group, offset, rows, self._read)
        table = _table(taken, parquet)
        with self._lock:
            self._cached = ((file.path, group), table)
        return table.slice(offset, rows)


def open_thin(stream: BinaryIO) -> pq.ParquetFile:
    """Texts as dictionaries, where the file has them: one long value of all rows is held once, and seen to be long."""
    parquet = pq.ParquetFile(stream)
    texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
    thin = pq.ParquetFile(stream, metadata=parquet.metadata, read_dictionary=texts)
    try:
        next(thin.iter_batches(batch_size=1), None)
    except (pa.ArrowException, OSError):  # values that say only in what they differ from the one before have none
        return parquet
    return thin


def _stream_rows(
    parquet: pq.ParquetFile, name: str, group: int, offset: int, rows: int, columns: list[str] | None
) -> pa.Table:
    kept: list[pa.RecordBatch] = []
    begins = 0
    for batch in parquet.iter_batches(batch_size=64, row_groups=[group], columns=columns):
        check_widths(batch, name)
        low, high = max(offset, begins), min(offset + rows, begins + batch.num_rows)
        if low < high:
            kept.append(batch.slice(low - begins, high - low))
        begins += batch.num_rows
        if begins >= offset + rows:
            break
    return _table(kept, parquet)


def _table(batches: list[pa.RecordBatch], parquet: pq.ParquetFile) -> pa.Table:
    return pa.Table.from_batches(batches, None if batches else parquet.schema_arrow)


def cells_of(table: pa.Table, name: str | None) -> list[object]:
    if name is None:
        return [None] * table.num_rows
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())  # broken UTF-8 is the row's own failure, not the shard's
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return values_of(column)
