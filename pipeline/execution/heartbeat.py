"""A sign of life in the output, for `status` from anywhere: never needed for correctness, and never waited for."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Final, Literal, NamedTuple, Self

from promptmill.pipeline.execution.progress import ProgressState
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import NO_OBJECT, checked
from promptmill.schemas.errors import StorageError
from promptmill.schemas.events import Heartbeat, Pulse
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.plan import Counts, Shard, ShardStats

KEY: Final = "heartbeat.json"
BEAT_S: Final = 15.0
_FIRST_S = 5.0
DEAD_AFTER_S: Final = 90.0
"""Six beats: a store may be silent for a while."""
MOST_BYTES: Final = 1 << 20
_AT_ONCE_S: Final = 5.0
"""So much is read before it was written, where clocks are a little apart and stores round to seconds."""


class Beating:
    """Hands everything on to the listener of a run, and writes now and then how far it is, in a thread of its own."""

    def __init__(self, store: Store, listener: Any) -> None:
        self._store, self._listener = store, listener
        self._progress = ProgressState()
        self._began = time.time()
        self._last_shard: int | None = None
        self._ended, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(BEAT_S)
            self._write("stopped" if error is None else "failed", "" if error is None else type(error).__name__)

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        self._progress.begin(plan, todo, done)
        self._listener.begin(plan, todo, done)
        if todo and not self._thread.is_alive():  # a run that finds all done says nothing new
            self._thread.start()
            self._first.wait(_FIRST_S)  # so that what a crash leaves of a run does not depend on two threads

    def shard_done(self, receipt: ShardStats) -> None:
        self._progress.shard_done(receipt)
        self._last_shard = receipt.shard
        self._listener.shard_done(receipt)

    def pulse(self, pulse: Pulse) -> None:
        self._progress.pulse(pulse)
        self._listener.pulse(pulse)

    def notice(self, text: str) -> None:
        self._listener.notice(text)

    def _beat(self) -> None:
        while True:
            self._write("running")
            self._first.set()
            if self._ended.wait(BEAT_S):
                return

    def _write(self, state: Literal["running", "stopped", "failed"], error: str = "") -> None:
        now, progress = time.time(), self._progress
        rate = progress.rate
        content = Heartbeat(
            state=state,
            beat=now,
            error=error,
            host=socket.gethostname(),
            process=os.getpid(),
            began=self._began,
            samples=progress.samples,
            samples_done=progress.done,
            images_per_second=round(rate, 3),
            eta_s=round((progress.samples - progress.done) / rate) if rate > 0 else None,
            workers=progress.workers,
            last_shard=self._last_shard,
        )
        self._store.try_put(KEY, json.dumps(asdict(content)).encode())


class LastSign(NamedTuple):
    """`silent_s` is the age of the run's last word."""

    said: Heartbeat
    state: str
    silent_s: float


def read_heartbeat(store: Store, now: Callable[[], float] = time.time) -> LastSign | None:
    """What the last run said, with its state: running, stopped, failed, or dead where it said nothing for long.

    None where there was none, or what lies there is not ours. Its age is by the clock of the store, which is the only
    one that both sides see: `now` is this machine's, and the run has another.
    """
    try:
        said = _parsed(parse_object(store.read_if_exists(KEY, MOST_BYTES) or b""))
        entry = store.entry(KEY)
    except (StorageError, *NO_OBJECT):
        return None
    state: str = said.state
    written = said.beat if entry is None or entry.modified is None else entry.modified
    silent_s = now() - written
    if state == "running" and not -_AT_ONCE_S <= silent_s <= 3 * BEAT_S:
        silent_s = (_clock_of(store) or now()) - written
        state = "dead" if silent_s > DEAD_AFTER_S else "running"
    return LastSign(said, state, round(max(0.0, silent_s), 1))


def _parsed(content: Mapping[str, Any]) -> Heartbeat:
    """What says when and how it is; of the rest each field that is as it should be. Raises ValueError."""
    known = {field.name: content[field.name] for field in fields(Heartbeat) if field.name in content}
    try:
        return checked(Heartbeat, known)
    except ValueError:
        least = {name: known[name] for name in ("state", "beat")}
        return replace(checked(Heartbeat, least), **{name: known[name] for name in known if _fits(least, known, name)})


def _fits(least: Mapping[str, Any], known: Mapping[str, Any], name: str) -> bool:
    try:
        checked(Heartbeat, {**least, name: known[name]})
    except ValueError:
        return False
    return True


def _clock_of(store: Store) -> float | None:
    """None where nothing may be written: a look needs no more rights than to look."""
    try:
        return store.now()
    except StorageError:
        return None
    finally:
        store.tidy()
