"""A dataset that is taken away: what is ours goes, the proofs last, and what an interruption leaves looks whole to
nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.crashpoints import EXIT_CODE
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.delete import delete_marked, look_before, mark
from promptmill.pipeline.dataset.open import read_plan
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import OutputMismatchError, StorageError
from tests.heart.mill import memory, run_small, small_plan

Cli = Callable[..., Any]
SELECT = {"keep": 1, "by": "clip"}


def names(store: Store) -> list[str]:
    return [entry.name for entry in store.find()]


@pytest.fixture
def made(tmp_path: Path) -> Store:
    """On disk, with rejects and failures, and with what somebody else laid beside them."""
    store = Store(str(tmp_path / "out"))
    run_small(tmp_path / "prompts", store, select=SELECT)
    store.put("report/thumbs/a.png", b"x")
    store.put("notes.txt", b"mine")
    store.put("data/part-0.parquet", b"another program's")
    return store


def test_what_is_ours_goes_and_what_is_not_stays(made: Store, cli: Cli) -> None:
    objects = len(names(made)) - 2
    answer = cli("delete", made.url, "--yes", "--json")
    assert answer.code == 0
    assert (answer.json["objects"], answer.json["left"]) == (objects, ["data/part-0.parquet", "notes.txt"])
    assert answer.json["bytes"] > 1000 and answer.json["name"] == "small"
    assert names(made) == ["data/part-0.parquet", "notes.txt"]
    assert sorted(path.name for path in Path(made.root).iterdir()) == ["data", "notes.txt"]
    assert "no dataset" not in answer.err and cli("delete", made.url, "--yes").code == 2


def test_a_dataset_alone_leaves_no_folder(tmp_path: Path, cli: Cli) -> None:
    run_small(tmp_path / "prompts", Store(str(tmp_path / "out")))
    answer = cli("delete", tmp_path / "out", "--yes")
    assert answer.code == 0 and "deleted small" in answer.out
    assert not (tmp_path / "out").exists() and (tmp_path / "prompts" / "a.parquet").exists()


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_without_a_yes_nothing_goes(made: Store, cli: Cli, arguments: tuple[str, ...]) -> None:
    before = names(made)
    answer = cli("delete", made.url, *arguments)
    assert answer.code == 2 and "--yes" in answer.err and names(made) == before


def test_whoever_is_asked_may_say_no(made: Store, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(made)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: False)
    answer = cli("delete", made.url)
    assert answer.code == 1 and "Nothing was deleted" in answer.out and names(made) == before
    assert "notes.txt" in answer.out and "objects" in answer.out


@pytest.mark.parametrize("content", [None, b"{}", b'{"version": "deleting"}', b"nonsense", b"[]"])
def test_what_is_no_dataset_of_ours_is_left(tmp_path: Path, cli: Cli, content: bytes | None) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part-000000.parquet").write_bytes(b"x")
    if content is not None:
        (tmp_path / "job.json").write_bytes(content)
    assert cli("delete", tmp_path, "--yes").code == 2
    assert (tmp_path / "data" / "part-000000.parquet").exists()
    assert cli("delete", tmp_path / "absent", "--yes").code == 2


def test_one_that_a_run_makes_is_left(made: Store, cli: Cli) -> None:
    beat = {"state": "running", "host": "gpu-7", "process": 1, "began": time.time() - 60, "beat": time.time()}
    made.put(KEY, json.dumps(beat).encode())
    before = names(made)
    answer = cli("delete", made.url, "--yes")
    assert answer.code == 2 and "on gpu-7 since" in answer.err
    assert names(made) == before and read_plan(made) is not None


def test_a_run_that_began_meanwhile_gets_its_dataset_back(
    made: Store, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, "on gpu-7 since noon"])
    monkeypatch.setattr("promptmill.jobs.delete.running_elsewhere", lambda store: next(answers))
    before = made.read("job.json")
    assert cli("delete", made.url, "--yes").code == 2
    assert made.read("job.json") == before


def test_interrupted_anywhere_it_looks_whole_to_nobody_and_goes_on(made: Store, tmp_path: Path, cli: Cli) -> None:
    """The process dies now and again until all is gone."""
    command = [sys.executable, "-m", "promptmill.jobs.cli", "delete", made.url, "--yes"]
    proofs = [entry.name for entry in made.list("data") if entry.name != "data/part-0.parquet"]
    for place in ("delete-marked", "deleted:7", "deleted:40"):
        env = {**os.environ, "PROMPTMILL_TEST_CRASH": place}
        code = subprocess.run(command, env=env, capture_output=True, check=False).returncode
        if code == 0:
            break
        assert code == EXIT_CODE
        left = names(made)
        assert "job.json" in left
        if any(name.startswith(("rejects/", "receipts/", "failures/")) for name in left):
            assert set(proofs) <= set(left)
        for reader in ("status", "verify", "report"):
            answer = cli(reader, made.url)
            assert answer.code == 2 and "being deleted since" in answer.err and "promptmill delete" in answer.err
    else:
        pytest.fail("never ended")
    assert names(made) == ["data/part-0.parquet", "notes.txt"]


def test_a_run_does_not_join_what_is_being_deleted(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    mark(store)
    with pytest.raises(OutputMismatchError, match="being deleted"):
        claim_output(plan, store)
    assert look_before(store).begun
    assert delete_marked(store) > 0 and names(store) == []
    claim_output(small_plan(tmp_path), store)
    assert verify_dataset(plan, store).missing == [0, 1, 2]


def test_a_shard_that_comes_meanwhile_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, late = memory(), [b"late", b"later"]
    run_small(tmp_path, store)
    delete = store.delete

    def deleted(key: str) -> None:
        delete(key)
        if key.startswith("data/") and late:
            store.put("data/part-000001.parquet", late.pop())

    monkeypatch.setattr(store, "delete", deleted)
    mark(store)
    delete_marked(store)
    assert names(store) == []


def test_a_writer_that_never_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    run_small(tmp_path, store)
    mark(store)
    monkeypatch.setattr(store, "delete", lambda key: None)
    with pytest.raises(StorageError, match="goes on writing"):
        delete_marked(store)
    assert look_before(store).begun
