"""Objects under one root, on disk or in object storage."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import logging
import math
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.display import keep_secrets, redact, shown
from promptmill.pipeline.storage.entry import Entry, described, etag_of, is_file, left_behind, same_write
from promptmill.pipeline.storage.faults import (
    MISSING_PLACES,
    advice,
    describe,
    error_code,
    is_storage_fault,
    is_transient,
)
from promptmill.pipeline.storage.local import (
    NO_CONDITIONS,
    NO_LINKS,
    TEMPORARY,
    create_file,
    has_links,
    read_regular_file,
    remove_file,
    replace_file,
    warn_of_races,
)
from promptmill.pipeline.storage.remote import (
    RemoteFile,
    create_object,
    is_conditional,
    open_filesystem,
    put_object,
    read_if_match,
)
from promptmill.pipeline.storage.sftp import create_over_sftp, replace_over_sftp
from promptmill.pipeline.storage.urls import S3, SFTP, check_place
from promptmill.schemas.errors import JobError, MissingObjectError, Problem, StorageError
from promptmill.schemas.urls import scheme_of, split_query

S = TypeVar("S")
T = TypeVar("T")
log = logging.getLogger(__name__)

DEFAULT_PATIENCE_S = 300.0
FOOTER_BYTES = 1 << 16
LARGEST_FOOTER_BYTES = 64 << 20  # 10,000 columns in 100 row groups have 50 MB
_IO_THREADS = 16
_LONGEST_WAIT_S = 20.0


_PATIENCE = "PROMPTMILL_STORAGE_PATIENCE_S"


def default_patience_s() -> float:
    """Raises JobError where the environment says something else than seconds."""
    text = os.environ.get(_PATIENCE, "").strip() or str(DEFAULT_PATIENCE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise JobError(Problem(f"the variable {_PATIENCE}", "seconds from 0", shown(text), "Correct it, or unset it"))
    return seconds


class Store:
    """Raises StorageError when a call fails for good; transient faults are retried for `patience_s` seconds.

    MissingObjectError, a StorageError, where what is to be read is not there.

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
        """`query`, else that of the URL, goes with every request and into no message: it may be a secret."""
        keep_secrets([url, f"https://host/?{query}"])
        self.url, own_query = split_query(url)
        self._suffix = f"?{query or own_query}" if query or own_query else ""
        self.patience_s = default_patience_s() if patience_s is None else patience_s
        self.on_wait = on_wait or (lambda message: log.warning("%s", shown(message)))
        check_place(self.url, redact(self.url))
        self._threads = threading.local()
        self.root: str = self._call("open it", lambda: self._open()[1])
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"Store({redact(self.url)!r})"

    @property
    def fs(self) -> Any:
        """One for all threads, but for SFTP: paramiko loses answers where two threads share a connection."""
        return self._open()[0] if self._is_sftp else self._opened[0]

    @property
    def _is_sftp(self) -> bool:
        return scheme_of(self.url) in SFTP

    def _open(self) -> tuple[Any, str]:
        opened: tuple[Any, str] | None = getattr(self._threads, "opened", None)
        if opened is None:
            opened = self._threads.opened = self._opened = open_filesystem(self.url)
        return opened

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
        created = self._create(key, data)
        reached("after-write")
        return created

    def _create(self, key: str, data: bytes) -> bool:
        if self.is_local:
            return self._call(f"create {key}", lambda: create_file(Path(self.root), key, data))
        if self._is_sftp:
            return self._call(f"create {key}", lambda: create_over_sftp(self.fs, self.url, self.root, key, data))
        return self._call(f"create {key}", lambda: create_object(self.fs, self.url, self.path(key), data))

    def weakness(self) -> str:
        """Why of two writers at one instant both could think they were first; empty where one of them wins.

        Tried on an object below `.tmp/`, which is deleted again: servers ignore conditions without a word.
        """
        if self.is_local:
            return "" if self._call("try it", lambda: has_links(Path(self.root))) else NO_LINKS
        key = f"{TEMPORARY}/guard-{uuid.uuid4().hex}"
        try:
            if self._create(key, b"first") and self._create(key, b"second"):
                return "it overwrites what is there although it is asked not to"
        finally:
            self.try_delete(key)
        return "" if is_conditional(self.url) else NO_CONDITIONS

    def warn_of_weakness(self) -> None:
        """In the log, once."""
        if weakness := self.weakness():
            warn_of_races(self.root if self.is_local else redact(self.url), weakness)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object, replacing what is there; a reader sees the old or the new one, never a part."""
        reached("before-write")
        self._call(f"put {key}", lambda: self._put(key, data))
        reached("after-write")

    def _put(self, key: str, data: bytes) -> None:
        if self.is_local:
            replace_file(Path(self.root), key, data)
        elif self._is_sftp:
            replace_over_sftp(self.fs, self.root, key, data)
        else:
            put_object(self.fs, self.url, self.path(key), data)

    def try_put(self, key: str, data: bytes) -> bool:
        """Write what nothing depends on: once, without patience or a word. Whether it was written."""
        try:
            self._put(key, data)
        except Exception as error:
            if not is_storage_fault(error):
                raise
            return False
        return True

    def read(self, key: str) -> bytes:
        return self._call(f"read {key}", lambda: self._whole(key))

    def read_if_exists(self, key: str, most_bytes: int | None = None) -> bytes | None:
        """None where there is no such object. Raises ValueError, before it is read, for more than `most_bytes`."""
        entry = self.entry(key) if most_bytes is not None and not self.is_local else None
        if most_bytes is not None and entry is not None and entry.size_bytes > most_bytes:
            raise ValueError(f"more than {most_bytes:,} bytes")

        def attempt() -> bytes | None:
            try:
                return self._whole(key, most_bytes)
            except FileNotFoundError as error:
                if error_code(error) in MISSING_PLACES:
                    raise
                return None

        return self._call(f"read {key}", attempt)

    def _whole(self, key: str, most_bytes: int | None = None) -> bytes:
        if self.is_local:
            return read_regular_file(Path(self.path(key)), most_bytes)
        return cast(bytes, self.fs.cat_file(self.path(key)))

    def find(self, pattern: str = "") -> list[Entry]:
        """Objects at any depth, or those that a glob names, sorted by name. Links to files are files."""

        def attempt() -> list[Entry]:
            if pattern:  # the root is no pattern, whatever is in its name
                found = self.fs.glob(f"{glob.escape(self.root.rstrip('/'))}/{pattern}", detail=True)
            else:
                found = self.fs.find(self.root, detail=True)
            root = self.root.rstrip("/") + "/"
            files = ((path.removeprefix(root), info) for path, info in found.items() if is_file(info))
            entries = (described(name, info) for name, info in files if not left_behind(name))
            return sorted(entries, key=lambda entry: entry.name)

        return self._call(f"list {pattern or 'all'}", attempt)

    def list(self, folder: str) -> list[Entry]:
        """Objects directly in the folder, sorted by name; empty where the folder is missing.

        Without the folder's own marker, and without names that begin with a dot: nothing of ours does.
        """

        def attempt() -> list[Entry]:
            try:
                found = self._fresh.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                if self.is_local and Path(self.path(folder)).is_dir():
                    raise BlockingIOError(errno.EAGAIN, "a file went away while the folder was listed") from None
                return []
            own = self.path(folder).rstrip("/")
            names = (
                (entry["name"].rsplit("/", 1)[-1], entry)
                for entry in found
                if is_file(entry) and entry["name"].rstrip("/") != own
            )
            return sorted(
                (described(f"{folder}/{n}", e) for n, e in names if not n.startswith(".") and not left_behind(n)),
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
        """None where there is no such object; a folder of that name is none."""

        def attempt() -> Entry | None:
            try:
                info = self._fresh.info(self.path(key))
            except FileNotFoundError:
                return None
            if self.is_local and info["type"] == "directory":
                raise IsADirectoryError(errno.EISDIR, "a folder", key)
            return described(key, info) if is_file(info) else None

        return self._call(f"look for {key}", attempt)

    def now(self) -> float | None:
        """Seconds since 1970 by the store's own clock, from an object written for that; None where it does not say."""
        key = f"{TEMPORARY}/clock-{uuid.uuid4().hex}"
        self.put(key, b"clock")
        entry = self.entry(key)
        self.delete(key)
        return None if entry is None else entry.modified

    def remove(self, entry: Entry) -> bool:
        """Delete what `entry` describes. False, and nothing is lost, where it is gone or something else lies there now.

        On disk that holds whatever others do meanwhile; in object storage another write may come in between the look
        and the deletion, which is a round trip.
        """
        reached("before-remove")
        if self.is_local:
            removed = self._call(f"remove {entry.name}", lambda: remove_file(Path(self.root), entry))
        else:
            there = self.entry(entry.name)
            removed = there is not None and same_write(there, entry)
            if removed:
                self.delete(entry.name)
        reached("after-remove")
        return removed

    def delete(self, key: str) -> None:
        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.path(key))

        self._call(f"delete {key}", attempt)

    def try_delete(self, key: str) -> None:
        """Take away what harms nobody where it stays: once, without patience or a word."""
        try:
            self.fs.rm_file(self.path(key))
        except Exception as error:
            if not is_storage_fault(error):
                raise

    def open(self, key: str, version: str | None = None) -> BinaryIO:
        """For reading with seeks. Each read of a remote object is a request of its own, as patient as every call.

        With a `version`, reads from S3 raise ObjectChangedError once the object is another; elsewhere look afterwards.
        """
        if self.is_local:
            return self._call(f"open {key}", lambda: cast(BinaryIO, self.fs.open(self.path(key), "rb")))
        info = self._call(f"open {key}", lambda: self._fresh.info(self.path(key)))
        if info["size"] is None:  # an HTTP server that does not say: no seeking then
            return io.BytesIO(self.read(key))
        return cast(BinaryIO, io.BufferedReader(RemoteFile(self, key, int(info["size"]), version), FOOTER_BYTES))

    def read_range(self, key: str, start: int, stop: int, version: str | None = None) -> bytes:
        """Raises StorageError where fewer bytes come, and ObjectChangedError as a file from `open` does."""

        def attempt() -> bytes:
            if (etag := etag_of(version)) and scheme_of(self.url) in S3:
                data = read_if_match(self.fs, self.path(key), start, stop, etag)
            else:
                data = cast(bytes, self.fs.cat_file(self.path(key), start=start, end=stop))
            if len(data) > stop - start:  # an HTTP server that knows no ranges sends the whole
                data = data[start:stop]
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data)} bytes came instead of {stop - start}")
            return data

        return self._call(f"read {key}", attempt)

    def parquet_metadata(self, entry: Entry, version: str | None = None) -> pq.FileMetaData:
        """Of the footer, in one ranged read. Raises pyarrow.ArrowInvalid where the object is no whole Parquet file."""
        try:
            return pq.read_metadata(pa.BufferReader(self.parquet_tail(entry, version)))
        except OSError as error:  # what Arrow raises where a byte of the footer is wrong
            raise pa.ArrowInvalid(str(error)) from None

    def parquet_tail(self, entry: Entry, version: str | None = None) -> bytes:
        """The end of the object with the whole footer, if it has one; mostly one ranged read, and at most 64 MiB."""
        window = FOOTER_BYTES
        while True:
            start = max(0, entry.size_bytes - window)
            tail = self.read_range(entry.name, start, entry.size_bytes, version) if entry.size_bytes else b""
            needed = int.from_bytes(tail[-8:-4], "little") + 8
            if needed <= len(tail) or start == 0 or tail[-4:] != b"PAR1" or needed > LARGEST_FOOTER_BYTES:
                return tail
            window = needed

    def map(self, function: Callable[[S], T], things: Iterable[S]) -> Iterable[T]:
        """Apply to many objects at once, in order; object storage answers slowly but in parallel."""
        with ThreadPoolExecutor(_IO_THREADS) as pool:
            yield from pool.map(function, things)

    def _call(self, what: str, attempt: Callable[[], T]) -> T:
        def announce(state: RetryCallState) -> None:
            wait_s = state.next_action.sleep if state.next_action else 0.0
            if self._is_sftp:
                self._threads.opened = None  # a connection that broke does not heal
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
            kind = MissingObjectError if isinstance(error, FileNotFoundError) else StorageError
            raise kind(
                self._without_secrets(f"cannot {what} in {self.url}: {describe(error)}. {advice(error)}")
            ) from None

    def _without_secrets(self, text: str) -> str:
        text = redact(text)
        return re.sub(r"\?[^\s'\"]+", "?***", text) if self._suffix else text
