"""Folders that are tables: which of their files count is said by a log, and not by what lies there.

Read as loose files, a Delta table gives back rows that were deleted, and those that were compacted twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from promptmill.pipeline.display import cut
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote
from promptmill.schemas.errors import InputError, Problem, StorageError

IS_DELTA: Final = "a Delta table, read as of its version"
"""In the notice about one."""
_LOGS: Final[Mapping[str, tuple[str, str]]] = {
    "Delta": ("_delta_log", ".json"),
    "Iceberg": ("metadata", ".metadata.json"),
    "Hudi": (".hoodie", "hoodie.properties"),
    "Lance": ("_versions", ".manifest"),
}
"""Kind of table → the folder that makes it one, and how a file in it ends."""
_FOLDERS_LOOKED_AT: Final = 16
_WHOLE = "Name the folder of the whole table, or write what it holds now as Parquet"
_EXPORT = "Write what the table holds now as Parquet, and name that folder"


def files_that_count(store: Store, entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries without those that their table does not have any more, and what is said about it.

    Raises InputError for a table that cannot be read so.
    """
    for above in _tables_above(store):
        got = f"a part of a table ({above})"
        raise InputError(Problem(f"prompts.source: {store.url}", "a folder of prompts", got, _WHOLE))
    left, notices = list(entries), []
    for folder in _roots(store, entries):
        kind = next((kind for kind in _LOGS if _is_table(store, folder, kind)), None)
        if kind is None:
            continue
        where = f"prompts.source: {folder.rstrip('/') or store.url}"
        if kind != "Delta":
            raise InputError(Problem(where, "files of prompts", f"the files of a table that {kind} keeps", _EXPORT))
        counting, version = _of_delta(store, folder, where)
        inside = [entry for entry in left if entry.name.startswith(folder)]
        _refuse_missing(where, counting - {entry.name for entry in inside}, inside)
        left = [entry for entry in left if entry not in inside or entry.name in counting]
        notices.append(f"{where}: {IS_DELTA} {version}")
    return left, notices


def _refuse_missing(where: str, missing: set[str], inside: Sequence[Entry]) -> None:
    """A glob may leave files out; a file that is not there at all cannot be read."""
    folders = {entry.name.rpartition("/")[0] for entry in inside}
    gone = sorted(name for name in missing if name.rpartition("/")[0] in folders)
    if gone:
        raise InputError(Problem(where, f"{gone[0]}, which the Delta log names", "nothing there"))


def _roots(store: Store, entries: Sequence[Entry]) -> list[str]:
    """Folders that might be tables, as they begin the names of entries: empty for the store's own."""
    found = {""}
    for entry in entries:
        parts = entry.name.split("/")[:-1]
        found |= {"".join(f"{part}/" for part in parts[: i + 1]) for i, part in enumerate(parts) if "=" not in part}
    return sorted(found, key=lambda folder: (folder.count("/"), folder))[:_FOLDERS_LOOKED_AT]


def _is_table(store: Store, folder: str, kind: str) -> bool:
    name, ending = _LOGS[kind]
    with contextlib.suppress(StorageError):  # a place that may not be listed: the prompts themselves may be read
        return any(entry.name.endswith(ending) for entry in store.list(f"{folder}{name}"))
    return False


def _tables_above(store: Store) -> Iterator[str]:
    """The kinds of table of which the source is a folder inside: `table/lang=en`, `table/data`."""
    folder = absolute_url(store.url).rstrip("/")
    for _ in range(4):
        folder, _, name = folder.rpartition("/")
        if not folder or folder.endswith(":/") or ("=" not in name and name != "data"):  # a bucket lies in nothing
            return
        parent = Store(folder)
        yield from (kind for kind in _LOGS if _is_table(parent, "", kind))


def _of_delta(store: Store, folder: str, where: str) -> tuple[set[str], int]:
    """The names of the table's files, and its version."""
    if find_spec("deltalake") is None:
        hint = "Install promptmill[delta]. " + _EXPORT
        raise InputError(Problem(where, "deltalake, to read a Delta table", "it is not installed", hint))
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(
            absolute_url(f"{store.url.rstrip('/')}/{folder}").rstrip("/"), storage_options=_options(store)
        )
        _refuse_what_files_do_not_say(table, where)
        uris = table.file_uris()
    except (DeltaError, OSError, ValueError) as error:
        raise InputError(Problem(where, "a Delta table that deltalake can read", cut(error, 300), _EXPORT)) from None
    root = f"{store.root.rstrip('/')}/{folder}"
    return {f"{folder}{_below(uri, root)}" for uri in uris}, int(table.version())


def _options(store: Store) -> dict[str, str] | None:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    plain = is_remote(store.url) and endpoint.startswith("http://")
    return {"aws_endpoint": endpoint, "aws_allow_http": "true"} if plain else None


def _below(uri: str, root: str) -> str:
    """A file of the table seen from its folder."""
    path = f"{urlsplit(uri).netloc}{urlsplit(uri).path}" if is_remote(uri) else uri
    for place in (path, unquote(path)):
        for start in (root, os.path.realpath(root) + "/"):
            if place.startswith(start):
                return place.removeprefix(start)
    return uri


def _refuse_what_files_do_not_say(table: Any, where: str) -> None:
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise InputError(Problem(where, "columns under their own names", "a Delta table with column mapping", _EXPORT))
    if "deletionVectors" in (table.protocol().reader_features or ()) and table.deletion_vectors().read_all().num_rows:
        hint = "Purge it (REORG TABLE … APPLY (PURGE)). " + _EXPORT
        raise InputError(Problem(where, "files without deleted rows", "a Delta table with deletion vectors", hint))
