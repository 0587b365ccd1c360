"""Packed text files, unpacked no further than prompts can be: 200 kB of zstd can hold 6 GB of one letter."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa

MOST_BYTES: Final = 2 << 30
"""Text is read whole, and a table of it takes three times that."""
_LIKELY_RATIO: Final = 100  # prompt files compress 2 to 20 times; a bomb a thousand times and more
_SMALL_BYTES: Final = 64 << 20
_STEP: Final = 1 << 20


class _Xz:
    """Python's own file takes whatever memory the header of the stream asks for, 4 GiB at most."""

    _MEMORY: Final = 256 << 20

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._decoder = lzma.LZMADecompressor(memlimit=self._MEMORY)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; empty only at the end."""
        while True:
            if self._decoder.eof:
                self._data = self._decoder.unused_data.lstrip(b"\0")  # a stream may be filled up
                if not self._data:
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=self._MEMORY)
            part = self._decoder.decompress(self._data, size)
            self._data = b""
            if part:
                return part
            if self._decoder.needs_input and not self._decoder.eof:
                raise EOFError("the file ended before the end-of-stream marker was reached")


UNPACK: Final[Mapping[str, Callable[[bytes], Any]]] = {
    ".gz": lambda data: gzip.GzipFile(fileobj=io.BytesIO(data)),
    ".bz2": lambda data: bz2.BZ2File(io.BytesIO(data)),
    ".xz": _Xz,
    ".zst": lambda data: pa.CompressedInputStream(pa.BufferReader(data), "zstd"),
}


def is_bomb(packed_bytes: int, unpacked_bytes: int) -> bool:
    """Whether more comes out than of any text."""
    return unpacked_bytes > _SMALL_BYTES and unpacked_bytes > _LIKELY_RATIO * packed_bytes


def unpack(data: bytes, ending: str) -> bytes:
    """Raises ValueError where more comes out than prompts are; what the packers raise where `data` is broken."""
    parts: list[bytes] = []
    total = 0
    stream = UNPACK[ending](data)
    while part := stream.read(_STEP):
        total += len(part)
        if total > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 30} GiB inside; give such a source as Parquet")
        if is_bomb(len(data), total):
            raise ValueError(f"{len(data):,} bytes that unpack to more than {total:,}, which no text does")
        parts.append(bytes(part))
    return b"".join(parts)
