"""Objects under one root, on disk or in object storage. The only file that imports fsspec."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
import fsspec.asyn
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.faults import advice, describe, error_code, is_storage_fault, is_transient
from promptmill.pipeline.storage.local import create_file, replace_file, warn_of_races
from promptmill.pipeline.storage.remote import RemoteFile, is_file, open_filesystem
from promptmill.schemas.errors import StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

DEFAULT_PATIENCE_S = 300.0
CALL_TIMEOUT_S = 120.0  # a server that accepts and stays silent would block a PUT for ever
_SLOWEST_BYTES_PER_S = 1 << 20
FOOTER_BYTES = 1 << 16
_IO_THREADS = 16
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
}
"""Without one a browser downloads the report from a bucket instead of showing it."""

_LONGEST_WAIT_S = 20.0
_CONDITIONAL = ("s3://", "s3a://", "gs://", "gcs://", "az://", "abfs://", "abfss://")
"""Where `mode="create"` is a condition that the server checks; elsewhere fsspec looks first and then writes."""


@dataclass(frozen=True)
class Entry:
    """`name` is relative to the root of the store."""

    name: str
    size_bytes: int


class Store:
    """Raises StorageError when a call fails for good; transient faults are retried for `patience_s` seconds.

    Credentials come from the environment, profile or instance role of the process that opens the store: nothing
    secret is pickled or written.
    """

    def __init__(
        self,
        url: str,
        patience_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
        query: str = "",
    ) -> None:
        """`query` goes with every request and into no message: that of a presigned URL is a secret."""
        self.url = url
        self._suffix = f"?{query}" if query else ""
        self.patience_s = (
            patience_s
            if patience_s is not None
            else float(os.environ.get("PROMPTMILL_STORAGE_PATIENCE_S", DEFAULT_PATIENCE_S))
        )
        self.on_wait = on_wait or (lambda message: log.warning("%s", message))
        self.fs, self.root = open_filesystem(url)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"Store({redact(self.url)!r})"

    def path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}{self._suffix}" if key else self.root

    @property
    def _fresh(self) -> Any:
        """The file system without what it remembers of listings; not all of them take `refresh=True`."""
        self.fs.invalidate_cache()
        return self.fs

    def create(self, key: str, data: bytes) -> bool:
        """Write the whole object if the key is free. False where an object is there already, ours or another's.

        After a lost reply the retry finds the object that the first try stored and returns False: read it back
        to know whose it is.
        """
        reached("before-write")
        if self.is_local:
            created = self._call(f"create {key}", lambda: create_file(Path(self.root), key, data))
        else:
            created = self._call(f"create {key}", lambda: self._create_remote(key, data))
        reached("after-write")
        return created

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object, replacing what is there; a reader sees the old or the new one, never a part."""
        reached("before-write")
        if self.is_local:
            self._call(f"put {key}", lambda: replace_file(Path(self.root), key, data))
        else:
            self._call(f"put {key}", lambda: self._pipe(key, data))
        reached("after-write")

    def read(self, key: str) -> bytes:
        return self._call(f"read {key}", lambda: cast(bytes, self.fs.cat_file(self.path(key))))

    def read_if_exists(self, key: str) -> bytes | None:
        def attempt() -> bytes | None:
            try:
                return cast(bytes, self.fs.cat_file(self.path(key)))
            except FileNotFoundError:
                return None

        return self._call(f"read {key}", attempt)

    def find(self, glob: str = "") -> list[Entry]:
        """Objects at any depth, or those that a glob names, sorted by name. Links to files are files."""

        def attempt() -> list[Entry]:
            found = self.fs.glob(self.path(glob), detail=True) if glob else self.fs.find(self.root, detail=True)
            root = self.root.rstrip("/") + "/"
            files = ((path.removeprefix(root), info) for path, info in found.items() if is_file(info))
            return sorted((Entry(name, int(info["size"] or 0)) for name, info in files), key=lambda entry: entry.name)

        return self._call(f"list {glob or 'all'}", attempt)

    def list(self, folder: str) -> list[Entry]:
        """Objects directly in the folder, sorted by name; empty where the folder is missing."""

        def attempt() -> list[Entry]:
            try:
                found = self._fresh.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                if self.is_local and Path(self.path(folder)).is_dir():
                    raise BlockingIOError(errno.EAGAIN, "a file went away while the folder was listed") from None
                return []
            names = ((f"{folder}/{entry['name'].rsplit('/', 1)[-1]}", entry) for entry in found)
            return sorted(
                (Entry(name, int(entry["size"] or 0)) for name, entry in names if is_file(entry)),
                key=lambda entry: entry.name,
            )

        return self._call(f"list {folder}/", attempt)

    def root_info(self) -> tuple[str, int] | None:
        """What the URL of the store itself is, "file" or "directory", and its bytes; None where nothing is."""

        def attempt() -> tuple[str, int] | None:
            try:
                info = self.fs.info(self.root)
            except FileNotFoundError:
                return None
            return info["type"], int(info["size"] or 0)

        return self._call("look", attempt)

    def entry(self, key: str) -> Entry | None:
        """None where there is no such object."""

        def attempt() -> Entry | None:
            try:
                return Entry(key, int(self._fresh.info(self.path(key))["size"] or 0))
            except FileNotFoundError:
                return None

        return self._call(f"look for {key}", attempt)

    def delete(self, key: str) -> None:
        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(key))

        self._call(f"delete {key}", attempt)

    def open(self, key: str) -> BinaryIO:
        """For reading with seeks. Each read of a remote object is a request of its own, as patient as every call."""
        if not isinstance(self.fs, fsspec.asyn.AsyncFileSystem):
            return self._call(f"open {key}", lambda: cast(BinaryIO, self.fs.open(self.path(key), "rb")))
        info = self._call(f"open {key}", lambda: self._fresh.info(self.path(key)))
        if info["size"] is None:  # an HTTP server that does not say: no seeking then
            return io.BytesIO(self.read(key))
        return cast(BinaryIO, io.BufferedReader(RemoteFile(self, key, int(info["size"])), FOOTER_BYTES))

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Raises StorageError where fewer bytes come."""

        def attempt() -> bytes:
            data = cast(bytes, self.fs.cat_file(self.path(key), start=start, end=stop))
            if len(data) > stop - start:  # an HTTP server that knows no ranges sends the whole
                data = data[start:stop]
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data)} bytes came instead of {stop - start}")
            return data

        return self._call(f"read {key}", attempt)

    def parquet_metadata(self, entry: Entry) -> pq.FileMetaData:
        """CommitRecord in one ranged read. Raises pyarrow.ArrowInvalid where the object is no whole Parquet file."""
        window = FOOTER_BYTES
        while True:
            start = max(0, entry.size_bytes - window)
            tail = self.read_range(entry.name, start, entry.size_bytes) if entry.size_bytes else b""
            needed = int.from_bytes(tail[-8:-4], "little") + 8
            if needed <= len(tail) or start == 0 or tail[-4:] != b"PAR1":
                try:
                    return pq.read_metadata(pa.BufferReader(tail))
                except OSError as error:  # what Arrow raises where a byte of the footer is wrong
                    raise pa.ArrowInvalid(str(error)) from None
            window = needed

    def map(self, function: Callable[[Entry], T], entries: Iterable[Entry]) -> Iterable[T]:
        """Apply to many objects at once, in order; object storage answers slowly but in parallel."""
        with ThreadPoolExecutor(_IO_THREADS) as pool:
            yield from pool.map(function, entries)

    def _create_remote(self, key: str, data: bytes) -> bool:
        if not self.url.startswith(_CONDITIONAL):
            warn_of_races(redact(self.url), "conditional writes")
        try:
            self._pipe(key, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Some servers' 412 reaches us as EINVAL with the client's error as its cause.
            if error_code(error) in {"PreconditionFailed", "412"}:
                return False
            raise
        return True

    def _pipe(self, key: str, data: bytes, **options: Any) -> None:
        if isinstance(self.fs, fsspec.asyn.AsyncFileSystem):
            if self.url.startswith(("s3://", "s3a://")):
                # One PUT whatever the size (S3 takes 5 GiB): not every server honours the condition on several parts.
                options["chunksize"] = len(data) + 1
                if kind := _CONTENT_TYPES.get(key.rpartition(".")[2]):
                    options["ContentType"] = kind
            timeout = CALL_TIMEOUT_S + len(data) / _SLOWEST_BYTES_PER_S
            fsspec.asyn.sync(self.fs.loop, self.fs._pipe_file, self.path(key), data, timeout=timeout, **options)
        else:
            self.fs.pipe_file(self.path(key), data, **options)

    def _call(self, what: str, attempt: Callable[[], T]) -> T:
        def announce(state: RetryCallState) -> None:
            wait_s = state.next_action.sleep if state.next_action else 0.0
            error = state.outcome.exception() if state.outcome else None
            self.on_wait(
                self._without_secrets(
                    f"storage: cannot {what} yet ({describe(error)}); try {state.attempt_number + 1} in {wait_s:.1f} s"
                )
            )

        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.5, max=min(_LONGEST_WAIT_S, self.patience_s / 10)),
            stop=stop_after_delay(self.patience_s),
            before_sleep=announce,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Exception as error:
            if not is_storage_fault(error):
                raise
            raise StorageError(
                self._without_secrets(f"cannot {what} in {self.url}: {describe(error)}. {advice(error)}")
            ) from None

    def _without_secrets(self, text: str) -> str:
        text = redact(text)
        return re.sub(r"\?[^\s'\"]+", "?***", text) if self._suffix else text
