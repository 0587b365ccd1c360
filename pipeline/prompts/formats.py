"""CSV, TSV, JSON lines and plain text as Arrow tables, one row a prompt."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from promptmill.pipeline.prompts.kinds import as_kind, carried
from promptmill.pipeline.prompts.separated import read_separated
from promptmill.pipeline.prompts.unpacking import UNPACK, unpack
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.job import Columns

PARQUET_FORMATS = (".parquet", ".pq")
TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def file_suffix(name: str) -> str:
    """In lower case, without that of a compression: `.csv` for `A.CSV.gz`."""
    base = name.rsplit("/", 1)[-1].lower()
    for packed in UNPACK:
        base = base.removesuffix(packed)
    return "." + base.rpartition(".")[2] if "." in base else ""


def is_parquet(name: str) -> bool:
    return file_suffix(name) in PARQUET_FORMATS


def read_unpacked(store: Store, name: str) -> bytes:
    """What is in the object, unpacked where its name ends in .gz, .bz2, .xz or .zst.

    Raises InputError where that cannot be unpacked, StorageError where the object cannot be read.
    """
    data = store.read(name)
    packed = next((suffix for suffix in UNPACK if name.lower().endswith(suffix)), None)
    if packed is None:
        return data
    try:
        return unpack(data, packed)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:  # each library has its own
        raise InputError(
            Problem(
                f"prompts.source: {name}",
                f"a whole file packed as its ending {packed} says",
                f"{error}",
                "Pack it again: the copy may be cut short",
            )
        ) from None


def read_text_format(data: bytes, suffix: str, name: str, columns: Columns) -> tuple[pa.Table, list[str]]:
    """The rows, and notices about columns that could not keep their types.

    Text is UTF-8, with or without byte order mark. Raises InputError naming the line.
    """
    where = f"prompts.source: {name}"
    data = _unmarked(data, where)
    if not data.strip():
        raise InputError(Problem(where, "at least one prompt", "an empty file"))
    if suffix in (".csv", ".tsv"):
        _decode(data, where)  # names the line, which Arrow does not
        return read_separated(data, suffix == ".tsv", where, columns), []
    if suffix == ".txt":
        lines = _decode(data, where).removesuffix("\n").split("\n")
        return pa.table({columns.prompt: pa.array([line.removesuffix("\r") for line in lines], pa.string())}), []
    return _read_json_lines(_decode(data, where), where)


def _unmarked(data: bytes, where: str) -> bytes:
    if data.startswith(_UTF16_MARKS):
        raise InputError(Problem(where, "UTF-8 text", "UTF-16", "Save it as UTF-8"))
    return data.removeprefix(b"\xef\xbb\xbf")


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 without its byte order mark. Raises InputError naming the line."""
    return _decode(_unmarked(data, where), where)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            Problem(f"{where}:{line}", "UTF-8 text", f"byte 0x{data[error.start]:02x}", "Save it as UTF-8")
        ) from None


def _read_json_lines(text: str, where: str) -> tuple[pa.Table, list[str]]:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(Problem(f"{where}:{number}", "one JSON object", f"{error}")) from None
        if not isinstance(row, dict):
            raise InputError(Problem(f"{where}:{number}", "one JSON object", f"{type(row).__name__}"))
        rows.append(row)
        numbers.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    notices: list[str] = []
    arrays = []
    try:
        for name in names:
            array, changed = to_arrow([row.get(name) for row in rows])
            arrays.append(array)
            if changed:
                notices.append(f"{where}: column {name!r} mixes types, or is empty objects; these are carried as text")
        return pa.table(dict(zip(names, arrays, strict=True))), notices
    except UnicodeEncodeError as error:  # values with a lone surrogate fail by themselves, a column cannot
        key = json.dumps(error.object)
        number = next(number for number, row in zip(numbers, rows, strict=True) if key in json.dumps(row))
        raise InputError(Problem(f"{where}:{number}", "keys in valid Unicode", f"{key}, half a character")) from None


def to_arrow(values: Sequence[Any]) -> tuple[pa.Array, bool]:
    """An Arrow array of JSON values, and whether something had to become text because its type is not one.

    GenEval's `position: ["left of", 0]` becomes `["left of", "0"]`, and the structs around it stay structs; a struct
    that is empty in every row, which Parquet cannot hold, becomes `"{}"`. Raises UnicodeEncodeError for broken keys.
    """
    try:
        array = pa.array(values, from_pandas=False)
        if not _has_empty_struct(array.type):
            return array, False
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    present = [value for value in values if value is not None]
    if all(isinstance(value, str) for value in present):  # lone surrogates: the row fails by itself and says why
        encoded = [None if value is None else value.encode("utf-8", "surrogatepass") for value in values]
        return pa.array(encoded, pa.binary()).view(pa.string()), False
    if all(isinstance(value, list) for value in present):
        inner, changed = to_arrow([item for value in present for item in value])
        offsets, total = [0], 0
        for value in values:
            total += len(value or ())
            offsets.append(total)
        mask = pa.array([value is None for value in values])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=mask), changed
    names = list(dict.fromkeys(name for value in present if isinstance(value, dict) for name in value))
    if names and all(isinstance(value, dict) for value in present):
        fields = [to_arrow([None if value is None else value.get(name) for value in values]) for name in names]
        mask = pa.array([value is None for value in values])
        array = pa.StructArray.from_arrays([field for field, _ in fields], names, mask=mask)
        return array, any(changed for _, changed in fields)
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return to_arrow(texts)[0], True


def _has_empty_struct(kind: pa.DataType) -> bool:
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inner) or any(map(_has_empty_struct, inner))


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of the schema in its types; a value that is no text in this file alone becomes its JSON.

    Raises pyarrow.ArrowInvalid where a value does not fit its type.
    """
    columns = [_as_type(table.column(field.name), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    ours = carried(column.type)
    if kind != pa.string() or not (pa.types.is_floating(ours) or pa.types.is_nested(ours)):
        return as_kind(column, kind)
    values = column.to_pylist()
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.chunked_array([pa.array(texts, pa.string())])
