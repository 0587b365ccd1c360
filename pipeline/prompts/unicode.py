"""Text that is no valid Unicode: Parquet files carry broken UTF-8, and JSON can write half a surrogate pair."""

from __future__ import annotations

import pyarrow as pa


def mend(table: pa.Table) -> tuple[pa.Table, frozenset[int]]:
    """The table with U+FFFD for each byte that is no UTF-8, and the rows that had such bytes, from 0."""
    broken: set[int] = set()
    for i, field in enumerate(table.schema):
        column = table.column(i)
        if not _holds_text(field.type) or _is_valid(column):
            continue
        # take: a slice of a list is valid only where the whole list is.
        array = pa.concat_arrays(column.chunks).take(pa.array(range(len(column)), pa.int64()))
        plain = array.dictionary_decode() if pa.types.is_dictionary(field.type) else array
        rows = {row for row in range(len(plain)) if not _is_valid(plain.take(pa.array([row])))}
        mended = _mended(array)
        if not _is_valid(mended):  # inside a map, say
            mended = array.take(pa.array([None if row in rows else row for row in range(len(array))], pa.int64()))
        table = table.set_column(i, field, mended)
        broken |= rows
    return table, frozenset(broken)


def _is_valid(column: pa.Array | pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return _is_text(kind) or any(_holds_text(kind.field(i).type) for i in range(kind.num_fields))


def _mended(array: pa.Array) -> pa.Array:
    if _is_text(array.type):
        values = array.cast(pa.large_binary()).to_pylist()
        return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], array.type)
    if isinstance(array, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(array.indices, _mended(array.dictionary))
    if isinstance(array, pa.StructArray):
        children = [_mended(array.field(i)) for i in range(array.type.num_fields)]
        return pa.StructArray.from_arrays(children, fields=list(array.type), mask=array.is_null())
    if isinstance(array, (pa.ListArray, pa.LargeListArray)) and not isinstance(array, pa.MapArray):
        return type(array).from_arrays(array.offsets, _mended(array.values), type=array.type, mask=array.is_null())
    return array
