"""Proof that a worker sees the very output that the driver writes to, before it makes anything.

On a path that the machines do not share each would write into a folder of its own, and each would say that all went
well. So the driver writes a small object of random name and content, which the worker has to find, and the worker one
of its own, which it takes away again: a disk that is full or read-only is known before the device has worked for it.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from promptmill.pipeline.storage.backend import TEMPORARY
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import PlaceError

_SEEN_WITHIN_S = 5.0  # a client of NFS may remember for a while that a folder was not there
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Beacon:
    """Lies among the temporary files, where `verify --repair` finds what a killed driver left."""

    key: str
    content: bytes

    @classmethod
    def new(cls) -> Beacon:
        return cls(f"{TEMPORARY}/run-{secrets.token_hex(8)}", secrets.token_hex(16).encode())

    def light(self, store: Store) -> None:
        store.put(self.key, self.content)

    def is_lit(self, store: Store) -> bool:
        return store.read_if_exists(self.key) == self.content

    def put_out(self, store: Store) -> None:
        """Nobody waits for it, and what ends a run is not hidden behind it: `verify --repair` finds what stays."""
        store.try_delete(self.key)


class UnseenError(PlaceError):
    pass


def prove_sight(beacon: Beacon, store: Store, worker: str) -> None:
    """Called on the worker. Raises UnseenError, and StorageError where it may not read or write there."""
    began = time.monotonic()
    while not beacon.is_lit(store):
        if time.monotonic() - began > _SEEN_WITHIN_S:
            raise UnseenError(
                f"does not see the output: {store.url} is there not what it is for the driver. Share that folder "
                "among all nodes, or give output.url in object storage"
            )
        time.sleep(_LOOK_EVERY_S)
    own = f"{beacon.key}-{worker}"
    store.put(own, beacon.content)
    store.delete(own)
