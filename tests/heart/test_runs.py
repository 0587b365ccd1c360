"""The datasets below a folder or bucket, as a list."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from promptmill.jobs.runs import runs
from promptmill.pipeline.dataset import below
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.delete import mark
from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.operations import DatasetRow
from tests.heart.mill import make_missing, run_small, small_plan

Cli = Callable[..., Any]


def by_place(prefix: str, price: float | None = None) -> dict[str, DatasetRow]:
    return {row.url.removeprefix(f"{prefix}/"): row for row in runs(prefix, price).datasets}


@pytest.fixture(params=["disk", "memory"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "made") if request.param == "disk" else f"memory://{uuid4().hex}"


def test_each_state_is_told(prefix: str, tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "prompts")

    def at(place: str) -> Store:
        return Store(f"{prefix}/{place}")

    for place in ("one", "deep/er/two", "half"):
        make_missing(claim_output(plan, at(place)), at(place))
    at("half").delete("data/part-000002.parquet")
    for place, state, age in (("running", "running", 0), ("died", "running", 3600), ("stopped", "stopped", 0)):
        claim_output(plan, at(place))
        at(place).put(KEY, json.dumps({"state": state, "beat": time.time() - age, "host": "h"}).encode())
        if prefix.startswith("/"):
            os.utime(Path(prefix, place, KEY), (time.time() - age,) * 2)
    claim_output(plan, at("going"))
    mark(at("going"))
    claim_output(plan, at("broken"))
    at("broken").put("job.json", at("broken").read("job.json")[:-40])
    at("broken").put("data/part-000000.parquet", b"x")
    at("other").put("job.json", b'{"name": "of another program"}')
    at("one").put("inputs/job.json", b"{}")
    found = by_place(prefix, 2.0)
    died = {"died": "dead"} if prefix.startswith("/") else {"died": "running"}
    assert {place: row.state for place, row in found.items()} == {
        **{"one": "complete", "deep/er/two": "complete", "half": "unfinished", "running": "running"},
        **{"stopped": "stopped", "going": "deleting", "broken": "unreadable", **died},
    }
    whole, half = found["one"], found["half"]
    assert (whole.samples, whole.samples_asked_for, whole.shards_done, half.shards_done) == (10, 10, 3, 2)
    assert whole.kept is not None and whole.failed == 2 and whole.kept + 2 == 10
    assert whole.bytes is not None and whole.bytes > 1000 and whole.changed_at is not None
    assert whole.device_hours is not None and whole.cost == round(whole.device_hours * 2.0, 2)
    assert found["going"].name == "small" and "damaged" in str(found["broken"].problem)


def test_the_prefix_may_be_the_dataset(prefix: str, tmp_path: Path) -> None:
    run_small(tmp_path / "prompts", Store(prefix))
    (row,) = runs(f"{prefix}/").datasets
    assert (row.url, row.state) == (prefix, "complete")


def test_as_a_table_and_as_json(cli: Cli, tmp_path: Path) -> None:
    run_small(tmp_path / "prompts", Store(str(tmp_path / "made" / "[red]\x1b[31mone")))
    table = cli("runs", tmp_path / "made", "--price-per-hour", "3")
    assert table.code == 0 and "[red]" in table.out and "\x1b" not in table.out
    assert "complete" in table.out and "10 of 10" in table.out
    told = cli("runs", tmp_path / "made", "--json")
    assert told.json["datasets"][0]["samples"] == 10 and told.json["datasets"][0]["cost"] is None
    (tmp_path / "empty").mkdir()
    assert "no dataset below" in cli("runs", tmp_path / "empty").out
    assert cli("runs", tmp_path / "absent").code == 2
    assert cli("runs", tmp_path / "made", "--price-per-hour", "nan").code == 2


def test_folders_that_nobody_may_read_and_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    for name in ("a", "b"):
        (tmp_path / "many" / name).mkdir(parents=True)
    (tmp_path / "many" / "a" / "loop").symlink_to(tmp_path / "many")
    run_small(tmp_path / "prompts", Store(str(tmp_path / "many" / "b" / "c")))
    folders = Store.folders

    def refused(store: Store, folder: str = "") -> list[str]:
        if folder == "a":
            raise below.StorageError("not allowed")
        return folders(store, folder)

    monkeypatch.setattr(Store, "folders", refused)
    answer = cli("runs", tmp_path / "many")
    assert answer.code == 0 and "not looked into: a: not allowed" in answer.err and "b/c" in answer.out
    monkeypatch.setattr(below, "MOST_FOLDERS", 2)
    assert "longer prefix" in cli("runs", tmp_path / "many").err


@pytest.mark.slow
def test_in_a_real_bucket(s3_bucket: str, s3_env: dict[str, str], tmp_path: Path, cli: Cli) -> None:
    run_small(tmp_path / "prompts", Store(f"s3://{s3_bucket}/a/one"))
    run_small(tmp_path / "prompts", Store(f"s3://{s3_bucket}/two"))
    assert sorted(by_place(f"s3://{s3_bucket}")) == ["a/one", "two"]
    assert cli("runs", f"s3://{s3_bucket}/nothing").code == 0
    assert cli("delete", f"s3://{s3_bucket}/a/one", "--yes").code == 0
    assert list(by_place(f"s3://{s3_bucket}")) == ["two"]
    assert not [entry for entry in Store(f"s3://{s3_bucket}").find() if entry.name.startswith("a/")]
