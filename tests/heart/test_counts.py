"""What a dataset holds, from footers: nothing twice, nothing of others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.commit import write_receipt
from promptmill.pipeline.dataset.keys import data_key_of, shard_number, shard_of, side_object_key
from promptmill.pipeline.dataset.records import read_footer, to_parquet
from promptmill.pipeline.dataset.state import (
    DataObject,
    belongs,
    commonest_failure,
    counted,
    dataset_counts,
    missing_shards,
    read_counts,
    read_data_objects,
    read_receipts,
    side_objects,
)
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import CommitRecord, Counts, Segment, Shard, ShardStats
from tests.heart.mill import memory, small_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three shards of the source (5 prompts × 2 images), one of a retry, three of an extension."""
    plan = small_plan(tmp_path)
    files = plan.segments[0].files
    retry = Segment("retry", files, 3, 3, 1, 0, (3,))
    extension = Segment("extend", files, 5, 4, 3)
    return replace(plan, segments=(*plan.segments, retry, extension))


def put(store: Store, plan: Plan, number: int, counts: Counts = Counts(1, 1), **changes: object) -> Counts:
    record = CommitRecord(plan.fingerprint, plan.shard(number), counts, ())
    table = pa.table({"sample_id": [f"{number}-{i}" for i in range(counts.kept)]})
    store.put(plan.shard(number).data_key, to_parquet(table, replace(record, **changes)))  # type: ignore[arg-type]
    return counts


def test_counts_add_up() -> None:
    total = Counts(10, 5, 3, 2) + Counts(1, 0, 0, 1)
    assert total == Counts(11, 5, 3, 3)
    assert total.conserved
    assert Counts(3, 1, 1, 1).conserved
    assert not Counts(4, 1, 1, 1).conserved
    assert not Counts(1, 1, 1, 1).conserved


def test_a_retry_moves_what_had_failed(plan: Plan) -> None:
    by_shard = {0: Counts(4, 1, 1, 2), 1: Counts(4, 2, 2, 0), 2: Counts(2, 0, 1, 1), 3: Counts(3, 1, 1, 1)}
    assert counted(plan, 0, by_shard[0]) == by_shard[0]
    assert counted(plan, 3, by_shard[3]) == Counts(0, 1, 1, -2)
    assert dataset_counts(plan, by_shard) == Counts(10, 4, 5, 1)
    assert dataset_counts(plan, {**by_shard, 4: Counts(4, 4)}) == Counts(14, 8, 5, 1)


def test_a_shard_that_the_plan_does_not_have_is_not_counted(plan: Plan) -> None:
    assert plan.shards == 7
    assert dataset_counts(plan, {6: Counts(2, 2), 7: Counts(4, 4), 99: Counts(4, 4)}) == Counts(2, 2)
    assert dataset_counts(plan, {}) == Counts()


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("data/part-000007.parquet", 7),
        ("data/part-1234567.parquet", 1234567),
        ("part-000000.parquet", 0),
        ("data/part-000007.parquet.tmp", None),
        ("data/xpart-000007.parquet", None),
        ("data/part-.parquet", None),
        ("data/part-7a.parquet", None),
        ("data/part--7.parquet", None),
        ("data/000007.parquet", None),
        ("data/part-000007", None),
    ],
)
def test_shard_number(key: str, number: int | None) -> None:
    assert shard_number(key) == number


def test_keys() -> None:
    shard = Shard(12, 0, 0, 0, 1)
    assert (shard.part, shard.data_key) == ("part-000012", "data/part-000012.parquet")
    assert side_object_key("rejects", shard, b"abc") == "rejects/part-000012-ba7816bf8f01.parquet"


@pytest.fixture
def large(plan: Plan) -> Plan:
    """Two million shards more, whose numbers have seven digits."""
    return replace(plan, segments=(*plan.segments, Segment("extend", plan.segments[0].files, 4_000_000, 7, 2_000_000)))


def test_names_are_as_long_as_the_numbers_of_their_segment(large: Plan) -> None:
    assert [large.shard(n).part for n in (6, 7, 999_999, 1_000_000, 2_000_006)] == [
        "part-000006",
        "part-0000007",
        "part-0999999",
        "part-1000000",
        "part-2000006",
    ]
    assert large.shard(7).receipt_key == "receipts/part-0000007.json"


@pytest.mark.parametrize("number", [6, 7, 1_000_000])
def test_an_object_of_any_number_is_found_again(large: Plan, number: int) -> None:
    store, shard = memory(), large.shard(number)
    put(store, large, number)
    assert read_counts(large, store) == {number: Counts(1, 1)}
    side = side_object_key("failures", shard, b"abc")
    assert [shard_of(shard.data_key), shard_of(side)] == [number, number]
    assert data_key_of(side) == shard.data_key
    store.put(f"data/part-{number:09d}.parquet", store.read(shard.data_key))
    assert read_counts(large, store) == {number: Counts(1, 1)}
    assert read_footer(pq.read_metadata(pa.BufferReader(store.read(shard.data_key)))).shard == shard  # type: ignore[union-attr]


def test_the_proof_of_a_short_number_is_as_it_was(large: Plan) -> None:
    records = [CommitRecord(large.fingerprint, large.shard(n), Counts(), ()) for n in (6, 7)]
    footers = [pq.read_metadata(pa.BufferReader(to_parquet(pa.table({"a": [1]}), r))).metadata for r in records]
    assert ["digits" in json.loads(footer[b"promptmill"])["shard"] for footer in footers] == [False, True]


@pytest.mark.parametrize("key", ["data/part-7.parquet", "scores/clip-part-000007.parquet", "data/part-000007.json"])
def test_no_shard_is_read_out_of_another_name(key: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a data object"):
        shard_of(key)


def test_missing_shards(plan: Plan) -> None:
    store = memory()
    assert [shard.number for shard in missing_shards(plan, store)] == list(range(7))
    store.put("data/part-000001.parquet", b"whatever it is, the key is taken")
    store.put("data/notes.txt", b"")
    store.put("data/part-000099.parquet", b"")
    store.put("data/part-0000004.parquet", b"more digits than this plan gives")
    assert missing_shards(plan, store) == [plan.shard(n) for n in (0, 2, 3, 4, 5, 6)]


def test_only_this_plan_s_objects_are_counted(plan: Plan) -> None:
    store = memory()
    expected = {0: put(store, plan, 0, Counts(4, 3, 0, 1)), 3: put(store, plan, 3, Counts(3, 1, 1, 1))}
    put(store, plan, 1, fingerprint="another")
    put(store, plan, 2, shard=plan.shard(4))
    store.put("data/part-000005.parquet", b"no parquet")
    store.put("data/part-000006.parquet", to_parquet(pa.table({"a": [1]})))
    store.put("data/part-000007.parquet", store.read("data/part-000000.parquet"))
    store.put("data/notes.parquet", store.read("data/part-000000.parquet"))
    assert read_counts(plan, store) == expected


def test_a_shard_behind_the_end_of_the_plan_is_not_ours(plan: Plan) -> None:
    last = CommitRecord(plan.fingerprint, plan.shard(6), Counts(), ())
    beyond = replace(last, shard=Shard(7, 2, 0, 0, 1))
    assert belongs(plan, DataObject(Entry("data/part-000006.parquet", 1), last))
    assert not belongs(plan, DataObject(Entry("data/part-000007.parquet", 1), beyond))
    assert not belongs(plan, DataObject(Entry("data/part-000006.parquet", 1), None))
    store = memory()
    store.put("data/part-000007.parquet", to_parquet(pa.table({"a": [1]}), beyond))
    assert read_counts(plan, store) == {}


def test_what_is_wrong_with_an_object_is_said(plan: Plan) -> None:
    store = memory()
    put(store, plan, 0, Counts(4, 3, 1))
    store.put("data/part-000001.parquet", b"no parquet")
    store.put("data/part-000002.parquet", to_parquet(pa.table({"a": [1, 2]})))
    store.put("data/part-000003.parquet", b"")
    good, broken, foreign, empty = read_data_objects(store, store.list("data"))
    assert (good.rows, good.problem) == (3, None)
    assert good.footer == CommitRecord(plan.fingerprint, plan.shard(0), Counts(4, 3, 1), ())
    assert (broken.footer, broken.rows) == (None, 0)
    assert str(broken.problem).startswith("no whole Parquet file: ")
    assert (foreign.footer, foreign.rows, foreign.problem) == (None, 2, "not written by Promptmill")
    assert str(empty.problem).startswith("no whole Parquet file: ")


def test_side_objects() -> None:
    store = memory()
    for key in ("rejects/a.parquet", "failures/b.parquet", "data/c.parquet", "inputs/d.parquet"):
        store.put(key, b"")
    assert side_objects(store) == {"rejects/a.parquet", "failures/b.parquet"}


def test_receipts() -> None:
    store = memory()
    written = ShardStats(5, Counts(4, 1, 2, 1), {"read": 0.5}, "node:1", "cpu", 2, 100, False, 1, 7.0)
    write_receipt(store, Shard(5, 0, 0, 0, 1), written)
    assert store.read("receipts/part-000005.json") == json.dumps(asdict(written), sort_keys=True).encode()
    store.put("receipts/part-000006.json", b"{")
    store.put("receipts/part-000007.json", b"{}")
    store.put("receipts/part-000008.json", b'{"counts": {}, "shard": 8, "of a later version": 1}')
    write_receipt(store, Shard(9, 0, 0, 0, 1), replace(written, shard=9))
    assert read_receipts(store) == [written, replace(written, shard=9)]


def test_commonest_failure() -> None:
    store = memory()
    assert commonest_failure(store) == ""
    rows = [("crash", "once"), ("generation", "x" * 400), ("generation", "x" * 400)]
    kinds, messages = zip(*rows, strict=True)
    store.put("failures/part-000000-0.parquet", to_parquet(pa.table({"error_kind": ["old"], "message": ["older"]})))
    store.put("failures/part-000001-0.parquet", to_parquet(pa.table({"error_kind": kinds, "message": messages})))
    assert commonest_failure(store) == f"generation: {'x' * 400}"[:300]
    last = {"error_kind": ["crash"], "message": ["it died"]}
    store.put("failures/part-000002-0.parquet", to_parquet(pa.table(last)))
    assert commonest_failure(store) == "crash: it died"
