"""Bytes on a disk that are there after a power failure too."""

from __future__ import annotations

import errno
import functools
import logging
import os
import uuid
from pathlib import Path

log = logging.getLogger(__name__)

_NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
_NO_FOLDER_SYNC = _NO_SYNC | {errno.EBADF, errno.EIO, errno.EACCES, errno.EPERM}


def write_temporary(folder: Path, data: bytes, prefix: str = "") -> Path:
    # Beside the data folders and not inside: a tool that reads data/ while the job runs sees whole files only.
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{uuid.uuid4().hex}"
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno(), "a file", folder, _NO_SYNC)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
        _warn_of_no_sync("the folder", str(folder), os.strerror(error.errno))
        return
    try:
        _sync(descriptor, "the folder", folder, _NO_FOLDER_SYNC)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, what: str, folder: Path, forgiven: frozenset[int]) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in forgiven:
            raise
        _warn_of_no_sync(what, str(folder), os.strerror(error.errno))


@functools.cache
def _warn_of_no_sync(what: str, where: str, error: str) -> None:
    log.warning(
        "%s of %s cannot be synced (%s): a power failure may take what was written last, which is then made again",
        *(what, where, error),
    )
