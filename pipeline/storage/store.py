"""Objects under one root, on disk or in object storage."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fsspec.implementations.local import LocalFileSystem

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.display import keep_secrets, redact, shown
from promptmill.pipeline.storage.backend import TEMPORARY, Backend, warn_of_races
from promptmill.pipeline.storage.clients import open_filesystem
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.faults import MISSING_PLACES, error_code, is_storage_fault
from promptmill.pipeline.storage.local import LocalBackend
from promptmill.pipeline.storage.patience import Patience, default_patience_s
from promptmill.pipeline.storage.remote import RemoteBackend
from promptmill.pipeline.storage.sftp import SftpBackend
from promptmill.pipeline.storage.urls import SFTP, check_place
from promptmill.schemas.urls import scheme_of, split_query

S = TypeVar("S")
T = TypeVar("T")
Folders = list[str]
log = logging.getLogger(__name__)

_IO_THREADS = 16


class Store:
    """Raises StorageError when a call fails for good; transient faults are retried for `patience_s` seconds.

    MissingObjectError, a StorageError, where what is to be read is not there.

    Credentials come from the environment, profile or instance role of the process that opens the store: nothing
    secret is pickled or written. `waits` counts calls that were tried again, `waited_s` the seconds before those.
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
        query = query or own_query
        self.patience_s = default_patience_s() if patience_s is None else patience_s
        self.on_wait = on_wait or (lambda message: log.warning("%s", shown(message)))
        self.waits, self.waited_s = 0, 0.0
        self._patience = Patience(self.patience_s, self.url, self._wait, bool(query))
        self._backend: Backend | None = None
        check_place(self.url, redact(self.url))
        self._backend = self._call("open it", lambda: open_backend(self.url, f"?{query}" if query else ""))

    def __repr__(self) -> str:
        return f"Store({redact(self.url)!r})"

    @property
    def backend(self) -> Backend:
        assert self._backend is not None
        return self._backend

    @property
    def fs(self) -> Any:
        """The client's own file system, for what has no word here."""
        return self.backend.fs

    @property
    def root(self) -> str:
        return self.backend.root

    def path(self, key: str) -> str:
        return self.backend.path(key)

    def local_path(self, key: str = "") -> Path | None:
        """Where it lies on a disk of this machine, None in object storage."""
        return self.backend.local_path(key)

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
        return self._call(f"create {key}", lambda: self.backend.create(key, data))

    def weakness(self) -> str:
        """Why of two writers at one instant both could think they were first; empty where one of them wins.

        Tried on an object below `.tmp/`, which is deleted again.
        """
        if not self.backend.may_overwrite:
            return self._call("try it", self.backend.weakness)
        key = f"{TEMPORARY}/guard-{uuid.uuid4().hex}"
        try:
            if self._create(key, b"first") and self._create(key, b"second"):
                return "it overwrites what is there although it is asked not to"
        finally:
            self.try_delete(key)
        return self.backend.weakness()

    def warn_of_weakness(self) -> None:
        """In the log, once."""
        if weakness := self.weakness():
            warn_of_races(self.backend.shown, weakness)

    def put(self, key: str, data: bytes) -> None:
        """Write the whole object, replacing what is there; a reader sees the old or the new one, never a part."""
        reached("before-write")
        self._call(f"put {key}", lambda: self.backend.put(key, data))
        reached("after-write")

    def try_put(self, key: str, data: bytes) -> bool:
        """Write what nothing depends on: once, without patience or a word. Whether it was written."""
        try:
            self.backend.put(key, data)
        except Exception as error:
            if not is_storage_fault(error):
                raise
            return False
        return True

    def read(self, key: str) -> bytes:
        return self._call(f"read {key}", lambda: self.backend.read(key))

    def read_if_exists(self, key: str, most_bytes: int | None = None) -> bytes | None:
        """None where there is no such object. Raises ValueError, before it is read, for more than `most_bytes`."""

        def attempt() -> bytes | None:
            try:
                return self.backend.read(key, most_bytes)
            except FileNotFoundError as error:
                if error_code(error) in MISSING_PLACES:
                    raise
                return None

        return self._call(f"read {key}", attempt)

    def find(self, pattern: str = "") -> list[Entry]:
        """Objects at any depth, or those that a glob names, sorted by name. Links to files are files."""
        return self._call(f"list {pattern or 'all'}", lambda: self.backend.find(pattern))

    def list(self, folder: str) -> list[Entry]:
        """Objects directly in the folder, sorted by name; empty where the folder is missing.

        Without the folder's own marker, and without names that begin with a dot: nothing of ours does.
        """
        return self._call(f"list {folder}/", lambda: self.backend.list(folder))

    def folders(self, folder: str = "") -> Folders:
        """Folders directly in the folder, sorted; without those whose name begins with a dot, and without links."""
        return self._call(f"list {folder or 'the folders'}", lambda: self.backend.folders(folder))

    def root_info(self) -> tuple[str, int] | None:
        """What the URL of the store itself is, "file" or "directory", and its bytes; None where nothing is."""
        return self._call("look", self.backend.root_info)

    def entry(self, key: str) -> Entry | None:
        """None where there is no such object; a folder of that name is none."""
        return self._call(f"look for {key}", lambda: self.backend.entry(key))

    def content_version(self, entry: Entry | None) -> str | None:
        """Of a remote object its version where that is of its content; None where the store says no more than a time,
        and on disk, where a file's bytes are hashed instead."""
        return self.backend.content_version(entry)

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
        name = entry.name
        removed = self._call(f"look for {name}", lambda: self.backend.still_there(entry))
        removed = removed and self._call(f"remove {name}", lambda: self.backend.remove(entry))
        reached("after-remove")
        return removed

    def delete(self, key: str) -> None:
        self._call(f"delete {key}", lambda: self.backend.delete(key))

    def try_delete(self, key: str) -> None:
        """Take away what harms nobody where it stays: once, without patience or a word."""
        try:
            self.backend.delete(key)
        except Exception as error:
            if not is_storage_fault(error):
                raise

    def tidy(self) -> None:
        """Take away the folder of temporary files where it is empty; object storage has no folders."""
        folder = self.local_path(TEMPORARY)
        with contextlib.suppress(OSError):
            if folder is not None:
                folder.rmdir()

    def drop_empty_folders(self, names: Iterable[str]) -> None:
        """Take away these folders, and then the root, where nothing lies in them; object storage has none."""
        root = self.local_path()
        if root is None:
            return
        folders = [Path(folder) for name in names for folder, _, _ in os.walk(root / name, topdown=False)]
        for folder in (*folders, root):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def open(self, key: str, version: str | None = None) -> BinaryIO:
        """For reading with seeks. Each read of a remote object is a request of its own, as patient as every call.

        With a `version`, reads from S3 raise ObjectChangedError once the object is another; elsewhere look afterwards.
        """
        return self._call(f"open {key}", lambda: self.backend.open(key, partial(self.read_range, key, version=version)))

    def read_range(self, key: str, start: int, stop: int, version: str | None = None) -> bytes:
        """Raises StorageError where fewer bytes come, and ObjectChangedError as a file from `open` does."""
        return self._call(f"read {key}", lambda: self.backend.read_range(key, start, stop, version))

    def map(self, function: Callable[[S], T], things: Iterable[S]) -> Iterable[T]:
        """Apply to many objects at once, in order; object storage answers slowly but in parallel."""
        with ThreadPoolExecutor(_IO_THREADS) as pool:
            yield from pool.map(function, things)

    def _call(self, what: str, attempt: Callable[[], T]) -> T:
        return self._patience.call(what, attempt)

    def _wait(self, message: str, wait_s: float) -> None:
        self.waits, self.waited_s = self.waits + 1, self.waited_s + wait_s
        if self._backend is not None:
            self._backend.reconnect()
        self.on_wait(message)


def open_backend(url: str, suffix: str = "") -> Backend:
    """`suffix` is the query that goes with every request. Raises StorageError for settings that no try can help."""
    fs, root = open_filesystem(url)
    if isinstance(fs, LocalFileSystem):
        return LocalBackend(url, fs, root, suffix)
    return (SftpBackend if scheme_of(url) in SFTP else RemoteBackend)(url, fs, root, suffix)
