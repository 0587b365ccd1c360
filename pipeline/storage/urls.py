"""URLs and paths: what is remote, what is secret in them, what they mean from another folder."""

from __future__ import annotations

import re
from pathlib import Path

import fsspec
import fsspec.asyn

from promptmill.pipeline.display import has_user_info, redact
from promptmill.schemas.errors import InputError, Problem


def check_url(url: str, where: str) -> None:
    """Raises InputError for what holds a password or is neither a path nor a URL for fsspec; asks no server."""
    if has_user_info(url):
        hint = "Give credentials in the environment"
        raise InputError(Problem(where, "a URL without user and password", "one that holds them", hint))
    scheme, mark, rest = url.partition("://")
    protocol = scheme.rpartition("::")[2] if mark else url.partition("/")[0].removesuffix(":")
    if not mark:
        if url.startswith(f"{protocol}:") and protocol in fsspec.available_protocols():
            raise InputError(Problem(where, f"a path, or {protocol}://…", redact(url)))
        return
    try:
        fsspec.get_filesystem_class(protocol or "://")
    except (ValueError, ImportError) as error:
        expected = "a path or URL that fsspec can open"
        raise InputError(Problem(where, expected, f"{redact(url)} ({error})", "Check the part before ://")) from None
    if not rest.strip("/") and protocol not in ("file", "local", "memory"):
        raise InputError(Problem(where, f"a bucket or host after {protocol}://", "nothing"))


def split_query(url: str) -> tuple[str, str]:
    """An HTTP address and what follows its question mark; of other URLs and paths that is part of the name."""
    address, _, query = url.partition("?") if url.startswith(("http://", "https://")) else (url, "", "")
    return address, query


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith(("file://", "local://"))


def absolute_url(url: str) -> str:
    """A local path made absolute, so that it means the same on a worker started elsewhere; URLs unchanged."""
    if is_remote(url):
        return url
    return str(Path(re.sub(r"^(file|local)://", "", url)).expanduser().absolute())
