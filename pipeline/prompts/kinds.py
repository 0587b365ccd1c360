"""Arrow's types as tools write them, and as they are carried: one table of what is the same kind of thing.

pandas 3 writes `large_string`, DataFusion and delta-rs `string_view`, DuckDB `string`, categories come as dictionaries,
ids as `arrow.uuid`. All of them are text.
"""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_TIME_UNITS = ("s", "ms", "us", "ns")


def carried(kind: pa.DataType) -> pa.DataType:
    """The type in which a column is carried into records; itself for every type that all readers know.

    Views become what they view, extension types what they store (a UUID its text), a map a list of key and value:
    Hugging Face `datasets` 5.2 loads no file that has a map, or decimals of 32 or 64 bits.
    """
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.BaseExtensionType):
        return carried(kind.storage_type)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", carried(kind.key_type)), ("value", carried(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(carried(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(carried(kind.value_type)))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(carried(kind.value_type)))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(carried(kind.value_type)), kind.list_size)
    return kind


def has_map(kind: pa.DataType) -> bool:
    return bool(pa.types.is_map(kind)) or any(has_map(kind.field(i).type) for i in range(kind.num_fields))


def is_image_struct(kind: pa.DataType) -> bool:
    """As Hugging Face `datasets` writes an image: its bytes, and the name of a file."""
    return bool(pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind})


def is_media(kind: pa.DataType) -> bool:
    """Whether Hugging Face `datasets` keeps images, sounds or videos so: a struct of bytes and path, or lists of it."""
    kind = carried(kind)
    return is_image_struct(kind) or any(is_media(kind.field(i).type) for i in range(kind.num_fields))


def is_bytes(kind: pa.DataType) -> bool:
    kind = carried(kind)
    return is_binary(kind) or bool(pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind))


_MEDIA_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"fLaC", b"OggS", b"ID3")
_MEDIA_BOXES = (b"ftyp", b"JXL ")
"""Behind four bytes of length: AVIF, HEIC, MP4, JPEG XL."""


def looks_like_media(value: bytes | None) -> bool:
    if value is None:
        return False
    is_bmp = value.startswith(b"BM") and value[6:10] == bytes(4)
    return value.startswith(_MEDIA_STARTS) or value[4:8] in _MEDIA_BOXES or is_bmp


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else carried(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def common(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type that holds all values of both without loss, None where there is none."""
    a, b = carried(_decoded(first)), carried(_decoded(second))
    if a == b:
        return a
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    if is_text(a) and is_text(b):
        return pa.large_string()
    if is_bytes(a) and is_bytes(b):
        return pa.large_binary()
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        return _common_integer(a, b)
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    if pa.types.is_decimal(a) and pa.types.is_decimal(b):
        return _common_decimal(a, b)
    if pa.types.is_date(a) and pa.types.is_date(b):
        return pa.date32()
    if pa.types.is_timestamp(a) and pa.types.is_timestamp(b) and a.tz == b.tz:
        return pa.timestamp(max(a.unit, b.unit, key=_TIME_UNITS.index), a.tz)
    return _common_nested(a, b)


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _common_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return max(a, b, key=lambda kind: kind.bit_width)
    unsigned = a if pa.types.is_unsigned_integer(a) else b
    return None if unsigned == pa.uint64() else pa.int64()


def _common_decimal(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    scale = max(a.scale, b.scale)
    digits = scale + max(a.precision - a.scale, b.precision - b.scale)
    return None if digits > 76 else pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _common_nested(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        names = [field.name for field in a]
        if names != [field.name for field in b]:
            return None
        kinds = [common(mine.type, their.type) for mine, their in zip(a, b, strict=True)]
        return None if None in kinds else pa.struct(list(zip(names, kinds, strict=True)))
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_list(a) for is_list in lists) and any(is_list(b) for is_list in lists):
        value = common(a.value_type, b.value_type)
        return None if value is None else pa.large_list(value)
    return None


def as_kind(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in a type that `carried` or `common` gave.

    Raises pyarrow.ArrowInvalid where a value does not fit, ArrowIndexError for one that its dictionary does not have.
    """
    _check_indices(column)
    if column.type == kind:
        return column
    plain = carried(_decoded(column.type))
    chunks = [_plain(chunk, plain) for chunk in column.chunks]
    return pa.chunked_array(chunks, plain).cast(kind)


def _check_indices(column: pa.ChunkedArray) -> None:
    """Arrow reads such a file, and raises where a value is asked for, or gives what lies behind the dictionary."""
    for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
        ends = pc.min_max(chunk.indices).as_py()
        if ends["max"] is not None and not 0 <= ends["min"] <= ends["max"] < len(chunk.dictionary):
            raise pa.ArrowIndexError(f"value {ends['max']} of a dictionary of {len(chunk.dictionary)}")


def _plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if isinstance(array, pa.DictionaryArray):
        return _plain(array.dictionary_decode(), kind)
    if isinstance(array.type, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in map(_uuid, array.storage)], pa.string())
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage, kind)
    if pa.types.is_nested(kind) and not _casts(array.type, kind):
        return pa.array([_value(value, kind) for value in array.to_pylist()], kind)
    return array.cast(kind)


def _uuid(value: pa.Scalar) -> uuid.UUID | None:
    return None if value.as_py() is None else uuid.UUID(bytes=value.as_py())


def _value(value: Any, kind: pa.DataType) -> Any:
    """A Python value as one of `kind`: UUIDs as text, the pairs of a map as structs."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if value is not None and pa.types.is_struct(kind):
        fields = value if isinstance(value, dict) else dict(zip(("key", "value"), value, strict=True))
        return {field.name: _value(fields[field.name], field.type) for field in kind}
    if value is not None and pa.types.is_nested(kind):
        return [_value(each, kind.value_type) for each in value]
    return value


def _casts(mine: pa.DataType, kind: pa.DataType) -> bool:
    """Whether Arrow casts what is inside too: it casts no extension types, and breaks empty list views (26.0)."""
    view = pa.types.is_list_view(mine) or pa.types.is_large_list_view(mine)
    by_hand = isinstance(mine, pa.BaseExtensionType) or view
    return not by_hand and all(_casts(mine.field(i).type, kind) for i in range(mine.num_fields))
