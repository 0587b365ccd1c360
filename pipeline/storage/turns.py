"""Turns that the processes of one machine take at what they share: its disk, its network, its folder of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from filelock import FileLock


@contextmanager
def one_at_a_time(folder: Path, what: str) -> Iterator[None]:
    """Of all who give the same `folder`, in which the lock is made, and `what`. A process that dies lets go.

    Where no lock can be made there, nobody waits: it spares work, and nothing relies on it.
    """
    lock = FileLock(folder / f"{xxhash.xxh3_64_hexdigest(what.encode())}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
