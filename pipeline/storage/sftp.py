"""Whole files or none over SFTP, whose servers promise less than object storage."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.local import NO_CONDITIONS, TEMPORARY, warn_of_races


def create_over_sftp(fs: Any, url: str, root: str, key: str, data: bytes) -> bool:
    """OpenSSH renames by a link, which fails where another was first; other servers look, then rename."""
    warn_of_races(redact(url), NO_CONDITIONS)
    target = f"{root.rstrip('/')}/{key}"
    temporary = _write_temporary(fs, root, data)
    try:
        _make_parent(fs, target)
        fs.ftp.rename(temporary, target)
    except OSError:
        if fs.exists(target):
            return False
        raise
    finally:
        with contextlib.suppress(OSError):
            fs.ftp.remove(temporary)
    return True


def replace_over_sftp(fs: Any, root: str, key: str, data: bytes) -> None:
    target = f"{root.rstrip('/')}/{key}"
    temporary = _write_temporary(fs, root, data)
    _make_parent(fs, target)
    try:
        fs.ftp.posix_rename(temporary, target)
    except OSError:  # a server without the extension of OpenSSH
        with contextlib.suppress(FileNotFoundError):
            fs.ftp.remove(target)
        fs.ftp.rename(temporary, target)


def _write_temporary(fs: Any, root: str, data: bytes) -> str:
    temporary = f"{root.rstrip('/')}/{TEMPORARY}/{uuid.uuid4().hex}"
    _make_parent(fs, temporary)
    with fs.ftp.open(temporary, "wx") as file:
        file.set_pipelined(True)  # else one round trip for each 32 KiB
        file.write(data)
    if (size := fs.ftp.stat(temporary).st_size) != len(data):
        raise ConnectionError(f"{size} of {len(data)} bytes arrived")
    return temporary


def _make_parent(fs: Any, path: str) -> None:
    parent = path.rpartition("/")[0]
    if not fs.exists(parent):
        with contextlib.suppress(FileExistsError):
            fs.makedirs(parent, exist_ok=True)
