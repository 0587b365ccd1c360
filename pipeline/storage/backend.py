"""What every file system that fsspec opens can do: one try a call, with the client's own errors."""

from __future__ import annotations

import abc
import contextlib
import functools
import glob
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.entry import Entry, described, is_file, left_behind
from promptmill.pipeline.storage.faults import no_answer

log = logging.getLogger(__name__)

TEMPORARY = ".tmp"


@functools.cache
def warn_of_races(where: str, weakness: str) -> None:
    """Once a process for each output."""
    log.warning("%s: %s, so two writers at the same instant could both think they were first", where, weakness)


Entries = list[Entry]
Names = list[str]
Info = dict[str, Any]
Infos = list[Info]


class Backend(abc.ABC):
    """Objects below one root, by the words of `Store`, which gives each of these calls its patience."""

    may_overwrite: ClassVar[bool] = True
    """Servers ignore conditions without a word."""

    def __init__(self, url: str, fs: Any, root: str, suffix: str = "") -> None:
        """`suffix` is the query that goes with every request."""
        self.url, self.root = url, root
        self._fs, self._suffix = fs, suffix

    @property
    def fs(self) -> Any:
        return self._fs

    def path(self, key: str) -> str:
        return f"{self.root.rstrip('/')}/{key}{self._suffix}" if key else self.root

    @property
    def shown(self) -> str:
        """How messages call the place."""
        return redact(self.url)

    def local_path(self, key: str) -> Path | None:
        return None

    def reconnect(self) -> None:  # noqa: B027 - most need nothing
        """Called after a fault."""

    @abc.abstractmethod
    def create(self, key: str, data: bytes) -> bool: ...

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None: ...

    @abc.abstractmethod
    def read(self, key: str, most_bytes: int | None = None) -> bytes:
        """Raises ValueError for more than `most_bytes`."""

    @abc.abstractmethod
    def open(self, key: str, read_range: Callable[[int, int], bytes]) -> BinaryIO:
        """`read_range` is this backend's own, with patience."""

    @abc.abstractmethod
    def still_there(self, entry: Entry) -> bool: ...

    @abc.abstractmethod
    def remove(self, entry: Entry) -> bool: ...

    @abc.abstractmethod
    def content_version(self, entry: Entry | None) -> str | None:
        """The version of an object where that is of its content."""

    @abc.abstractmethod
    def weakness(self) -> str:
        """As far as is known without two objects of one name."""

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def find(self, pattern: str) -> Entries:
        root = self.root.rstrip("/")
        if pattern:  # the root is no pattern, whatever is in its name
            found = self.fs.glob(f"{glob.escape(root)}/{pattern}", detail=True)
        else:
            found = self.fs.find(self.root, detail=True)
        files = ((path.removeprefix(f"{root}/"), info) for path, info in found.items() if is_file(info))
        return _sorted(described(name, info) for name, info in files if not left_behind(name))

    def list(self, folder: str) -> Entries:
        try:
            found = self._ls(folder)
        except FileNotFoundError:
            return []
        own = self.path(folder).rstrip("/")
        files = (info for info in found if is_file(info) and info["name"].rstrip("/") != own)
        names = ((info["name"].rsplit("/", 1)[-1], info) for info in files)
        return _sorted(
            described(f"{folder}/{name}", info)
            for name, info in names
            if not name.startswith(".") and not left_behind(name)
        )

    def folders(self, folder: str) -> Names:
        try:
            found = self._ls(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        own = self.path(folder).strip("/")
        paths = (info["name"].strip("/") for info in found if info["type"] == "directory")
        names = sorted({path.rpartition("/")[2] for path in paths if path != own})
        return [f"{folder}/{name}" if folder else name for name in names if not name.startswith(".")]

    def root_info(self) -> tuple[str, int] | None:
        try:
            info = self.fs.info(self.root)
        except FileNotFoundError as error:
            if (answer := no_answer(error)) is not None:
                raise answer from None
            return None
        return info["type"], int(info["size"] or 0)

    def entry(self, key: str) -> Entry | None:
        try:
            info = self._info(key)
        except FileNotFoundError as error:
            if (answer := no_answer(error)) is not None:
                raise answer from None
            return None
        return described(key, info) if is_file(info) else None

    def read_range(self, key: str, start: int, stop: int, version: str | None = None) -> bytes:
        data = self._part(key, start, stop, version)
        if len(data) > stop - start:  # an HTTP server that knows no ranges sends the whole
            data = data[start:stop]
        if len(data) != stop - start:
            raise ConnectionError(f"{len(data)} bytes came instead of {stop - start}")
        return data

    def _part(self, key: str, start: int, stop: int, version: str | None) -> bytes:
        return cast(bytes, self.fs.cat_file(self.path(key), start=start, end=stop))

    def _ls(self, folder: str) -> Infos:
        return cast(Infos, self._fresh.ls(self.path(folder), detail=True))

    def _info(self, key: str) -> Info:
        return cast(Info, self._fresh.info(self.path(key)))

    @property
    def _fresh(self) -> Any:
        """The file system without what it remembers of listings; not all of them take `refresh=True`."""
        self.fs.invalidate_cache()
        return self.fs


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.name)
