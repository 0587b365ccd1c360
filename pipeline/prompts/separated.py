"""CSV and TSV as Arrow tables: a column has a type only where the type can say all of its text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv

from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.job import Columns


def read_separated(data: bytes, tabs: bool, where: str, columns: Columns) -> pa.Table:
    """Rows of valid UTF-8. An empty field is null, a quoted one an empty text.

    `7` is an integer and `1.5` a float; `007`, `1.10`, dates and what else would be written in another way is text.
    Raises InputError, which names the row where Arrow does.
    """
    # IANA's text/tab-separated-values has no quoting: a quotation mark in it is text.
    parse = pa.csv.ParseOptions(
        delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs
    )
    # The whole file as one block, so that a type is inferred from every row and not from the first megabyte.
    size = max(1 << 20, min(len(data) + 1, (1 << 31) - 1))
    read = pa.csv.ReadOptions(block_size=size, use_threads=False)  # threads lose the row number of an error

    def rows(texts: Sequence[str]) -> pa.Table:
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(texts, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        return pa.csv.read_csv(pa.BufferReader(data), read, parse, convert)

    try:
        table = rows([name for name in (columns.prompt, columns.id, columns.negative_prompt, columns.caption) if name])
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise InputError(
            Problem(
                where,
                "the same number of fields in every row",
                str(error).splitlines()[0],
                "Quote fields that hold the separator",
            )
        ) from None
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(Problem(where, "each column name once", f"columns {table.column_names}"))
    plain = {pa.string(), pa.null()}
    if plain.issuperset(table.schema.types):
        return table
    written = rows(table.column_names)
    for i, field in enumerate(table.schema):
        if field.type not in plain and field.name != columns.seed and not _says_all(table.column(i), written.column(i)):
            table = table.set_column(i, field.name, written.column(i))
    return table


def _says_all(values: pa.ChunkedArray, texts: pa.ChunkedArray) -> bool:
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return bool(values.cast(pa.string()).equals(texts))
    return bool(pa.types.is_floating(values.type)) and all(
        value is None or (math.isfinite(value) and repr(value) == text)
        for value, text in zip(values.to_pylist(), texts.to_pylist(), strict=True)
    )
