"""Whole files or none over SFTP, whose servers promise less than object storage."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

from promptmill.pipeline.storage.backend import TEMPORARY, warn_of_races
from promptmill.pipeline.storage.clients import open_filesystem
from promptmill.pipeline.storage.remote import NO_CONDITIONS, RemoteBackend


class SftpBackend(RemoteBackend):
    """One connection a thread: paramiko loses answers where two share one."""

    def __init__(self, url: str, fs: Any, root: str, suffix: str = "") -> None:
        super().__init__(url, fs, root, suffix)
        self._threads = threading.local()
        self._threads.fs = fs

    @property
    def fs(self) -> Any:
        if getattr(self._threads, "fs", None) is None:
            self._threads.fs, _ = open_filesystem(self.url)
        return self._threads.fs

    def reconnect(self) -> None:
        self._threads.fs = None  # a connection that broke does not heal

    def create(self, key: str, data: bytes) -> bool:
        """OpenSSH renames by a link, which fails where another was first; other servers look, then rename."""
        warn_of_races(self.shown, NO_CONDITIONS)
        target, fs = f"{self.root.rstrip('/')}/{key}", self.fs
        temporary = _write_temporary(fs, self.root, data)
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

    def put(self, key: str, data: bytes) -> None:
        target, fs = f"{self.root.rstrip('/')}/{key}", self.fs
        temporary = _write_temporary(fs, self.root, data)
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
