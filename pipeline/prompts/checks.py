"""Two things about prompt files that their footers do not say: how large they are inside, and whether ids repeat."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from promptmill.pipeline.display import first_line, redact
from promptmill.pipeline.prompts.first_look import FirstLook, FooterFacts, LookError, first_look
from promptmill.pipeline.prompts.folders import folder_columns
from promptmill.pipeline.prompts.formats import as_schema, is_parquet
from promptmill.pipeline.prompts.kinds import carried
from promptmill.pipeline.prompts.texts import read_text
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_tail
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts

_SUSPICIOUS_RATIO = 100  # prompt files compress 2 to 20 times; a bomb thousands of times
_BOMB_BYTES = 1 << 30
LARGEST_ROW_BYTES = 64 << 20


@contextlib.contextmanager
def whole_parquet(name: str) -> Iterator[None]:
    """Raises InputError for what Arrow raises where bytes of the file are wrong."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, LookError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not Arrow's
            raise
        raise InputError(
            Problem(
                f"prompts.source: {name}",
                "a whole Parquet file",
                first_line(error),
                "Write it again: the copy may be cut short or damaged",
            )
        ) from None


def check_strangers(store: Store, entries: Sequence[Entry]) -> None:
    """Parquet that nobody of ours need have written, before anybody here reads it.

    Raises InputError for what is none, ends its reader, or cannot be held in memory.
    """
    with first_look() as look:
        for entry in entries:
            where = redact(f"{store.url.rstrip('/')}/{entry.name.lstrip('/')}")
            try:
                check_no_bomb(store, entry, look.footer(parquet_tail(store, entry)), look, where)
            except LookError as error:
                raise InputError(Problem(where, "a Parquet file", f"{error}")) from None


def check_no_bomb(store: Store, entry: Entry, footer: FooterFacts, look: FirstLook, where: str = "") -> None:
    """Raises InputError for a file whose rows cannot be held in memory.

    A dictionary of one long value makes gigabytes of a few hundred bytes, and the footer does not say so: a file
    that compresses suspiciously well is decoded in small steps, in the process of the first look.
    """
    where = where or f"prompts.source: {entry.name}"
    for rows, size in footer.groups:
        if size > LARGEST_ROW_BYTES * max(1, rows):
            raise _too_wide(where, size // max(1, rows))
    unpacked = sum(size for _, size in footer.groups)
    if unpacked < _SUSPICIOUS_RATIO * footer.packed and entry.size_bytes * _SUSPICIOUS_RATIO > unpacked:
        return
    bomb = Problem(
        where,
        "a file that decodes to a size in keeping with its own",
        f"{entry.size_bytes:,} bytes that decode to more than {_BOMB_BYTES >> 30} GiB",
    )
    if entry.size_bytes > _BOMB_BYTES:
        raise InputError(bomb)
    path = store.local_path(entry.name)
    data = b"" if path else store.read(entry.name)
    size, longest = look.decode(None if path is None else str(path), data, _BOMB_BYTES, LARGEST_ROW_BYTES)
    if longest:
        raise _too_wide(where, longest)
    if size > _BOMB_BYTES:
        raise InputError(bomb)


def _too_wide(where: str, size: int) -> InputError:
    return InputError(Problem(where, f"rows under {LARGEST_ROW_BYTES >> 20} MiB", f"{size / 2**20:.0f} MiB a row"))


def check_widths(batch: pa.RecordBatch, name: str) -> None:
    """Of rows that were read with their dictionaries, before these are written out: 64 rows of one value of 200 MiB
    take 200 MiB then and 13 GB afterwards. Raises InputError."""
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and not pa.types.is_nested(column.type.value_type):
            lengths = pc.binary_length(column.dictionary.cast(pa.large_binary()))
            longest = pc.max(lengths).as_py() or 0
            if longest > LARGEST_ROW_BYTES:
                raise _too_wide(f"prompts.source: {name}", longest)


def check_unique_ids(store: Store, files: Sequence[SourceFile], prompts: Prompts) -> None:
    """Reads the id column alone, also behind `prompts.limit`: a limit that is raised finds no surprise.

    Raises InputError naming the row of an id that is missing or broken, and both rows of one that comes twice.
    """
    parts: list[np.ndarray] = []
    for file in files:
        for ids in _id_batches(store, file, prompts):
            parts.append(np.fromiter((xxhash.xxh3_64_intdigest(_id_bytes(v)) for v in ids), np.uint64, len(ids)))
    hashes = np.sort(np.concatenate(parts))
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(repeated):
        _raise_if_repeated(store, files, prompts, {int(value) for value in repeated})


def _raise_if_repeated(store: Store, files: Sequence[SourceFile], prompts: Prompts, suspects: set[int]) -> None:
    # Two ids may share a 64-bit hash: look at the texts before refusing.
    seen: dict[str, str] = {}
    for file in files:
        row = 0
        for ids in _id_batches(store, file, prompts):
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
    return str(value).encode()


def _id_batches(store: Store, file: SourceFile, prompts: Prompts) -> Iterator[list[object]]:
    first = 0
    for table in column_tables(store, file, prompts, [str(prompts.columns.id)]):
        mended, broken = mend(table)
        ids: list[object] = mended.column(0).to_pylist()
        for row, value in enumerate(ids):
            if value is None or value == "" or row in broken:
                got = "broken Unicode" if row in broken else "null" if value is None else "an empty text"
                where = f"prompts.columns.id: {file.name} row {first + row}"
                raise InputError(Problem(where, f"an id in column {table.column_names[0]!r} of every row", got))
        yield ids
        first += len(ids)


def column_tables(store: Store, file: SourceFile, prompts: Prompts, names: list[str]) -> Iterator[pa.Table]:
    """Some columns of a file, a part after the other, in the types that all readers know."""
    if is_parquet(file.name):
        with whole_parquet(file.name), store.open(file.name) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=100_000, columns=names):
                table = pa.Table.from_batches([batch])
                plain = pa.schema([field.with_type(carried(field.type)) for field in table.schema])
                yield _with_folders(as_schema(table, plain), file, names, batch.num_rows)
    else:
        table = read_text(store, file.name, prompts).table
        yield _with_folders(table, file, names, table.num_rows)


def _with_folders(table: pa.Table, file: SourceFile, names: list[str], rows: int) -> pa.Table:
    """These columns, whether the file has them or its folders say them; a table without any has no rows either."""
    said = folder_columns(file.name)
    there = set(table.column_names)
    return pa.table(
        {
            name: table.column(name) if name in there else pa.array([said.get(name)] * rows, pa.string())
            for name in names
        }
    )
