"""Whole files or none, on a local disk: what object storage does by itself."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from fsspec.implementations.local import LocalFileSystem

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.storage.backend import TEMPORARY, Backend, Info, Infos, warn_of_races
from promptmill.pipeline.storage.durable import sync_folder, write_temporary
from promptmill.pipeline.storage.entry import Entry, described

T = TypeVar("T")
TAKEN = "taken-"
_TRIES = 3


NO_LINK = frozenset(
    {
        *(errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL),
        *(errno.EMLINK, errno.EXDEV, errno.EIO),
    }
)
"""What disks without hard links answer, each in its own way. Where more is wrong than that, what follows fails too."""

NO_LINKS = "there are no hard links"


class LocalBackend(Backend):
    """A folder on a disk of this machine."""

    may_overwrite = False

    @property
    def shown(self) -> str:
        return self.root

    def local_path(self, key: str) -> Path:
        return Path(self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        return create_file(Path(self.root), key, data)

    def put(self, key: str, data: bytes) -> None:
        replace_file(Path(self.root), key, data)

    def read(self, key: str, most_bytes: int | None = None) -> bytes:
        return read_regular_file(self.local_path(key), most_bytes)

    def open(self, key: str, read_range: Callable[[int, int], bytes]) -> BinaryIO:
        return cast(BinaryIO, self.fs.open(self.path(key), "rb"))

    def still_there(self, entry: Entry) -> bool:
        """Seen by `remove` itself, after the file was taken away."""
        return True

    def remove(self, entry: Entry) -> bool:
        return remove_file(Path(self.root), entry)

    def content_version(self, entry: Entry | None) -> str | None:
        return None

    def weakness(self) -> str:
        return "" if has_links(Path(self.root)) else NO_LINKS

    def _ls(self, folder: str) -> Infos:
        try:
            return super()._ls(folder)
        except FileNotFoundError:
            if Path(self.path(folder)).is_dir():
                raise BlockingIOError(errno.EAGAIN, "a file went away while the folder was listed") from None
            raise

    def _info(self, key: str) -> Info:
        info = super()._info(key)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a folder", key)
        return info


def _again_where_it_vanished(write: Callable[[Path, str, bytes], T]) -> Callable[[Path, str, bytes], T]:
    """A writer that was stopped for long may find that `verify --repair` took its temporary file for a left-over."""

    @functools.wraps(write)
    def patient(root: Path, key: str, data: bytes) -> T:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                return write(root, key, data)
        return write(root, key, data)

    return patient


@_again_where_it_vanished
def create_file(root: Path, key: str, data: bytes) -> bool:
    target = root / key
    temporary = write_temporary(root / TEMPORARY, data)
    reached("temporary-written")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        created = _give_name(temporary, target, root, data)
    finally:
        temporary.unlink(missing_ok=True)
    if created:
        sync_folder(target.parent)
    return created


def _give_name(temporary: Path, target: Path, root: Path, data: bytes) -> bool:
    try:
        os.link(temporary, target)
        reached("linked")
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        if error.errno == errno.EXDEV and not temporary.name.startswith("."):  # a folder on a disk of its own
            with _beside(target, data) as near:
                return _give_name(near, target, root, data)
        warn_of_races(str(root), NO_LINKS)
        if target.exists():
            return False
        temporary.rename(target)
    return True


@contextlib.contextmanager
def _beside(target: Path, data: bytes) -> Iterator[Path]:
    """The data in a hidden file of the same folder."""
    near = write_temporary(target.parent, data, ".")
    try:
        yield near
    finally:
        near.unlink(missing_ok=True)


@_again_where_it_vanished
def replace_file(root: Path, key: str, data: bytes) -> None:
    target = root / key
    temporary = write_temporary(root / TEMPORARY, data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with _beside(target, data) as near:
            near.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def has_links(root: Path) -> bool:
    """Whether of two writers of a file one wins. Raises OSError where nothing can be written."""
    temporary = write_temporary(root / TEMPORARY, b"links?")
    second = temporary.with_name(uuid.uuid4().hex)
    try:
        os.link(temporary, second)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    finally:
        temporary.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return True


def read_regular_file(path: Path, most_bytes: int | None = None) -> bytes:
    """Waits for no FIFO and reads no device without end. Raises OSError, ValueError for more than `most_bytes`."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        refuse_irregular(file.fileno())
        if most_bytes is None:
            return file.read()
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"more than {most_bytes:,} bytes")
    return data


def refuse_irregular(file: int | str) -> None:
    """Raises OSError for what is there and neither a file nor a folder, by path or open descriptor."""
    mode = os.stat(file).st_mode  # noqa: PTH116 - of a descriptor too
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.ENXIO, f"{_KINDS.get(stat.S_IFMT(mode), 'a device')}, no file")


_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


def remove_file(root: Path, entry: Entry) -> bool:
    """Taken away in one step and then looked at: what is not the file that was meant is put back."""
    target, taken = root / entry.name, root / TEMPORARY / f"{TAKEN}{uuid.uuid4().hex}"
    taken.parent.mkdir(parents=True, exist_ok=True)
    try:
        taken = _take_away(target, taken)
    except FileNotFoundError:
        return False
    version = _described(taken).version
    os.utime(taken)  # young again, so that no other repair takes it for a left-over
    reached("taken-away")
    if version != entry.version:
        _put_back(taken, target)
        return False
    taken.unlink(missing_ok=True)
    sync_folder(target.parent)
    return True


def _take_away(target: Path, taken: Path) -> Path:
    try:
        target.rename(taken)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        taken = target.with_name(f".{taken.name}")
        target.rename(taken)
    return taken


def _put_back(taken: Path, target: Path) -> None:
    try:
        os.link(taken, target)
    except FileExistsError:  # made anew meanwhile
        pass
    except OSError:
        if not target.exists():
            taken.rename(target)
    taken.unlink(missing_ok=True)


def _described(path: Path) -> Entry:
    return described(path.name, LocalFileSystem().info(str(path)))
