"""CSV and TSV as Arrow tables: a column has a type only where the type can say all of its text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv

from promptmill.pipeline.display import first_line
from promptmill.pipeline.prompts.dialects import Dialect, Separated, as_plain_csv, find_dialect, refuse_row
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.prompts import Columns, Prompts


def read_separated(
    text: str, tabs: bool, where: str, prompts: Prompts, as_usual: bool = False
) -> tuple[pa.Table, list[str]]:
    """Rows, and how they were found to be written. An empty field is null, a quoted one an empty text.

    `7` is an integer and `1.5` a float; `007`, `1.10`, dates and what else would be written in another way is text.
    Raises InputError, which names the line.
    """
    columns = prompts.columns
    if as_usual:  # as earlier versions read all
        separated = Separated(text, Dialect("\t", None) if tabs else Dialect(","))
    else:
        separated = find_dialect(text, tabs, columns.prompt, prompts.format, where)
    dialect, rows = separated.dialect, separated.text
    if not dialect.is_plain:
        dialect, rows = Dialect(","), as_plain_csv(rows, dialect)
    try:
        table = _typed(rows.encode(), dialect, where, columns)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        refuse_row(separated, where, first_line(error))
        got, hint = first_line(error), "Quote fields that hold the separator"
        raise InputError(Problem(where, "the same number of fields in every row", got, hint)) from None
    return table, list(separated.notices)


def _typed(data: bytes, dialect: Dialect, where: str, columns: Columns) -> pa.Table:
    texts = [columns.prompt, columns.id, columns.negative_prompt, columns.caption, columns.seed]
    table = _rows(data, dialect, [name for name in texts if name])
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(Problem(where, "each column name once", f"columns {table.column_names}"))
    if columns.seed in table.column_names:
        place = table.column_names.index(columns.seed)
        table = table.set_column(place, columns.seed, _numbers(table.column(place)))
    plain = {pa.string(), pa.null()}
    if plain.issuperset(table.schema.types):
        return table
    written = _rows(data, dialect, table.column_names)
    for i, field in enumerate(table.schema):
        if field.type not in plain and field.name != columns.seed and not _says_all(table.column(i), written.column(i)):
            table = table.set_column(i, field.name, written.column(i))
    return table


def _rows(data: bytes, dialect: Dialect, texts: Sequence[str]) -> pa.Table:
    parse = pa.csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=dialect.quote is not None,
    )
    # The whole file as one block, so that a type is inferred from every row and not from the first megabyte.
    size = max(1 << 20, min(len(data) + 1, (1 << 31) - 1))
    read = pa.csv.ReadOptions(block_size=size, use_threads=False)  # threads lose the row number of an error
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(texts, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    return pa.csv.read_csv(pa.BufferReader(data), read, parse, convert)


def _numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Seeds: integers of 64 bits exactly, with or without sign; as text where they are neither or both.

    A float has 53 bits, and Arrow takes an integer for one that is larger than 2^63.
    """
    for kind in (pa.int64(), pa.uint64()):
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    return texts


def _says_all(values: pa.ChunkedArray, texts: pa.ChunkedArray) -> bool:
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        return bool(values.cast(pa.string()).equals(texts))
    return bool(pa.types.is_floating(values.type)) and all(
        value is None or (math.isfinite(value) and repr(value) == text)
        for value, text in zip(values.to_pylist(), texts.to_pylist(), strict=True)
    )
