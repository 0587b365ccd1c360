"""What lies in storage is read as it is: damaged, removed meanwhile, or from a place that takes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.look import _check_image
from promptmill.pipeline.dataset.samples import plain
from promptmill.pipeline.dataset.state import commonest_failure
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.plan import Counts
from tests.heart.mill import memory, run_small


def test_failures_that_are_damaged_do_not_hide_why_a_run_stops() -> None:
    """`compute.max_failure_share` ended it with a traceback of Arrow's."""
    store = memory()
    store.put("failures/part-000000-0123456789ab.parquet", b"PAR1 and no more")
    assert commonest_failure(store) == ""
    table = pa.table({"error_kind": ["memory"] * 2 + ["hang"], "message": ["m", "m", "h"]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put("failures/part-000001-0123456789ab.parquet", sink.getvalue().to_pybytes())
    assert commonest_failure(store) == "memory: m"


def test_an_image_without_bytes_does_not_have_its_hash() -> None:
    row = {"sample_id": "s", "image": {"bytes": None, "path": "s.png"}, "image_sha256": "0" * 64}
    assert list(_check_image("data/a", row)) == ["data/a: the image of sample s does not have its hash"]


@dataclass(frozen=True)
class Numbers:
    value: float


def test_numbers_inside_of_objects_are_valid_json_too() -> None:
    assert plain({"a": Numbers(float("nan")), "b": [Numbers(1.5)]}) == {"a": {"value": None}, "b": [{"value": 1.5}]}


class Tidied(Store):
    """Somebody removes what was listed before it is read."""

    def list(self, folder: str) -> list[Entry]:
        entries = super().list(folder)
        for entry in entries:
            self.delete(entry.name)
        return entries


def test_a_card_is_written_though_an_object_goes_away(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    write_card(plan, Tidied(store.url), Counts())
    assert b"image_sha256" in store.read("README.md")


def test_a_store_that_takes_nothing_says_what_it_did_not_take() -> None:
    """The attempt to tidy up waited as long again, and its error stood in place of the first."""
    with pytest.raises(StorageError, match=r"cannot create \.tmp/guard-"):
        Store("http://127.0.0.1:9/out", patience_s=0).weakness()
