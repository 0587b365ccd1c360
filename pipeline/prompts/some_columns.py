"""Columns of a prompt file without the others, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import whole_parquet
from promptmill.pipeline.prompts.folders import folder_columns
from promptmill.pipeline.prompts.formats import as_schema, is_parquet
from promptmill.pipeline.prompts.image_files import image_rows, is_image
from promptmill.pipeline.prompts.kinds import carried
from promptmill.pipeline.prompts.texts import read_text
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts


def column_tables(store: Store, file: SourceFile, prompts: Prompts, names: list[str]) -> Iterator[pa.Table]:
    """Some columns of a file, a part after the other, in the types that all readers know."""
    if is_image(file.name):
        yield image_rows(file, pa.schema([(name, pa.string()) for name in names]))
    elif is_parquet(file.name):
        with whole_parquet(file.name), store.open(file.name) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=100_000, columns=names):
                table = pa.Table.from_batches([batch])
                plain = pa.schema([field.with_type(carried(field.type)) for field in table.schema])
                yield _with_folders(as_schema(table, plain), file, names, batch.num_rows)
    else:
        table = read_text(store, file.name, prompts).table
        yield _with_folders(table, file, names, table.num_rows)


def _with_folders(table: pa.Table, file: SourceFile, names: list[str], rows: int) -> pa.Table:
    """These columns, whether the file has them or its folders say them; a table without any has no rows either."""
    said = folder_columns(file.name)
    there = set(table.column_names)
    return pa.table(
        {
            name: table.column(name) if name in there else pa.array([said.get(name)] * rows, pa.string())
            for name in names
        }
    )
