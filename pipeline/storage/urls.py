"""URLs and paths: what fsspec can open, what is remote, what they mean from another folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn

from promptmill.pipeline.display import keep_secrets, redact
from promptmill.pipeline.storage.homes import at_home
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.urls import chain, holds_password, names_secret, scheme_of, split_query

_NEEDS_NO_HOST = ("file", "local", "memory")
S3, GCS, AZURE, SFTP = ("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss"), ("sftp", "ssh")
OBJECT_STORES = (*S3, *GCS, *AZURE)
_MISREAD = {
    **dict.fromkeys(S3, r"\?versionId="),
    **dict.fromkeys(GCS, "//"),
    **dict.fromkeys(AZURE, r"[\[\]:\\]"),
    **dict.fromkeys(SFTP, r"[?#]"),
}
_WITH_HOST = ("http", "https", "ftp", *SFTP, "hdfs", "webhdfs", "smb")
_LOCAL: Final = re.compile(r"^(?:file|local):(?://localhost(?=/)|//|(?=/))")
"""`file:///x`, `file://localhost/x`, and `file:/x` as Spark and Java write it."""


def check_url(url: str, where: str) -> None:
    """Raises InputError for what holds a secret that no request carries, and for what fsspec cannot open.

    Asks no server. The query of a plain HTTP address is let through: presigned URLs are made of it.
    """
    keep_secrets([url])
    links = chain(url)
    if holds_password(url):
        over_ssh = scheme_of(links[-1]) in SFTP
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
        if not _LOCAL.match(link) and link.startswith(f"{protocol}:") and protocol in fsspec.available_protocols():
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


def check_place(url: str, where: str) -> None:
    """As `check_url`; raises InputError too for a place whose name the client of that storage misreads.

    Of a place, not of a glob: that may hold what a name must not.
    """
    check_url(url, where)
    key = _key(url)
    if misread := misread_part(url, key):
        hint = "The client of that storage takes it for something else than a part of the name"
        raise InputError(Problem(where, f"a name without `{misread}`", redact(url), hint))
    if scheme_of(url) in _MISREAD and re.search(r"[\x00-\x1f\x7f]", key):
        raise InputError(Problem(where, "a name without control characters", redact(url)))
    if scheme_of(url) in OBJECT_STORES and key.startswith("/"):
        hint = "What is written there is in no listing"
        raise InputError(Problem(where, "a key that does not begin with `/`", redact(url), hint))


def misread_part(url: str, key: str | None = None) -> str:
    """What the client of that storage misreads in `key`, else in that of the URL; empty where it reads all of it.

    Tried on real servers.
    """
    found = re.search(_MISREAD.get(scheme_of(url), "(?!)"), _key(url) if key is None else key)
    return found[0] if found else ""


def _key(url: str) -> str:
    return url.partition("://")[2].lstrip("/").partition("/")[2]


def _port_is_number(link: str) -> bool:
    try:
        return urlsplit(link).port != -1
    except ValueError:
        return scheme_of(link) not in _WITH_HOST


def is_remote(url: str) -> bool:
    return "://" in url and not _LOCAL.match(url)


def local_path(url: str) -> Path:
    """Of a path, or a URL of this machine."""
    return at_home(_LOCAL.sub("", url))


def real_place(url: str) -> str:
    """An absolute URL or path, with links resolved and no slash at its end."""
    place = absolute_url(url)
    return (place if is_remote(url) else os.path.realpath(place)).rstrip("/")


def below(url: str, folder: str) -> str | None:
    """The path of a place inside a folder, empty for the folder itself; None where it lies elsewhere."""
    place, base = real_place(url), real_place(folder)
    return place[len(base) + 1 :] if f"{place}/".startswith(f"{base}/") else None


def absolute_url(url: str) -> str:
    """A local path made absolute, so that it means the same on a worker started elsewhere; URLs unchanged."""
    if is_remote(url):
        return url
    return str(local_path(url).absolute())
