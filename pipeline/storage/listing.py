"""Which objects a path, glob or URL names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from fsspec.utils import glob_translate

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import SFTP, absolute_url, below, is_remote, misread_part
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.urls import scheme_of, split_query


def find_objects(source: str) -> tuple[Store, list[Entry]]:
    """The objects that a file, folder or glob names, sorted, relative to the returned store; none where none is found.

    A folder gives its files at any depth, without those that begin with a dot or an underscore; a glob those with a
    dot only where it says the dot. Links to files are files. Raises InputError for an object whose name no client can
    ask for.
    """
    source = _without_escapes(source)
    address, query = split_query(source)
    if source.startswith(("http://", "https://")):
        base, _, name = address.rpartition("/")
        store = Store(base, query=query)
        entry = store.entry(name)
        return store, [] if entry is None else [entry]
    wild = re.search(r"[*?\[]", source)
    if wild is None or _exists(source):
        store = Store(source)
        info = store.root_info()
        if info is None:
            return store, []
        if info[0] == "directory":
            return store, _readable(store, _without(store.find(), (".", "_")))
        if info[0] != "file":  # a FIFO would be waited for, /dev/zero read without end
            raise InputError(Problem(redact(address), "files, or a folder of them", "a device, a FIFO or a socket"))
        return _one_object(source, info[1])
    base = source[: wild.start()].rpartition("/")[0]
    store = Store(base or ("/" if source.startswith("/") else "."))
    pattern = source[len(base) :].lstrip("/")
    says_dot = any(part.startswith(".") for part in pattern.split("/"))
    found = _with_folders_that_exist(f"{base}/" if base or source.startswith("/") else "", pattern)
    tries = (found, _with_literal_folders(found), _with_literal_brackets(found))
    entries = next((entries for each in dict.fromkeys(tries) if (entries := store.find(each))), [])
    return store, _readable(store, _without(entries, () if says_dot else (".",)))


def would_name(source: str, folder: str) -> bool:
    """Whether it would name files of a dataset that is to come in `folder`."""
    source = _without_escapes(source)
    wild = re.search(r"[*?\[]", source)
    if source.startswith(("http://", "https://")):
        return False
    if wild is None or _exists(source):
        inner = below(folder, source)
        return inner is not None and not any(part.startswith((".", "_")) for part in inner.split("/"))
    base = source[: wild.start()].rpartition("/")[0]
    inner = below(folder, base or ("/" if source.startswith("/") else "."))
    try:
        pattern = re.compile(glob_translate(source[len(base) :].lstrip("/")))
    except ValueError:  # `a**`, which names nothing
        return False
    to_come = ("data/part-000000.parquet", "job.json")
    return inner is not None and any(pattern.match(f"{inner}/{key}".lstrip("/")) for key in to_come)


def _one_object(source: str, size_bytes: int) -> tuple[Store, list[Entry]]:
    base, _, name = source.rpartition("/")
    if is_remote(source) and base.endswith("/"):
        hint = "Give the folder above it, or copy it to another name"
        raise InputError(Problem(source, "the name of one object without `//`", "one with it", hint))
    return Store(base or "."), [Entry(name, size_bytes)]


def _readable(store: Store, entries: list[Entry]) -> list[Entry]:
    for entry in entries:  # over SFTP no URL is read any more below the root
        if scheme_of(store.url) not in SFTP and (misread := misread_part(store.url, entry.name)):
            where, hint = f"{store.url}/{entry.name}", "The client of that storage cannot ask for it: copy it"
            raise InputError(Problem(where, f"the name of an object without `{misread}`", "one with it", hint))
    return entries


def _exists(source: str) -> bool:
    """Whether a name that looks like a glob is one of a file or folder: `brackets[1]`, `what?.csv`."""
    if is_remote(source):
        readable = "*" not in source and not misread_part(source)
        return readable and Store(source).root_info() is not None
    return Path(absolute_url(source)).exists()


def _without_escapes(source: str) -> str:
    """A `file://` URL as `Path.as_uri` writes it has brackets and blanks as %5B and %20, which fsspec does not read."""
    plain = unquote(source)
    start = re.split(r"[*?]", plain)[0].rpartition("/")[0]
    is_written_so = source.startswith(("file:", "local:")) and plain != source and not _exists(source)
    return plain if is_written_so and (_exists(plain) or _exists(start)) else source


def _with_folders_that_exist(base: str, pattern: str) -> str:
    """Of the first parts, those that name a folder as they stand are no wildcards, whatever else they might name."""
    parts = pattern.split("/")
    for i, part in enumerate(parts[:-1]):
        base = f"{base}{part}/"
        if re.search(r"[*?\[]", part):
            if "*" in part or not _exists(base):
                break
            parts[i] = glob.escape(part)
    return "/".join(parts)


def _with_literal_folders(pattern: str) -> str:
    """Brackets of a part without `*` or `?` are part of its name: `brackets[1]/*.csv`."""
    parts = (part if re.search("[*?]", part) else glob.escape(part) for part in pattern.split("/"))
    return "/".join(parts)


def _with_literal_brackets(pattern: str) -> str:
    return "/".join(part if "[[]" in part else part.replace("[", "[[]") for part in pattern.split("/"))


def _without(entries: Iterable[Entry], hidden: tuple[str, ...]) -> list[Entry]:
    return [entry for entry in entries if not any(part.startswith(hidden) for part in entry.name.split("/"))]
