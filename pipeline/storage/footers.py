"""The footers of Parquet objects, which are at their ends."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store

_FIRST_BYTES = 1 << 16
_MOST_BYTES = 64 << 20  # 10,000 columns in 100 row groups have 50 MB


def parquet_metadata(store: Store, entry: Entry, version: str | None = None) -> pq.FileMetaData:
    """In one ranged read. Raises pyarrow.ArrowInvalid where the object is no whole Parquet file."""
    try:
        return pq.read_metadata(pa.BufferReader(parquet_tail(store, entry, version)))
    except OSError as error:  # what Arrow raises where a byte of the footer is wrong
        raise pa.ArrowInvalid(str(error)) from None


def parquet_tail(store: Store, entry: Entry, version: str | None = None) -> bytes:
    """The end of the object with the whole footer, if it has one; mostly one ranged read, and at most 64 MiB."""
    window = _FIRST_BYTES
    while True:
        start = max(0, entry.size_bytes - window)
        tail = store.read_range(entry.name, start, entry.size_bytes, version) if entry.size_bytes else b""
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if needed <= len(tail) or start == 0 or tail[-4:] != b"PAR1" or needed > _MOST_BYTES:
            return tail
        window = needed
