"""URLs and paths: what fsspec can open, what is remote, what they mean from another folder."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn

from promptmill.pipeline.display import keep_secrets, redact
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.urls import chain, holds_password, names_secret, scheme_of, split_query

__all__ = ["absolute_url", "check_url", "is_remote", "split_query"]

_NEEDS_NO_HOST = ("file", "local", "memory")
_WITH_HOST = ("http", "https", "ftp", "sftp", "ssh", "hdfs", "webhdfs", "smb")


def check_url(url: str, where: str) -> None:
    """Raises InputError for what holds a secret that no request carries, and for what fsspec cannot open.

    Asks no server. The query of a plain HTTP address is let through: presigned URLs are made of it.
    """
    keep_secrets([url])
    links = chain(url)
    if holds_password(url):
        over_ssh = scheme_of(links[-1]) in ("sftp", "ssh")
        hint = "Give credentials in the environment" + (": FSSPEC_SFTP_PASSWORD, or a key" if over_ssh else "")
        raise InputError(Problem(where, "a URL without user and password", "one that holds them", hint))
    if names_secret(url) or (len(links) > 1 and split_query(url) != (url, "")):
        hint = "Give it in the environment, or download the file first"
        raise InputError(Problem(where, "a URL without a token in it", redact(url), hint))
    for link in links:
        _check_link(link, where, is_chained=len(links) > 1)


def _check_link(link: str, where: str, is_chained: bool) -> None:
    scheme, mark, rest = link.partition("://")
    protocol = scheme if mark or is_chained else link.partition("/")[0].removesuffix(":")
    if not mark and not is_chained:
        if link.startswith(f"{protocol}:") and protocol in fsspec.available_protocols():
            raise InputError(Problem(where, f"a path, or {protocol}://…", redact(link)))
        return
    if is_chained and not mark and protocol not in fsspec.available_protocols():
        return  # a path behind a cache
    try:
        fsspec.get_filesystem_class(protocol or "://")
    except (ValueError, ImportError) as error:
        expected = "a path or URL that fsspec can open"
        raise InputError(Problem(where, expected, f"{redact(link)} ({error})", "Check the part before ://")) from None
    if mark and not rest.strip("/") and protocol not in _NEEDS_NO_HOST and not is_chained:
        raise InputError(Problem(where, f"a bucket or host after {protocol}://", "nothing"))
    if mark and not _port_is_number(link):
        raise InputError(Problem(where, "a number after the colon of a host", redact(link)))
    if scheme_of(link) in ("s3", "s3a") and "?versionId=" in link:
        hint = "s3fs takes what follows for the version of an object, and cannot write there"
        raise InputError(Problem(where, "a key without `?versionId=`", redact(link), hint))


def _port_is_number(link: str) -> bool:
    try:
        return urlsplit(link).port != -1
    except ValueError:
        return scheme_of(link) not in _WITH_HOST


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith(("file://", "local://"))


def absolute_url(url: str) -> str:
    """A local path made absolute, so that it means the same on a worker started elsewhere; URLs unchanged."""
    if is_remote(url):
        return url
    return str(Path(re.sub(r"^(file|local)://", "", url)).expanduser().absolute())
