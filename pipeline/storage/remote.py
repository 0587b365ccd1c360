"""Object storage and other remote file systems, by fsspec."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import fsspec
import fsspec.asyn

from promptmill.pipeline.storage.backend import Backend, warn_of_races
from promptmill.pipeline.storage.entry import Entry, etag_of, same_write
from promptmill.pipeline.storage.faults import error_code
from promptmill.pipeline.storage.urls import OBJECT_STORES, S3
from promptmill.schemas.urls import scheme_of

NO_CONDITIONS = "it has no conditional writes"
CALL_TIMEOUT_S = 120.0  # a server that accepts and stays silent would block a PUT for ever
_SLOWEST_BYTES_PER_S = 1 << 20
_BUFFER_BYTES = 1 << 16
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
}
"""Without one a browser downloads the report from a bucket instead of showing it."""


def is_conditional(url: str) -> bool:
    """Whether `mode="create"` is a condition that the server checks; elsewhere fsspec looks first and then writes."""
    return scheme_of(url) in OBJECT_STORES


class RemoteBackend(Backend):
    """Object storage, and whatever else fsspec opens."""

    def create(self, key: str, data: bytes) -> bool:
        if not is_conditional(self.url):
            warn_of_races(self.shown, NO_CONDITIONS)
        try:
            put_object(self.fs, self.url, self.path(key), data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Some servers' 412 reaches us as EINVAL with the client's error as its cause.
            if error_code(error) in {"PreconditionFailed", "412"}:
                return False
            raise
        return True

    def put(self, key: str, data: bytes) -> None:
        put_object(self.fs, self.url, self.path(key), data)

    def read(self, key: str, most_bytes: int | None = None) -> bytes:
        entry = None if most_bytes is None else self.entry(key)
        if most_bytes is not None and entry is not None and entry.size_bytes > most_bytes:
            raise ValueError(f"more than {most_bytes:,} bytes")
        return cast(bytes, self.fs.cat_file(self.path(key)))

    def open(self, key: str, read_range: Callable[[int, int], bytes]) -> BinaryIO:
        size = self._info(key)["size"]
        if size is None:  # an HTTP server that does not say: no seeking then
            return io.BytesIO(self.read(key))
        return cast(BinaryIO, io.BufferedReader(RemoteFile(read_range, int(size)), _BUFFER_BYTES))

    def still_there(self, entry: Entry) -> bool:
        there = self.entry(entry.name)
        return there is not None and same_write(there, entry)

    def remove(self, entry: Entry) -> bool:
        self.delete(entry.name)
        return True

    def content_version(self, entry: Entry | None) -> str | None:
        """None too where the store says no more than a time."""
        return None if entry is None or not entry.version or entry.version.startswith(" ") else entry.version

    def weakness(self) -> str:
        return "" if is_conditional(self.url) else NO_CONDITIONS

    def _part(self, key: str, start: int, stop: int, version: str | None) -> bytes:
        if (etag := etag_of(version)) and scheme_of(self.url) in S3:
            return read_if_match(self.fs, self.path(key), start, stop, etag)
        return super()._part(key, start, stop, version)


def put_object(fs: Any, url: str, path: str, data: bytes, **options: Any) -> None:
    if isinstance(fs, fsspec.asyn.AsyncFileSystem):
        if scheme_of(url) in S3:
            # One PUT whatever the size (S3 takes 5 GiB): not every server honours the condition on several parts.
            options["chunksize"] = len(data) + 1
            if kind := _CONTENT_TYPES.get(path.rpartition(".")[2]):
                options["ContentType"] = kind
        timeout = CALL_TIMEOUT_S + len(data) / _SLOWEST_BYTES_PER_S
        fsspec.asyn.sync(fs.loop, fs._pipe_file, path, data, timeout=timeout, **options)
    else:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data, **options)


class RemoteFile(io.RawIOBase):
    """One object as a file of `size_bytes`, without any cache: Parquet readers ask for whole column chunks."""

    def __init__(self, read_range: Callable[[int, int], bytes], size_bytes: int) -> None:
        self._read_range, self._size, self._at = read_range, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._at + len(buffer))
        if stop <= self._at:
            return 0
        data = self._read_range(self._at, stop)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


class ObjectChangedError(Exception):
    """The object is not the one any more whose version was asked for."""


def read_if_match(fs: Any, path: str, start: int, stop: int, etag: str) -> bytes:
    """Raises ObjectChangedError; s3fs has no word for the condition."""
    bucket, key, _ = fs.split_path(path)
    condition = {"IfMatch": f'"{etag}"', "Range": f"bytes={start}-{stop - 1}"}

    async def read() -> bytes:
        reply = await fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
        async with reply["Body"] as body:
            data: bytes = await body.read()
        return data

    try:
        found: bytes = fsspec.asyn.sync(fs.loop, read)
    except Exception as error:
        if error_code(error) in {"PreconditionFailed", "412"}:
            raise ObjectChangedError(path) from None
        raise
    return found
