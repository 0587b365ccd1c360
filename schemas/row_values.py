"""Rows as Python values, also where Python has none for them: a time in the year 30000, a zone that nobody knows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """As `to_pylist`; what Python cannot hold comes as the text that Arrow shows it by."""
    columns = {name: values_of(table.column(name)) for name in table.column_names}
    return [{name: values[row] for name, values in columns.items()} for row in range(table.num_rows)]


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Of one column, as `rows_of`. Raises UnicodeDecodeError for text that is none."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError):
        return [_value(column.slice(row, 1)) for row in range(len(column))]


def _value(cell: pa.ChunkedArray) -> Any:
    try:
        return cell[0].as_py()
    except (OverflowError, ValueError):
        return _text(cell)


def _text(cell: pa.ChunkedArray) -> str:
    kind = cell.type
    if pa.types.is_timestamp(kind):
        cell = cell.cast(pa.timestamp(kind.unit))  # the moment in UTC: of the zone nothing is known
    try:
        return str(cell.cast(pa.string())[0].as_py())
    except pa.ArrowException:
        return " ".join(cell.chunk(0).to_string().split())
