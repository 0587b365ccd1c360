"""What a later version wrote: an earlier one refuses it with the version it needs, and removes nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.records import FOOTER_KEY
from promptmill.pipeline.models.catalog.versions import newer_version
from promptmill.pipeline.storage.store import Store
from tests.heart.mill import run_small

Cli = Callable[..., Any]
NEEDS = "expected Promptmill 9.1.0 or newer, which wrote this, got Promptmill"


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "out"))
    run_small(tmp_path / "prompts", store)
    return store


def rewritten(store: Store, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(store.read(key))
    content["versions"] = {"promptmill": "9.1.0"}
    change(content)
    store.put(key, json.dumps(content).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(version=2),
        lambda content: content["job"]["generation"].update(of_tomorrow=1),
        lambda content: content["plan"]["models"][0].update(of_tomorrow=1),
    ],
)
def test_a_dataset_of_tomorrow(made: Store, cli: Cli, change: Callable[[dict[str, Any]], object]) -> None:
    rewritten(made, "job.json", change)
    for command in (("status",), ("verify", "--repair"), ("report",), ("delete", "--yes")):
        answer = cli(command[0], made.url, *command[1:])
        assert answer.code == 2 and NEEDS in answer.err and "Install promptmill>=9.1.0" in answer.err
    assert NEEDS.split(",", maxsplit=1)[0] in cli("runs", made.url, "--json").json["datasets"][0]["problem"]


def test_one_of_tomorrow_that_says_nothing_new_is_read(made: Store, cli: Cli) -> None:
    rewritten(made, "job.json", lambda content: None)
    assert cli("verify", made.url).code == 0


def test_damage_is_no_later_version(made: Store, cli: Cli) -> None:
    content = json.loads(made.read("job.json"))
    made.put("job.json", json.dumps({**content, "version": 2}).encode())
    answer = cli("status", made.url)
    assert answer.code == 2 and "version 2" in answer.err and "Install" not in answer.err


def test_a_shard_of_tomorrow_is_not_removed_as_damaged(made: Store, cli: Cli) -> None:
    key = "data/part-000001.parquet"
    table = pq.read_table(pa.BufferReader(made.read(key)))
    footer = json.loads(table.schema.metadata[FOOTER_KEY])
    told = {**footer, "of_tomorrow": 1, "versions": {"promptmill": "9.1.0"}}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, FOOTER_KEY: json.dumps(told)}), sink)
    made.put(key, sink.getvalue().to_pybytes())
    answer = cli("verify", made.url, "--repair", "--grace", "0", "--json")
    assert answer.code == 1 and key not in answer.json["removed"] and made.entry(key) is not None
    assert "Promptmill 9.1.0 or newer" in answer.json["problems"][0]


def test_which_versions_are_newer() -> None:
    for other in ("0.0.9", "", "tomorrow", "0.1", "0.1.0", "0.1.0.dev1"):
        assert newer_version({"promptmill": other}, "x") is None, other
    for other in ("0.1.1", "0.10.0", "1", "0.2.0rc1"):
        assert newer_version({"promptmill": other}, "x") is not None, other
