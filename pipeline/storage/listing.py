"""Which objects a path, glob or URL names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path

from promptmill.pipeline.display import redact
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote, split_query
from promptmill.schemas.errors import InputError, Problem


def find_objects(source: str) -> tuple[Store, list[Entry]]:
    """The objects that a file, folder or glob names, sorted, relative to the returned store.

    A folder gives its files at any depth, without those that begin with a dot or an underscore; a glob those with a
    dot only where it says the dot. Links to files are files. Empty where nothing is found.
    """
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
            return store, _without(store.find(), (".", "_"))
        if info[0] != "file":  # a FIFO would be waited for, /dev/zero read without end
            raise InputError(Problem(redact(address), "files, or a folder of them", "a device, a FIFO or a socket"))
        base, _, name = source.rpartition("/")
        return Store(base or "."), [Entry(name, info[1])]
    base = source[: wild.start()].rpartition("/")[0]
    store = Store(base or ("/" if source.startswith("/") else "."))
    pattern = source[len(base) :].lstrip("/")
    says_dot = any(part.startswith(".") for part in pattern.split("/"))
    entries = store.find(pattern) or store.find(_with_literal_folders(pattern))
    return store, _without(entries, () if says_dot else (".",))


def _exists(source: str) -> bool:
    """Whether a name that looks like a glob is one of a file or folder: `brackets[1]`, `what?.csv`."""
    if is_remote(source):
        return "*" not in source and Store(source).root_info() is not None
    return Path(absolute_url(source)).exists()


def _with_literal_folders(pattern: str) -> str:
    """Brackets of a part without `*` or `?` are part of its name: `brackets[1]/*.csv`."""
    parts = (part if re.search("[*?]", part) else glob.escape(part) for part in pattern.split("/"))
    return "/".join(parts)


def _without(entries: Iterable[Entry], hidden: tuple[str, ...]) -> list[Entry]:
    return [entry for entry in entries if not any(part.startswith(hidden) for part in entry.name.split("/"))]
