"""Whole files or none, on a local disk: what object storage does by itself."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fsspec.implementations.local import LocalFileSystem

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.storage.entry import Entry, described

T = TypeVar("T")
log = logging.getLogger(__name__)

TEMPORARY = ".tmp"
TAKEN = "taken-"
_TRIES = 3


@functools.cache
def warn_of_races(where: str, lacking: str) -> None:
    """Once a process for each output."""
    log.warning("%s has no %s: two writers at the same instant could both think they were first", where, lacking)


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
    temporary = _write_temporary(root, data)
    reached("temporary-written")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(temporary, target)
        reached("linked")
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}:
            raise
        warn_of_races(str(root), "hard links")
        if target.exists():
            return False
        temporary.rename(target)
        return True
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


@_again_where_it_vanished
def replace_file(root: Path, key: str, data: bytes) -> None:
    target = root / key
    temporary = _write_temporary(root, data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


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
        target.rename(taken)
    except FileNotFoundError:
        return False
    version = _described(taken).version
    os.utime(taken)  # young again, so that no other repair takes it for a left-over
    reached("taken-away")
    if version != entry.version:
        _put_back(taken, target)
        return False
    taken.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


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


def _write_temporary(root: Path, data: bytes) -> Path:
    # Beside the data folders and not inside: a tool that reads data/ while the job runs sees whole files only.
    folder = root / TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / uuid.uuid4().hex
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
