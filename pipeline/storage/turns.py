"""Turns that the processes of one machine take at what they share: its disk, its network, its folder of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xxhash
from filelock import FileLock, Timeout

_TELL_AFTER_S = 10.0
_PATIENCE_S = 900.0
_LOOK_EVERY_S = 0.1


@contextmanager
def one_at_a_time(folder: Path, what: str) -> Iterator[None]:
    """Of all who give the same `folder`, in which the lock is made, and `what`. A process that dies lets go.

    Where no lock can be made there, nobody waits: it spares work, and nothing relies on it.
    """
    lock = _lock(folder, what)
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


@contextmanager
def some_at_a_time(folder: Path, what: str, most: int, waits: Callable[[], None]) -> Iterator[None]:
    """As `one_at_a_time`, for `most` of them. Who waits for long calls `waits`, once, and after a quarter of an hour
    goes on all the same: a process that hangs keeps its place.
    """
    lock = _free_one([_lock(folder, f"{what} {place}") for place in range(most)], folder, waits)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _free_one(locks: list[FileLock], folder: Path, waits: Callable[[], None]) -> FileLock | None:
    began, told = time.monotonic(), False
    while (waited := time.monotonic() - began) < _PATIENCE_S:
        for lock in locks:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
                return lock
            except Timeout:
                continue
            except (OSError, NotImplementedError):
                return None
        if waited >= _TELL_AFTER_S and not told:
            told = True
            waits()
        time.sleep(_LOOK_EVERY_S)
    return None


def _lock(folder: Path, what: str) -> FileLock:
    return FileLock(folder / f"{xxhash.xxh3_64_hexdigest(what.encode())}.lock")
