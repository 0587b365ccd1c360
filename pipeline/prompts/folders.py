"""Columns that stand in the names of folders, as Hive, Spark and DuckDB write them: `split=train/lang=en/a.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from promptmill.schemas.plan import SourceFile

_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_columns(name: str) -> dict[str, str | None]:
    """Of a file by its name relative to the source. All values are text: 007 stays 007 when more files come."""
    parts = (part.partition("=") for part in name.split("/")[:-1])
    return {unquote(key): None if value == _NULL else unquote(value) for key, mark, value in parts if key and mark}


def with_folder_columns(schema: pa.Schema, files: Sequence[SourceFile]) -> pa.Schema:
    """The schema and what the folders say besides; a column that the files have themselves is theirs."""
    names = dict.fromkeys(name for file in files for name in folder_columns(file.name))
    taken = {name.lower() for name in schema.names}
    return pa.schema([*schema, *(pa.field(name, pa.string()) for name in names if name.lower() not in taken)])


def add_folder_columns(table: pa.Table, name: str, schema: pa.Schema) -> pa.Table:
    """Rows of one file, with those columns of the schema that its folders say, and null where other files' do."""
    said = folder_columns(name)
    for field in schema:
        if field.name not in table.column_names and pa.types.is_string(field.type):
            table = table.append_column(field, pa.array([said.get(field.name)] * table.num_rows, pa.string()))
    return table
