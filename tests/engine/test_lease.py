"""A second run on one output: it begins at the other end, waits, or leaves it; two are safe, and pay double."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.execution.dispatch import InProcessDispatcher
from promptmill.pipeline.execution.events import Stop
from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.execution.lease import Turn, lease, running_elsewhere
from promptmill.pipeline.execution.run import run_job
from promptmill.pipeline.storage.store import Store
from tests.engine.conftest import Answer
from tests.heart.mill import memory, small_plan
from tests.heart.test_run import Notes

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


@pytest.fixture
def other() -> Iterator[int]:
    """A process that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def beat(store: Store, **changes: Any) -> None:
    now = time.time()
    content = {"state": "running", "host": "gpu-7", "process": 1, "began": now - 60, "beat": now}
    store.put(KEY, json.dumps(content | changes).encode())


def state(store: Store) -> Any:
    data = store.read_if_exists(KEY)
    return None if data is None else json.loads(data)["state"]


def test_who_is_at_work(other: int) -> None:
    store, here = memory(), socket.gethostname()
    assert running_elsewhere(store) is None
    beat(store)
    assert f"{running_elsewhere(store)}".startswith("on gpu-7 since 20")
    beat(store, host=here, process=other)
    assert running_elsewhere(store)
    for gone in ({"host": here, "process": os.getpid()}, {"host": here, "process": 2**22 + 1}, {"state": "stopped"}):
        beat(store, **gone)
        assert running_elsewhere(store) is None
    beat(store, began="x", process=None)
    assert f"{running_elsewhere(store)}" == "on gpu-7 since a while ago"


def test_a_child_that_nobody_has_buried_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    store = memory()
    beat(store, host=socket.gethostname(), process=process.pid)
    assert running_elsewhere(store) is None
    process.wait()


def test_one_that_waits_goes_on_when_the_other_has_ended() -> None:
    store, notes, slept = memory(), Notes(), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        beat(store, state="running" if len(slept) < 3 else "stopped")

    beat(store)
    with lease(store, notes, "wait", sleep) as turn:
        assert turn == Turn(None, waited=True) and len(slept) == 3
        assert running_elsewhere(store) is None and state(store) == "running"
    assert state(store) == "stopped"  # a run that had nothing to say leaves what the last one said
    (told,) = notes.heard
    assert isinstance(told, str) and told.startswith("another run makes this dataset on gpu-7 since")


def test_of_two_that_begin_at_once_one_is_first(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the write somebody else writes."""
    store = memory()
    create, here = Store.create, socket.gethostname()

    def late(self: Store, key: str, data: bytes) -> bool:
        if state(self) is None:
            beat(self, host=here, process=other)
        return create(self, key, data)

    monkeypatch.setattr(Store, "create", late)
    with lease(store, Notes(), "exit") as turn:
        assert turn.other is not None and turn.other.host == here
    assert state(store) == "running"


@pytest.mark.parametrize("how", ["wait", "exit"])
def test_what_is_said_ends_with_the_run(how: Any) -> None:
    store = memory()
    with pytest.raises(KeyError), lease(store, Notes(), how) as turn:
        assert turn == Turn() and state(store) == "running"
        raise KeyError("the job is refused")
    assert state(store) is None
    with lease(store, Notes(), how):
        beat(store, state="failed", process=os.getpid())
    assert state(store) == "failed"


def test_a_store_that_may_not_be_written_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()

    def refuse(*_: object) -> bool:
        raise PermissionError(13, "no")

    monkeypatch.setattr(store.backend, "create", refuse)
    with lease(store, Notes(), "wait") as turn:
        assert turn == Turn()


def test_the_second_begins_at_the_other_end(tmp_path: Path) -> None:
    store, orders = memory(), []
    for backwards in (False, True):
        store = memory()
        plan, notes = claim_output(small_plan(tmp_path), store), Notes()
        stop = Stop()
        stop.request()
        run_job(plan, store, InProcessDispatcher(plan, store), notes, stop, backwards=backwards)
        orders.append(notes.begun[0])
    assert orders[1] == orders[0][::-1] and len(orders[0]) > 1


def test_from_the_command_line(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    made, out = job(), Store(str(tmp_path / "out"))
    beat(out)
    out.tidy()
    answer = cli("run", made, "--in-process", "--if-running", "exit", "--json")
    assert answer.code == 0, answer
    assert answer.json["running_elsewhere"].startswith("on gpu-7 since") and answer.json["kept"] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [KEY]
    assert "already running on gpu-7" in cli("run", made, "--in-process", "--if-running", "exit").out
    answer = cli("run", made, "--in-process")
    assert answer.code == 0 and "this one begins at the other end" in answer.err
    answer = cli("run", made, "--in-process", "--if-running", "exit", "--json")
    assert (answer.code, answer.json["kept"], answer.json["running_elsewhere"]) == (0, 8, None)
    assert state(out) == "stopped"
    beat(out)
    answer = cli("run", made, "--in-process", "--if-running", "never")
    assert answer.code == 2
