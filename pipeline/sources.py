"""Where prompts come from: checks that the files fit together, stages text formats as Parquet."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.identity import digest
from pipeline.source_checks import check_no_bomb, check_unique_ids, whole_parquet
from pipeline.source_files import find_files, find_prompt_files, refuse_strange_names
from pipeline.storage import Entry, Store, absolute_url, split_query
from pipeline.suites import Suite, SuiteFile, read_suite, shapes_suite, takes
from pipeline.textfiles import (
    as_schema,
    file_suffix,
    is_parquet,
    read_text_format,
    read_unpacked,
)
from schemas.errors import InputError, Problem
from schemas.job import Columns, Prompts
from schemas.plan import STAGED, SourceFile


@dataclass(frozen=True)
class Source:
    """All prompt files of a job. `schema` is what every row is read as; `sha256` is given for suites."""

    files: tuple[SourceFile, ...]
    schema: pa.Schema
    notices: tuple[str, ...] = ()
    sha256: str | None = None

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class _Opened:
    file: SourceFile
    schema: pa.Schema
    notices: tuple[str, ...] = ()


def open_source(prompts: Prompts, output: str | None = None) -> Source:
    """Reads the footers of Parquet files, and text files whole; writes nothing.

    What the job wrote itself is no prompt, where the folder or URL `output` lies inside the source.
    Raises InputError with every problem found.
    """
    if prompts.suite is not None:
        return _open_suite(prompts, output)
    assert prompts.source is not None  # else the job would have been refused
    store, entries = find_prompt_files(prompts.source, output)
    opened: list[_Opened] = []
    problems: list[Problem | str] = []
    for result in store.map(lambda entry: _try_open(store, entry, prompts.columns), entries):
        if isinstance(result, InputError):
            problems.extend(result.problems)
        else:
            opened.append(result)
    if problems:
        raise InputError(*problems)
    schema = _unify(opened, prompts.columns)
    check_columns(schema, prompts.columns, split_query(prompts.source)[0])
    source = Source(tuple(o.file for o in opened), schema, tuple(n for o in opened for n in o.notices))
    if source.rows == 0:
        raise InputError(
            Problem(
                f"prompts.source: {split_query(prompts.source)[0]}",
                "at least one prompt",
                f"{len(opened)} file(s) with no rows",
                "Check what wrote them",
            )
        )
    if prompts.columns.id is not None:
        check_unique_ids(store, source.files, prompts)
    return source


def _open_suite(prompts: Prompts, output: str | None) -> Source:
    suite = _suite(prompts, output)
    schema = _unify([_Opened(_source_file(file), file.table.schema) for file in suite.files], prompts.columns)
    return Source(tuple(_source_file(file) for file in suite.files), schema, suite.notices, suite.sha256)


def _suite(prompts: Prompts, output: str | None) -> Suite:
    assert prompts.suite is not None
    if prompts.source is None:
        return shapes_suite(prompts.shapes)
    store, found = find_files(prompts.source, output)
    entries = [entry for entry in found if takes(prompts.suite, entry.name)]
    if not entries:
        where = f"prompts.source: {found[0].name}"
        raise InputError(Problem(where, f"a .txt file, as {prompts.suite} has them", "another ending"))
    refuse_strange_names(entries)
    contents = store.map(lambda entry: read_unpacked(store, entry.name), entries)
    return read_suite(prompts.suite, {entry.name: data for entry, data in zip(entries, contents, strict=True)})


def _source_file(file: SuiteFile) -> SourceFile:
    return SourceFile(file.name, file.name, file.size_bytes, file.table.num_rows, file.sha256[:32])


def _try_open(store: Store, entry: Entry, columns: Columns) -> _Opened | InputError:
    try:
        if is_parquet(entry.name):
            return _open_parquet(store, entry)
        return _open_text(store, entry, columns)
    except InputError as error:
        return error


def _open_parquet(store: Store, entry: Entry) -> _Opened:
    where = f"prompts.source: {entry.name}"
    with whole_parquet(entry.name):
        metadata = store.parquet_metadata(entry)
        schema = metadata.schema.to_arrow_schema().remove_metadata()
        names = schema.names
    if len(set(names)) < len(names):
        raise InputError(Problem(where, "each column name once", f"columns {names}"))
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType):
            raise InputError(
                Problem(f"{where}: column {field.name}", "a plain Arrow type", f"extension type {field.type}")
            )
    check_no_bomb(store, entry, metadata)
    etag = _hash_of_footer(metadata)
    return _Opened(SourceFile(entry.name, _url(store, entry), entry.size_bytes, metadata.num_rows, etag), schema)


def _open_text(store: Store, entry: Entry, columns: Columns) -> _Opened:
    data = read_unpacked(store, entry.name)
    table, notices = read_text_format(data, file_suffix(entry.name), entry.name, columns)
    file = SourceFile(entry.name, _url(store, entry), entry.size_bytes, table.num_rows, _hash(data))
    return _Opened(file, table.schema, tuple(notices))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _hash_of_footer(metadata: pq.FileMetaData) -> str:
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    return _hash(sink.getvalue())


def _url(store: Store, entry: Entry) -> str:
    return absolute_url(f"{store.url.rstrip('/')}/{entry.name}")


def stage(
    files: Sequence[SourceFile], prompts: Prompts, output: Store, schema: pa.Schema | None = None
) -> tuple[SourceFile, ...]:
    """The files as workers read them: Parquet stays where it is, all else is copied as Parquet below the output.

    Parquet behind a URL with a query is copied too: workers are told no secrets. Raises InputError where a file is no
    longer what was planned, or cannot be read with the `schema` of a dataset that is there already.
    """
    if prompts.suite is None:
        query = split_query(prompts.source or "")[1]
        return tuple(
            file
            if is_parquet(file.name) and not query
            else _staged(file, _read_again(file, prompts.columns, query), output, schema)
            for file in files
        )
    found = {_source_file(each): each.table for each in _suite(prompts, output.url).files}
    for file in files:
        if file not in found:
            raise _changed(file)
    return tuple(_staged(file, found[file], output, schema) for file in files)


def _read_again(file: SourceFile, columns: Columns, query: str) -> pa.Table:
    folder, _, name = file.path.rpartition("/")
    data = read_unpacked(Store(folder, query=query), name)
    if not is_parquet(file.name):
        if _hash(data) != file.etag:
            raise _changed(file)
        return read_text_format(data, file_suffix(file.name), file.name, columns)[0]
    with whole_parquet(file.name):
        parquet = pq.ParquetFile(pa.BufferReader(data))
        if _hash_of_footer(parquet.metadata) != file.etag:
            raise _changed(file)
        return parquet.read()


def _changed(file: SourceFile) -> InputError:
    hint = "It was changed a moment ago: run again"
    return InputError(Problem(f"prompts.source: {file.name}", "the file as it was planned", "another", hint))


def _staged(file: SourceFile, table: pa.Table, output: Store, schema: pa.Schema | None) -> SourceFile:
    if schema is not None:
        try:
            as_schema(table, schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            expected = "values of the types that the columns of the dataset have"
            hint = "Give these prompts a job and an output of their own"
            raise InputError(Problem(f"prompts.source: {file.name}", expected, f"{error}", hint)) from None
    name = digest([file.name, file.etag, str(table.schema)])[:16]  # types may be told apart in another way one day
    return replace(file, path=stage_table(table, name, output))


def stage_table(table: pa.Table, name: str, output: Store) -> str:
    """Path of the copy for `SourceFile`; the same name must mean the same content."""
    key = f"inputs/{name}.parquet"
    if output.entry(key) is None:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", row_group_size=50_000)
        output.create(key, sink.getvalue())
    return f"{STAGED}{key}"


def _unify(opened: Sequence[_Opened], columns: Columns) -> pa.Schema:
    """Text files do not say their types: a column that looks different in two of them is text in all.

    Raises InputError where other files differ. Ids are compared as text whatever file they are in.
    """
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
            if mine is not None and their is not None and _meet_as_text(name, mine, their, (first, other), columns):
                fields[name] = pa.string()
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


def _meet_as_text(name: str, mine: pa.DataType, their: pa.DataType, files: Sequence[_Opened], columns: Columns) -> bool:
    if name == columns.id:
        return _fits("id", mine) and _fits("id", their)
    return name != columns.seed and not any(is_parquet(opened.file.name) for opened in files)


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
        if not _fits(role, kind):
            wanted = {"seed": "an integer column", "id": "a text or integer column"}.get(role, "a text column")
            problems.append(Problem(place, wanted, f"{name!r} of type {kind}"))
    if problems:
        raise InputError(*problems)


def _fits(role: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_whole = pa.types.is_integer(kind)
    # A whole column with gaps is one of floats to pandas.
    is_number = is_whole or pa.types.is_floating(kind)
    return bool(is_number if role == "seed" else is_text or is_whole if role == "id" else is_text)
