"""Which datasets lie below a folder or URL."""

from __future__ import annotations

from collections.abc import Iterator

from promptmill.pipeline.dataset.keys import JOB_KEY
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError

MOST_FOLDERS = 20_000
"""A prefix that has more is no folder of datasets."""


def folders_with_claims(store: Store, unread: list[str]) -> Iterator[str]:
    """Folders below the store's root, and the root itself as an empty name, that hold a `job.json`, level by level.

    What lies in such a folder is the dataset's own and not looked into. Appends to `unread` what cannot be looked into.
    """
    level, looked_into = [""], 0
    while level:
        looked_into += len(level)
        if looked_into > MOST_FOLDERS:
            unread.append(f"more than {MOST_FOLDERS:,} folders: give a longer prefix")
            return
        below: list[str] = []
        for folder, (claimed, folders) in zip(level, store.map(lambda f: _look(store, f, unread), level), strict=True):
            if claimed:
                yield folder
            else:
                below += folders
        level = below


def _look(store: Store, folder: str, unread: list[str]) -> tuple[bool, list[str]]:
    try:
        if store.entry(f"{folder}/{JOB_KEY}" if folder else JOB_KEY) is not None:
            return True, []
        return False, store.folders(folder)
    except StorageError as error:
        if not folder:
            raise
        unread.append(f"{folder}: {error}")
        return False, []
