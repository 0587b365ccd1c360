"""Stores of the folders and servers that input images lie in, and which of these have stopped answering."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import NoAnswerError
from promptmill.schemas.urls import split_query

FETCH_PATIENCE_S = 60.0
_STORES_KEPT = 64


class Servers:
    """Safe to use from several threads.

    A server that was silent for a whole patience is asked once a fetch until it answers: ten thousand images of a
    server that is gone would wait for a week.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: dict[tuple[str, str], Store] = {}
        self._silent: set[str] = set()

    @contextmanager
    def opened(self, place: str) -> Iterator[tuple[Store, str]]:
        """The store of the folder that a file lies in, and the file's name in it."""
        address, query = split_query(place)
        folder, _, name = address.rpartition("/")
        silent = False
        try:
            yield self._store(folder, query), name
        except NoAnswerError:
            silent = True
            raise
        finally:
            self._note(_server(folder), silent)

    def _store(self, folder: str, query: str) -> Store:
        with self._lock:
            if len(self._stores) > _STORES_KEPT:
                self._stores.clear()
            if (folder, query) not in self._stores:  # over SFTP each store is a connection
                patience_s = 0.0 if _server(folder) in self._silent else FETCH_PATIENCE_S
                self._stores[folder, query] = Store(folder, patience_s=patience_s, query=query)
            return self._stores[folder, query]

    def _note(self, server: str, silent: bool) -> None:
        with self._lock:
            if silent == (server in self._silent):
                return
            (self._silent.add if silent else self._silent.discard)(server)
            self._stores = {key: store for key, store in self._stores.items() if _server(key[0]) != server}


def _server(folder: str) -> str:
    """`https://host` of `https://host/a/b`; a bucket of an object store."""
    return "/".join(folder.split("/", 3)[:3]) if "://" in folder else folder
