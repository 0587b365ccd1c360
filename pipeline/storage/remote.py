"""Object storage and other remote file systems, by fsspec."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import fsspec.asyn

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.urls import absolute_url, check_url

if TYPE_CHECKING:
    from promptmill.pipeline.storage.store import Store


class RemoteFile(io.RawIOBase):
    """One object as a file of `size_bytes`, without any cache: Parquet readers ask for whole column chunks."""

    def __init__(self, store: Store, key: str, size_bytes: int) -> None:
        self._store, self._key, self._size, self._at = store, key, size_bytes, 0

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
        data = self._store.read_range(self._key, self._at, stop)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


def is_file(info: dict[str, Any]) -> bool:
    # fsspec lists a link on disk as "other": caches, DVC and Kubernetes mounts are made of links.
    return info["type"] == "file" or (info.get("islink", False) and Path(info["name"]).is_file())


def open_filesystem(url: str) -> tuple[Any, str]:
    options: dict[str, Any] = {}
    if url.startswith(("s3://", "s3a://")):
        options = {
            "use_listings_cache": False,
            "default_fill_cache": False,
            "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}},
        }
    check_url(url, redact(url))
    fs, root = fsspec.core.url_to_fs(absolute_url(url), **options)
    if url.startswith(("s3://", "s3a://")):
        _make_patient(fs)
    return fs, root


def _make_patient(fs: Any) -> None:
    """One request a call: the patience is ours. botocore's five tries inside s3fs' five took 317 s to say no."""
    from botocore.handlers import add_expect_header

    fs.retries = 1
    # With Expect: 100-continue botocore waits for a reply without any timer: a silent server blocks for ever.
    fs.s3.meta.events.unregister("before-call.s3", add_expect_header)
