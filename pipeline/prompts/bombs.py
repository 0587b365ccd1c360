"""How large a Parquet file is inside, which its footer does not say, and whether it is one at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.display import first_line, redact
from promptmill.pipeline.prompts.first_look import FirstLook, FooterFacts, LookError, first_look
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_tail
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem

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
