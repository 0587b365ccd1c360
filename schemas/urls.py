"""Which parts of a URL are secret: the one parser that messages, checks and stored texts ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
_LINK: Final = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*:)")  # not the `::` of an IPv6 address
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):/+")
_IN_TEXT: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/[^\s'\"`<>]*")
_PREFIX: Final = re.compile(r"(?:[\w.\-\[\]]+=)*(?:(?:local-dir|hf-hub|builtin|python):)?")
"""What stands before a path or URL: `--out=`, `clip:name=`, `local-dir:`."""

_HTTP: Final = frozenset({"http", "https"})
_LOCAL: Final = frozenset({"file", "local", "memory", "local-dir", "staged"})
_NAMES_USERS: Final = frozenset(
    ("abfs", "abfss", "adl", "az", "ftp", "gcs", "gs", "hdfs", "oci", "scp", "sftp", "smb", "ssh")
    + ("viewfs", "wasb", "wasbs", "webhdfs", "webhdfss")
)
"""Where what stands before `@` is a user, a container or a bucket, and a secret only behind a colon."""

_COLON: Final = re.compile(":|%3a", re.IGNORECASE)
_SHORTEST_GUESS: Final = 6
"""Of what only looks like a password: `12:30@home.parquet` is a file."""
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|localhost|[^:@]*\.[^:@]*):\d{1,5}")
_NAMED: Final = re.compile(
    r"(?i)((?<![/\w-])[\w-]*(?:signature|credential|token|secret|password|passwd|passphrase|key|sig)=)([^&#\s'\"]+)"
)
"""Not behind a slash: `s3://bucket/key=1/` is a folder."""


def chain(url: str) -> list[str]:
    """`simplecache::s3://bucket/key` is two links; an ordinary URL or path is one."""
    return _LINK.split(url)


def scheme_of(link: str) -> str:
    """In lower case; empty for a path."""
    found = _SCHEME.match(link)
    return found[1].lower() if found else ""


def split_query(url: str) -> tuple[str, str]:
    """An HTTP address, and what follows its question mark; elsewhere that is part of the name.

    A fragment is left out: no server is told of it.
    """
    if scheme_of(chain(url)[-1]) not in _HTTP:
        return url, ""
    address, _, query = url.partition("#")[0].partition("?")
    return address, query


def without_query(url: str) -> str:
    """An HTTP address whose query, which may be its signature, is left out; anything else as it is."""
    address, query = split_query(url)
    return f"{address}?{HIDDEN}" if query else url


def holds_password(url: str) -> bool:
    """Whether a URL says who it is for the server, so that it must not be written down anywhere."""
    return any(_user(link)[1] for link in chain(url[_prefix_length(url) :]))


def names_secret(url: str) -> bool:
    """Whether a URL of something else than HTTP has a token behind `?` or `#`, which no file system sends on."""
    links = [link for link in chain(url) if scheme_of(link) and scheme_of(link) not in _HTTP | _LOCAL]
    return any(_NAMED.search(part) for link in links for part in re.split(r"[?#]", link)[1:])


def without_secrets(url: str) -> str:
    """The whole of a path or URL as it may be shown."""
    start = _prefix_length(url)
    return url[:start] + "::".join(_shown(link) for link in chain(url[start:]))


def hide_in(text: str) -> str:
    """Every URL in a text as it may be shown, and the values of secret names outside of URLs."""
    return _NAMED.sub(rf"\1{HIDDEN}", _IN_TEXT.sub(lambda found: without_secrets(found[0]), text))


def secrets_in(text: str) -> set[str]:
    """Those of a URL or path, or of each URL in a text."""
    return secrets_of(text).union(*(secrets_of(url) for url in _IN_TEXT.findall(text)))


def secrets_of(url: str) -> set[str]:
    """What a URL or path holds that no message may repeat, also as libraries write it again."""
    found: set[str] = set()
    for link in chain(url[_prefix_length(url) :]):
        user, secret = _user(link)
        password = _COLON.split(user, maxsplit=1)[-1] or user
        if secret or (not scheme_of(link) and _COLON.search(user) and len(password) >= _SHORTEST_GUESS):
            found |= {user, password}
        found |= set(_told_by_http(link)) | {value for _, value in _NAMED.findall(link)}
    return {form for each in found for form in (each, unquote(each), re.sub(r"/+", "/", each)) if form}


def _prefix_length(url: str) -> int:
    found = _PREFIX.match(url)
    return found.end() if found else 0


def _told_by_http(link: str) -> Iterator[str]:
    """Query and fragment, whole and value by value."""
    if scheme_of(link) not in _HTTP:
        return
    for part in re.split(r"[?#]", link)[1:]:
        yield part
        yield from (pair.partition("=")[2] or pair for pair in part.split("&"))


def _shown(link: str) -> str:
    user, secret = _user(link)
    if user and (secret or not scheme_of(link)):
        start = link.index(user)
        link = f"{link[:start]}{HIDDEN}{link[start + len(user) :]}"
    if scheme_of(link) in _HTTP:
        return re.sub(r"([?#]).*", rf"\1{HIDDEN}", link, count=1)
    return _NAMED.sub(rf"\1{HIDDEN}", link)


def _user(link: str) -> tuple[str, bool]:
    """What stands before the `@` of a server, and whether it is a secret.

    A password may hold any sign, also those that end a server's name: all before the last `@` belongs to it then. Of
    a path (`me:word@host:/folder`) it is a guess.
    """
    scheme = scheme_of(link)
    if scheme in _LOCAL:
        return "", False
    found = _SCHEME.match(link)
    rest = link[found.end() :] if found else link.lstrip("/")
    server = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, at, _ = server.rpartition("@")
    if _COLON.search(name if at else server) and "@" in rest and not (not at and _HOST_AND_PORT.fullmatch(server)):
        return rest[: rest.rindex("@")], bool(scheme)
    return name, bool(name) and bool(scheme) and scheme not in _NAMES_USERS
