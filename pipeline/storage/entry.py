"""What a store says of one object, and which objects nobody meant to put there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_VERSIONS = ("ETag", "etag", "md5Hash")
_SECONDS_APART = 2.0
_LEFT_BEHIND = frozenset({"", ".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r"})


@dataclass(frozen=True)
class Entry:
    """`name` is relative to the root of the store.

    `modified` is in seconds since 1970 by the store's own clock, None where it does not say. Two entries of a key with
    the same `version` are the same write of it, on disk; in object storage the same content.
    """

    name: str
    size_bytes: int
    modified: float | None = field(default=None, compare=False)
    version: str = field(default="", compare=False)


def described(name: str, info: Mapping[str, Any]) -> Entry:
    """From what fsspec says of an object; each file system has its own words."""
    modified = next((info[word] for word in _TIMES if info.get(word)), None)
    seconds = modified.timestamp() if isinstance(modified, datetime) else modified
    version = next(
        (str(info[word]).strip('"') for word in _VERSIONS if info.get(word)), f"{info.get('ino', '')} {modified}"
    )
    known = float(seconds) if isinstance(seconds, (int, float)) else None
    # Listings and single looks quote an ETag each in their own way.
    return Entry(name, int(info["size"] or 0), known, " ".join((version.strip('"'), str(info["size"]))))


def same_write(one: Entry, other: Entry) -> bool:
    """As far as a store can say: listings tell parts of a second, and a look at one object whole ones."""
    times = one.modified, other.modified
    near = None in times or abs((times[0] or 0.0) - (times[1] or 0.0)) < _SECONDS_APART
    return one.version == other.version and near


def etag_of(version: str | None) -> str | None:
    """The etag in the version of a remote object, without quotation marks; None where it holds none."""
    return None if not version or version.startswith(" ") else version.rpartition(" ")[0]


def is_file(info: Mapping[str, Any]) -> bool:
    # fsspec lists a link on disk as "other": caches, DVC and Kubernetes mounts are made of links.
    return info["type"] == "file" or bool(info.get("islink", False) and Path(info["name"]).is_file())


def left_behind(name: str) -> bool:
    """Whether that is what a finder program, or the console of a bucket, leaves in a folder: no object of anybody's."""
    last = name.rpartition("/")[2]
    return last in _LEFT_BEHIND or last.endswith("_$folder$")
