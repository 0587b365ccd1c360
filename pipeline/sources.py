"""Where prompts come from: finds the files, checks that they fit together, stages text formats as Parquet."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.identity import digest
from pipeline.redact import has_user_info
from pipeline.storage import Entry, Store, absolute_url, find_objects
from pipeline.textfiles import TEXT_FORMATS, read_text_format
from schemas.errors import InputError, Problem
from schemas.job import Columns, Prompts
from schemas.plan import STAGED, SourceFile

PARQUET_SUFFIXES = (".parquet", ".pq")
_SUSPICIOUS_RATIO = 100  # prompt files compress 2 to 20 times; a bomb thousands of times
_BOMB_BYTES = 1 << 30
_LARGEST_ROW_BYTES = 64 << 20


@dataclass(frozen=True)
class Source:
    """All prompt files of a job. `schema` is what every row is read as."""

    files: tuple[SourceFile, ...]
    schema: pa.Schema
    notices: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class _Opened:
    file: SourceFile
    schema: pa.Schema
    notices: tuple[str, ...] = ()


def open_source(prompts: Prompts) -> Source:
    """Reads the footers of Parquet files, and text files whole; writes nothing.

    Raises InputError with every problem found.
    """
    store, entries = _find(prompts.source)
    opened: list[_Opened] = []
    problems: list[Problem | str] = []
    for result in store.map(lambda entry: _try_open(store, entry, prompts.columns), entries):
        if isinstance(result, InputError):
            problems.extend(result.problems)
        else:
            opened.append(result)
    if problems:
        raise InputError(*problems)
    schema = _unify(opened)
    check_columns(schema, prompts.columns, prompts.source)
    source = Source(tuple(o.file for o in opened), schema, tuple(n for o in opened for n in o.notices))
    if source.rows == 0:
        raise InputError(
            Problem(
                prompts.source, "at least one prompt", f"{len(opened)} file(s) with no rows", "Check what wrote them"
            )
        )
    if prompts.columns.id is not None:
        _check_unique_ids(store, source, prompts)
    return source


def _find(source: str) -> tuple[Store, list[Entry]]:
    if has_user_info(source):
        raise InputError(
            Problem(
                "prompts.source",
                "a URL without user and password",
                "one that holds them",
                "Give credentials in the environment",
            )
        )
    store, entries = find_objects(source)
    known = (*PARQUET_SUFFIXES, *TEXT_FORMATS)
    if not entries:
        raise InputError(
            Problem(
                f"prompts.source: {source}",
                "at least one file",
                "nothing there",
                "The path is relative to the folder the command is started in; quote a glob in --set",
            )
        )
    readable = [entry for entry in entries if _suffix(entry.name) in known]
    if not readable or (len(readable) < len(entries) and any(c in source for c in "*?[")):
        strange = next(entry for entry in entries if entry not in readable)
        raise InputError(
            Problem(
                f"prompts.source: {strange.name}",
                f"a file that ends in {', '.join(known)}",
                f"{_suffix(strange.name) or 'no ending'!r}",
            )
        )
    return store, readable


def _suffix(name: str) -> str:
    base = name.split("?", maxsplit=1)[0].rsplit("/", 1)[-1].lower()
    for packed in (".gz", ".bz2", ".xz", ".zst"):
        base = base.removesuffix(packed)
    return "." + base.rpartition(".")[2] if "." in base else ""


def _try_open(store: Store, entry: Entry, columns: Columns) -> _Opened | InputError:
    try:
        if _suffix(entry.name) in PARQUET_SUFFIXES:
            return _open_parquet(store, entry)
        return _open_text(store, entry, columns)
    except InputError as error:
        return error


def _open_parquet(store: Store, entry: Entry) -> _Opened:
    where = f"prompts.source: {entry.name}"
    try:
        metadata = store.parquet_metadata(entry)
        schema = metadata.schema.to_arrow_schema().remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            Problem(
                where, "a whole Parquet file", f"{error}".splitlines()[0], "Write it again: the copy may be cut short"
            )
        ) from None
    if len(set(schema.names)) < len(schema.names):
        raise InputError(Problem(where, "each column name once", f"columns {schema.names}"))
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise InputError(
                Problem(f"{where}: column {field.name}", "a plain Arrow type", f"extension type {field.type}")
            )
    _check_no_bomb(store, entry, metadata)
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    etag = hashlib.sha256(sink.getvalue()).hexdigest()[:32]
    return _Opened(SourceFile(entry.name, _url(store, entry), entry.size_bytes, metadata.num_rows, etag), schema)


def _check_no_bomb(store: Store, entry: Entry, metadata: pq.FileMetaData) -> None:
    """Raises InputError for a file whose rows cannot be held in memory.

    A dictionary of one long value makes gigabytes of a few hundred bytes, and the footer does not say so: a file
    that compresses suspiciously well is decoded in small steps.
    """
    where = f"prompts.source: {entry.name}"
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for group in groups:
        if group.total_byte_size > _LARGEST_ROW_BYTES * max(1, group.num_rows):
            raise InputError(
                Problem(
                    where,
                    "rows under 64 MiB",
                    f"{group.total_byte_size / max(1, group.num_rows) / 2**20:.0f} MiB a row",
                )
            )
    packed = sum(group.column(i).total_compressed_size for group in groups for i in range(group.num_columns))
    unpacked = sum(group.total_byte_size for group in groups)
    if unpacked < _SUSPICIOUS_RATIO * packed and entry.size_bytes * _SUSPICIOUS_RATIO > unpacked:
        return
    seen = 0
    with store.open(entry.name) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
            seen += batch.nbytes
            if seen > _BOMB_BYTES:
                raise InputError(
                    Problem(
                        where,
                        "a file that decodes to a size in keeping with its own",
                        f"{entry.size_bytes:,} bytes that decode to more than {_BOMB_BYTES >> 30} GiB",
                    )
                )


def _open_text(store: Store, entry: Entry, columns: Columns) -> _Opened:
    data = store.read_decompressed(entry.name)
    table, notices = read_text_format(data, _suffix(entry.name), entry.name, columns)
    etag = hashlib.sha256(data).hexdigest()[:32]
    file = SourceFile(entry.name, _url(store, entry), entry.size_bytes, table.num_rows, etag)
    return _Opened(file, table.schema, tuple(notices))


def _url(store: Store, entry: Entry) -> str:
    return absolute_url(f"{store.url.rstrip('/')}/{entry.name}")


def stage(file: SourceFile, columns: Columns, output: Store) -> SourceFile:
    """The file as workers read it: Parquet stays where it is, text is copied as Parquet below the output."""
    if _suffix(file.name) in PARQUET_SUFFIXES:
        return file
    folder, _, name = file.path.rpartition("/")
    table, _ = read_text_format(Store(folder).read_decompressed(name), _suffix(file.name), file.name, columns)
    return replace(file, path=stage_table(table, digest([file.name, file.etag])[:16], output))


def stage_table(table: pa.Table, name: str, output: Store) -> str:
    """Path of the copy for `SourceFile`; the same name must mean the same content."""
    key = f"inputs/{name}.parquet"
    if output.entry(key) is None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", row_group_size=50_000)
        output.create(key, sink.getvalue())
    return f"{STAGED}{key}"


def _unify(opened: Sequence[_Opened]) -> pa.Schema:
    first = opened[0]
    fields = {field.name: field.type for field in first.schema}
    for other in opened[1:]:
        theirs = {field.name: field.type for field in other.schema}
        for name in [*fields, *(set(theirs) - set(fields))]:
            mine, their = fields.get(name), theirs.get(name)
            if mine == their or (their is not None and pa.types.is_null(their)):
                continue
            if mine is not None and their is not None and pa.types.is_null(mine):
                fields[name] = their
                continue
            raise InputError(
                Problem(
                    f"prompts.source: {other.file.name}",
                    f"the columns of {first.file.name}: {name} {mine or '(absent)'}",
                    f"{name} {their or '(absent)'}",
                    "Give files of one kind, or make one job for each kind",
                )
            )
    # A column that is null in every row has no type yet; text holds whatever comes later.
    return pa.schema([pa.field(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in fields.items()])


def check_columns(schema: pa.Schema, columns: Columns, where: str) -> None:
    """Raises InputError where a mapped column is missing or has a type that cannot be used."""
    problems = []
    for role, name in columns.model_dump().items():
        if name is None:
            continue
        place = f"prompts.columns.{role}: {where}"
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Set prompts.columns.{role} to one of them"
            problems.append(Problem(place, f"a column {name!r}", f"columns {', '.join(map(repr, schema.names))}", hint))
            continue
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_whole = pa.types.is_integer(kind)
        if not (is_text if role not in ("id", "seed") else is_whole if role == "seed" else is_text or is_whole):
            wanted = {"seed": "an integer column", "id": "a text or integer column"}.get(role, "a text column")
            problems.append(Problem(place, wanted, f"{name!r} of type {kind}"))
    if problems:
        raise InputError(*problems)


def _check_unique_ids(store: Store, source: Source, prompts: Prompts) -> None:
    name = prompts.columns.id
    assert name is not None
    left = prompts.limit if prompts.limit is not None else source.rows
    parts: list[np.ndarray] = []
    for file in source.files:
        for batch in _id_batches(store, file, name, prompts):
            ids = batch[: max(0, left)]
            left -= len(ids)
            if any(value is None for value in ids):
                raise InputError(
                    Problem(f"prompts.columns.id: {file.name}", "an id in every row", f"null in column {name!r}")
                )
            parts.append(np.fromiter((xxhash.xxh3_64_intdigest(_id_bytes(v)) for v in ids), np.uint64, len(ids)))
    hashes = np.sort(np.concatenate(parts))
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(repeated):
        _raise_if_repeated(store, source, prompts, {int(value) for value in repeated})


def _raise_if_repeated(store: Store, source: Source, prompts: Prompts, suspects: set[int]) -> None:
    # Two ids may share a 64-bit hash: look at the texts before refusing.
    seen: dict[str, str] = {}
    for file in source.files:
        row = 0
        for ids in _id_batches(store, file, prompts.columns.id or "", prompts):
            for value in ids:
                if xxhash.xxh3_64_intdigest(_id_bytes(value)) in suspects:
                    place = f"{file.name} row {row}"
                    if str(value) in seen:
                        raise InputError(
                            Problem(
                                f"prompts.columns.id: {place}",
                                "an id that is unique over the whole source",
                                f"{value!r}, which {seen[str(value)]} has too",
                                "Make the ids unique, or leave prompts.columns.id out",
                            )
                        )
                    seen[str(value)] = place
                row += 1


def _id_bytes(value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _id_batches(store: Store, file: SourceFile, column: str, prompts: Prompts) -> Iterator[list[object]]:
    if _suffix(file.name) in PARQUET_SUFFIXES:
        with store.open(file.name) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=100_000, columns=[column]):
                yield batch.column(0).to_pylist()
    else:
        table, _ = read_text_format(store.read_decompressed(file.name), _suffix(file.name), file.name, prompts.columns)
        yield table.column(column).to_pylist()
