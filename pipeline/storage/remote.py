"""Object storage and other remote file systems, by fsspec."""

from __future__ import annotations

import io
import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.faults import describe, error_code, is_storage_fault, settings_advice
from promptmill.pipeline.storage.local import NO_CONDITIONS, warn_of_races
from promptmill.pipeline.storage.urls import AZURE, GCS, OBJECT_STORES, S3, SFTP, absolute_url
from promptmill.schemas.errors import StorageError
from promptmill.schemas.urls import scheme_of

if TYPE_CHECKING:
    from promptmill.pipeline.storage.store import Store

CALL_TIMEOUT_S = 120.0  # a server that accepts and stays silent would block a PUT for ever
_SLOWEST_BYTES_PER_S = 1 << 20
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
}
"""Without one a browser downloads the report from a bucket instead of showing it."""


def is_conditional(url: str) -> bool:
    """Whether `mode="create"` is a condition that the server checks; elsewhere fsspec looks first and then writes."""
    return scheme_of(url) in OBJECT_STORES


def create_object(fs: Any, url: str, path: str, data: bytes) -> bool:
    """False where the key is taken."""
    if not is_conditional(url):
        warn_of_races(redact(url), NO_CONDITIONS)
    try:
        put_object(fs, url, path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # Some servers' 412 reaches us as EINVAL with the client's error as its cause.
        if error_code(error) in {"PreconditionFailed", "412"}:
            return False
        raise
    return True


def put_object(fs: Any, url: str, path: str, data: bytes, **options: Any) -> None:
    if isinstance(fs, fsspec.asyn.AsyncFileSystem):
        if scheme_of(url) in S3:
            # One PUT whatever the size (S3 takes 5 GiB): not every server honours the condition on several parts.
            options["chunksize"] = len(data) + 1
            if kind := _CONTENT_TYPES.get(path.rpartition(".")[2]):
                options["ContentType"] = kind
        timeout = CALL_TIMEOUT_S + len(data) / _SLOWEST_BYTES_PER_S
        fsspec.asyn.sync(fs.loop, fs._pipe_file, path, data, timeout=timeout, **options)
    else:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data, **options)


class RemoteFile(io.RawIOBase):
    """One object as a file of `size_bytes`, without any cache: Parquet readers ask for whole column chunks."""

    def __init__(self, store: Store, key: str, size_bytes: int, version: str | None = None) -> None:
        self._store, self._key, self._size, self._at, self._version = store, key, size_bytes, 0, version

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
        data = self._store.read_range(self._key, self._at, stop, self._version)
        buffer[: len(data)] = data
        self._at = stop
        return len(data)


class ObjectChangedError(Exception):
    """The object is not the one any more whose version was asked for."""


def read_if_match(fs: Any, path: str, start: int, stop: int, etag: str) -> bytes:
    """Raises ObjectChangedError; s3fs has no word for the condition."""
    bucket, key, _ = fs.split_path(path)
    condition = {"IfMatch": f'"{etag}"', "Range": f"bytes={start}-{stop - 1}"}

    async def read() -> bytes:
        reply = await fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
        async with reply["Body"] as body:
            data: bytes = await body.read()
        return data

    try:
        found: bytes = fsspec.asyn.sync(fs.loop, read)
    except Exception as error:
        if error_code(error) in {"PreconditionFailed", "412"}:
            raise ObjectChangedError(path) from None
        raise
    return found


_TALKATIVE = ("paramiko", "gcsfs", "azure", "fsspec", "s3fs")
"""They log tracebacks of what our own patience tells in a line."""


def _options(scheme: str) -> dict[str, Any]:
    """What makes one call one try, and shows what others wrote meanwhile."""
    if scheme in S3:
        config = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
        return {"use_listings_cache": False, "default_fill_cache": False, "config_kwargs": config}
    if scheme in AZURE:
        return {"connection_timeout": 10, "read_timeout": 60, "use_listings_cache": False}
    if scheme in GCS:
        # Else each call first asks for the kind of its bucket, in vain where credentials are not Google's.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        return {"use_listings_cache": False}
    return {"timeout": 10, "skip_instance_cache": True} if scheme in SFTP else {}


_SETTINGS = ("AWS_", "AZURE_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR_")
_met_settings: dict[type, dict[str, str]] = {}


def _forget_clients_of_other_settings(kind: type[fsspec.AbstractFileSystem]) -> None:
    """fsspec keeps one client for the process, whatever the environment says later: another key, another endpoint."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(_SETTINGS) or name.upper().endswith("_PROXY")
    }
    if _met_settings.setdefault(kind, settings) != settings:
        _met_settings[kind] = settings
        kind.clear_instance_cache()


def open_filesystem(url: str) -> tuple[Any, str]:
    """Raises StorageError for settings that no try can help."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = _options(scheme_of(url))
    try:
        _forget_clients_of_other_settings(fsspec.get_filesystem_class(scheme_of(url) or "file"))
        fs, root = fsspec.core.url_to_fs(absolute_url(url), **options)
        if scheme_of(url) in S3:
            _make_patient(fs)
        _stop_own_retries(fs)
    except Exception as error:  # clients complain of their settings with errors of every kind
        if is_storage_fault(error):
            raise
        raise StorageError(f"cannot open {redact(url)}: {describe(error)}. {settings_advice(url)}") from None
    return fs, root


def _make_patient(fs: Any) -> None:
    """One request a call: the patience is ours. botocore's five tries inside s3fs' five took 317 s to say no."""
    from botocore.handlers import add_expect_header

    fs.retries = 1
    _spare_checksums(fs.s3.meta)
    # With Expect: 100-continue botocore waits for a reply without any timer: a silent server blocks for ever.
    fs.s3.meta.events.unregister("before-call.s3", add_expect_header)


_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


def _spare_checksums(meta: Any) -> None:
    """boto3 sends a checksum after the body, over HTTPS; Ceph before 2025 and many appliances know no such trailer."""
    host = urlsplit(str(meta.endpoint_url)).hostname or ""
    if not host.endswith(_AWS) and not os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION"):
        meta.config.request_checksum_calculation = "when_required"


def _stop_own_retries(fs: Any) -> None:
    """Azure's client tries four times, Google's six, over half a minute: the patience is ours."""
    for policy in getattr(getattr(getattr(fs, "service_client", None), "_pipeline", None), "_impl_policies", ()):
        if hasattr(policy, "total_retries"):
            policy.total_retries = 0
    once = getattr(getattr(type(fs), "_request", None), "__wrapped__", None)
    if once is not None and "gcsfs" in type(fs).__module__:
        fs._request = once.__get__(fs)
