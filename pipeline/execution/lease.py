"""Whether another run is at work on the same output: two are safe, and make the same images twice.

The heartbeat says it. It is taken by a conditional write, so that of two runs that start at once one is first; nothing
that a dataset promises hangs on it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

import psutil

from promptmill.pipeline.display import local_time
from promptmill.pipeline.execution.events import Listener
from promptmill.pipeline.execution.heartbeat import KEY, MOST_BYTES, read_heartbeat
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.events import Heartbeat
from promptmill.schemas.results import IfRunning

_LOOK_EVERY_S: Final = 5.0
_TRIES: Final = 10


@dataclass(frozen=True)
class Elsewhere:
    """A run that gave a sign of life within a minute and a half."""

    host: str
    since: str

    def __str__(self) -> str:
        return f"on {self.host} since {self.since}"


def running_elsewhere(store: Store) -> Elsewhere | None:
    """None too for a process of this machine that is gone: nobody has to wait until its last beat is old."""
    sign = read_heartbeat(store)
    if sign is None or sign.state != "running":
        return None
    host = f"{sign.said.host}"
    if host == socket.gethostname() and not _is_another(sign.said.process):
        return None
    began = sign.said.began
    return Elsewhere(host, (None if began is None else local_time(began)) or "a while ago")


@dataclass(frozen=True)
class Turn:
    """`other` is the run that is at work still; `waited` says that one was waited for, and that prompts may be known
    by now that were not."""

    other: Elsewhere | None = None
    waited: bool = False


@contextmanager
def lease(
    store: Store, listener: Listener, if_running: IfRunning, sleep: Callable[[float], object] = time.sleep
) -> Iterator[Turn]:
    """The output's for one run, unless it may be joined; where that run says nothing, it is as it was before."""
    other = running_elsewhere(store)
    if if_running == "join":
        yield Turn(other)
        return
    waited, tries = False, 0
    before = store.read_if_exists(KEY, MOST_BYTES)
    while other is not None or not (_taken(store) or tries >= _TRIES):
        if other is not None and if_running == "exit":
            yield Turn(other)
            return
        if other is not None:
            if not waited:
                listener.notice(f"another run makes this dataset {other}; waiting until it has ended")
            waited = True
            sleep(_LOOK_EVERY_S)
        tries += other is None
        other, before = running_elsewhere(store), store.read_if_exists(KEY, MOST_BYTES)
    try:
        yield Turn(None, waited)
    finally:
        _give_back(store, before)


def _taken(store: Store) -> bool:
    """Whether nobody was a moment before us. Where nothing may be written, whoever needs to will say so."""
    now = time.time()
    content = Heartbeat("running", now, host=socket.gethostname(), process=os.getpid(), began=now)
    try:
        there = store.entry(KEY)
        return (there is None or store.remove(there)) and store.create(KEY, json.dumps(asdict(content)).encode())
    except StorageError:
        return True


def _give_back(store: Store, before: bytes | None) -> None:
    sign = read_heartbeat(store)
    if sign is None or sign.state != "running" or sign.said.process != os.getpid():
        return
    if before is None:
        store.try_delete(KEY)
    else:
        store.try_put(KEY, before)


def _is_another(process: int | None) -> bool:
    try:
        return process not in (None, os.getpid()) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError, OverflowError):
        return False
