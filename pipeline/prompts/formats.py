"""CSV, TSV, JSON lines and plain text as Arrow tables, one row a prompt."""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from promptmill.pipeline.prompts.csv_tsv import read_separated
from promptmill.pipeline.prompts.json_rows import Repeats, json_rows
from promptmill.pipeline.prompts.kinds import as_kind, carried
from promptmill.pipeline.prompts.nested import TOO_DEEP
from promptmill.pipeline.prompts.spreadsheet import spreadsheet_rows
from promptmill.pipeline.prompts.unpacking import UNPACK, unpack
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.row_values import values_of

PARQUET_FORMATS = (".parquet", ".pq")
TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt")
NAMED_FORMATS = (".tar", ".json", ".xlsx")
"""Read where a source names them or holds nothing else: beside other files they describe these more often than not."""
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def file_suffix(name: str) -> str:
    """In lower case, without that of a compression: `.csv` for `A.CSV.gz`."""
    base = name.rsplit("/", 1)[-1].lower()
    for packed in UNPACK:
        base = base.removesuffix(packed)
    return "." + base.rpartition(".")[2] if "." in base else ""


def is_parquet(name: str) -> bool:
    return file_suffix(name) in PARQUET_FORMATS


LFS_BYTES: Final = 1024
"""A pointer of Git LFS is smaller (its specification says so), and one of git-annex is."""
_ANNEX: Final = re.compile(rb"/?(\S*/)?annex/objects/\S+\s*")


def refuse_lfs(data: bytes, name: str) -> None:
    """Raises InputError for what Git LFS or git-annex leaves in place of a file, whatever the file is."""
    if len(data) < LFS_BYTES and _ANNEX.fullmatch(data):
        hint = "Run `git annex get` where it was cloned"
        raise InputError(Problem(f"prompts.source: {name}", "the file itself", "a pointer of git-annex", hint))
    if len(data) < LFS_BYTES and data.lstrip().startswith((b"version https://git-lfs", b"version https://hawser")):
        hint = "Run `git lfs pull` where it was cloned"
        raise InputError(Problem(f"prompts.source: {name}", "the file itself", "a Git LFS pointer", hint))


def read_unpacked(store: Store, name: str) -> bytes:
    """What is in the object, unpacked where its name ends in .gz, .bz2, .xz or .zst.

    Raises InputError where that cannot be unpacked, StorageError where the object cannot be read.
    """
    data = store.read(name)
    refuse_lfs(data, name)
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


def read_text_format(
    data: bytes, suffix: str, name: str, prompts: Prompts, rows: int | None = None
) -> tuple[pa.Table, list[str]]:
    """The rows, and notices about how they were read and columns that could not keep their types.

    Text is UTF-8, with or without byte order mark. Earlier versions read some files in other rows: `rows`, where given,
    says how many there were. Raises InputError naming the line.
    """
    where = f"prompts.source: {name}"
    table, notices = _read(data, suffix, where, prompts)
    if rows is None or table.num_rows == rows:
        return table, notices
    return _read_as_before(data, suffix, where, prompts), notices


def _read(data: bytes, suffix: str, where: str, prompts: Prompts) -> tuple[pa.Table, list[str]]:
    if suffix == ".xlsx":
        return table_of(*spreadsheet_rows(data, where), where)
    text = decode_text(data, where)
    if not text.strip():
        raise InputError(Problem(where, "at least one prompt", "an empty file"))
    if suffix in (".csv", ".tsv"):
        return read_separated(text, suffix == ".tsv", where, prompts)
    if suffix == ".txt":
        return _read_lines(text, where, prompts)
    return _read_json(text, where, prompts.columns.prompt, whole=suffix == ".json")


def _read_as_before(data: bytes, suffix: str, where: str, prompts: Prompts) -> pa.Table:
    """Blank lines of plain text as rows, CSV and TSV as they are usually written."""
    text = decode_text(data, where)
    if suffix == ".txt":
        lines = text.removesuffix("\n").split("\n")
        return pa.table({prompts.columns.prompt: pa.array([line.removesuffix("\r") for line in lines], pa.string())})
    return read_separated(text, suffix == ".tsv", where, prompts, as_usual=True)[0]


def _read_lines(text: str, where: str, prompts: Prompts) -> tuple[pa.Table, list[str]]:
    if "\n" not in text:
        text = text.removesuffix("\r").replace("\r", "\n")  # as old Macs and some spreadsheets end lines
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    kept = [line for line in lines if line.strip()]
    blank, comment = len(lines) - len(kept), prompts.format.comment
    if comment is not None:
        kept = [line for line in kept if not line.lstrip().startswith(comment)]
    if not kept:
        raise InputError(Problem(where, "at least one prompt", f"{len(lines)} blank lines or comments"))
    left_out = {"blank lines": blank, "comments": len(lines) - blank - len(kept)}
    notices = [f"{where}: {count:,} {what} left out" for what, count in left_out.items() if count]
    return pa.table({prompts.columns.prompt: pa.array(kept, pa.string())}), notices


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


def _read_json(text: str, where: str, prompt: str, whole: bool) -> tuple[pa.Table, list[str]]:
    repeats = Repeats()
    rows, numbers = json_rows(text, where, prompt, whole, repeats)
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        table, notices = table_of(names, [[row.get(name) for name in names] for row in rows], where)
        return table, [*repeats.notices(where), *notices]
    except UnicodeEncodeError as error:  # values with a lone surrogate fail by themselves, a column cannot
        key = json.dumps(error.object)
        number = next(number for number, row in zip(numbers, rows, strict=True) if key in json.dumps(row))
        raise InputError(Problem(f"{where}:{number}", "keys in valid Unicode", f"{key}, half a character")) from None


def table_of(names: Sequence[str], rows: Sequence[Sequence[Any]], where: str) -> tuple[pa.Table, list[str]]:
    """Raises UnicodeEncodeError for broken names."""
    notices: list[str] = []
    arrays = []
    for i, name in enumerate(names):
        array, changed = _to_arrow_or_refuse([row[i] for row in rows], f"{where}: column {name!r}")
        arrays.append(array)
        if changed:
            notices.append(f"{where}: column {name!r} mixes types, or is empty objects; these are carried as text")
    return pa.table(dict(zip(names, arrays, strict=True))), notices


def _to_arrow_or_refuse(values: Sequence[Any], where: str) -> tuple[pa.Array, bool]:
    try:
        return to_arrow(values)
    except RecursionError:
        hint = "Leave the column out, or write it as text"
        raise InputError(Problem(where, TOO_DEEP, "hundreds", hint)) from None


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
    if all(type(value) is int and 0 <= value < 1 << 64 for value in present):
        return pa.array(values, pa.uint64()), False
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
    """The columns of the schema in its types, null where the table has none; a value that is no text in this
    file alone becomes its JSON.

    Raises pyarrow.ArrowInvalid where a value does not fit its type.
    """
    there = set(table.column_names)
    columns = [
        _as_type(table.column(name), kind) if name in there else pa.nulls(table.num_rows, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _as_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    ours = carried(column.type)
    if kind != pa.string() or not (pa.types.is_floating(ours) or pa.types.is_nested(ours)):
        return as_kind(column, kind)
    values = values_of(column)
    texts = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.chunked_array([pa.array(texts, pa.string())])
