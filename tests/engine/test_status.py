"""What `status` says of a dataset and of the run that makes it, from anywhere."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.jobs import status as status_module
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.execution.heartbeat import DEAD_AFTER_S, KEY, Beating, read_heartbeat
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, ShardStats
from tests.engine.conftest import Answer
from tests.heart.mill import memory, small_plan
from tests.heart.test_run import Notes

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


def test_a_run_that_has_ended(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    prompts = tmp_path / "some.parquet"
    pq.write_table(pa.table({"prompt": ["a red circle", None, "a blue square"]}), prompts)
    made = job(prompts={"source": str(prompts)}, generation={"images_per_prompt": 1})
    assert cli("run", made, "--in-process").code == 3
    out = tmp_path / "out"
    told = cli("status", out, "--json").json
    assert told["failed"] == sum(told["failures"].values()) > 0
    assert told["run"]["state"] == "stopped" and told["run"]["silent_s"] < 60 and told["run"]["host"]
    assert told["last_shard"] == "data/part-000000.parquet" and told["last_shard_at"]
    text = " ".join(cli("status", out).out.split())
    assert "stopped since" in text and "data/part-000000.parquet at" in text
    assert all(kind in text for kind in told["failures"])
    watched = cli("status", out, "--watch", "--json")
    assert watched.code == 0 and watched.json["complete"]


def test_a_run_that_is_at_work_and_one_that_died(tmp_path: Path) -> None:
    store, notes = memory(), Notes()
    plan = claim_output(small_plan(tmp_path), store)
    shards = list(plan.all_shards())
    with pytest.raises(KeyError), Beating(store, notes) as beating:
        beating.begin(plan, shards, Counts())
        beating.pulse(Pulse(0, 2, 1))
        beating.shard_done(ShardStats(0, Counts(4, 4)))
        deadline = time.monotonic() + 10
        while (beat := read_heartbeat(store)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert beat is not None and (beat.state, beat.said.samples) == ("running", plan.samples)
        raise KeyError("a defect")
    beat = read_heartbeat(store)
    assert beat is not None and (beat.state, beat.said.error, beat.said.last_shard) == ("failed", "KeyError", 0)
    assert (notes.begun, notes.done, notes.heard) == (([shard.number for shard in shards], Counts()), [0], [(0, 2, 1)])


def _beating(folder: Path, age_s: float) -> Store:
    """A run that last wrote so long ago, on a machine whose own clock is two hours behind."""
    store = Store(str(folder))
    store.put(KEY, json.dumps({"state": "running", "beat": time.time() - age_s - 7200}).encode())
    store.tidy()
    os.utime(folder / KEY, (time.time() - age_s,) * 2)
    return store


@pytest.mark.parametrize("skew_s", [0, -DEAD_AFTER_S, DEAD_AFTER_S, -86_400, 86_400])
@pytest.mark.parametrize(("age_s", "state"), [(1.0, "running"), (60.0, "running"), (4 * DEAD_AFTER_S, "dead")])
def test_clocks_that_differ(tmp_path: Path, skew_s: float, age_s: float, state: str) -> None:
    """Of the run, of whoever looks, and of the store: the last one counts."""
    beat = read_heartbeat(_beating(tmp_path, age_s), lambda: time.time() + skew_s)
    assert beat is not None and beat.state == state
    assert skew_s or age_s <= beat.silent_s < age_s + 10
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_a_look_needs_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _beating(tmp_path, 3600)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(store.backend, "put", refuse)
    beat = read_heartbeat(store)
    assert beat is not None and beat.state == "dead"


def test_a_dead_run_is_told_with_what_to_do(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    assert cli("run", job(), "--in-process").code == 0
    beat = tmp_path / "out" / KEY
    content = json.loads(beat.read_text())
    beat.write_text(json.dumps({**content, "state": "running", "beat": time.time() - 3600, "host": "gpu\x1b[31m7"}))
    os.utime(beat, (time.time() - 3600,) * 2)
    answer = cli("status", tmp_path / "out")
    text = " ".join(answer.out.split())
    assert "dead since" in text and "no sign of life for 1 h" in text and "\x1b" not in text
    assert cli("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"nonsense", b'{"beat": 1e400, "state": "running"}', b'{"beat": [], "state": 5}', b"[" * 9000],
)
def test_a_heartbeat_that_is_none(content: bytes) -> None:
    store = memory()
    store.put(KEY, content)
    assert read_heartbeat(store) is None


def test_odd_values_in_a_heartbeat(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    assert cli("run", job(), "--in-process").code == 0
    odd: dict[str, Any] = {
        "state": "running",
        "beat": time.time(),
        "began": "x",
        "eta_s": "y",
        "workers": [1],
        "host": "me",
    }
    (tmp_path / "out" / KEY).write_text(json.dumps(odd))
    assert cli("status", tmp_path / "out").code == 0
    run = cli("status", tmp_path / "out", "--json").json["run"]
    assert (run["state"], run["since"], run["eta_s"], run["workers"], run["host"]) == (
        "running",
        None,
        None,
        None,
        "me",
    )


def test_a_store_that_refuses_a_heartbeat_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)

    def refuse(*_: object) -> None:
        raise ConnectionError("no")

    monkeypatch.setattr(store.backend, "put", refuse)
    with Beating(store, Notes()) as beating:
        beating.begin(plan, list(plan.all_shards()), Counts())
    assert read_heartbeat(store) is None
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_a_look_has_a_short_patience(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hung for minutes on an endpoint that nobody answers."""
    monkeypatch.setenv("PROMPTMILL_STORAGE_PATIENCE_S", "300")
    monkeypatch.setattr(status_module, "PATIENCE_S", 0.5)
    usual = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    for name, value in usual.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    assert cli("status", "s3://bucket/out").code == 4
    assert time.monotonic() - began < 30
    assert status_module.status.__globals__["PATIENCE_S"] <= 10
