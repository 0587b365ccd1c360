"""Clients of stores as we want them: one try a call, nothing remembered, no chatter."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

import fsspec

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.faults import describe, is_storage_fault, settings_advice
from promptmill.pipeline.storage.urls import AZURE, GCS, S3, SFTP, absolute_url
from promptmill.schemas.errors import StorageError
from promptmill.schemas.urls import scheme_of

HTTP_SILENCE_S = 30.0
"""Of a web server, after which a call is given up; what is there takes two calls where the first is not answered."""
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
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout  # else 300 s for a whole call, silent or not

        silence = ClientTimeout(total=None, sock_connect=10, sock_read=HTTP_SILENCE_S)
        return {"client_kwargs": {"timeout": silence}}
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
    options, place = _options(scheme_of(url)), absolute_url(url)
    try:
        _forget_clients_of_other_settings(fsspec.get_filesystem_class(scheme_of(url) or "file"))
        fs, root = fsspec.core.url_to_fs(place, **options)
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
