"""A dataset as it lies in storage: footers, counts, receipts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from promptmill.pipeline.dataset.keys import SIDE_FOLDERS, is_failure, shard_number
from promptmill.pipeline.dataset.records import UNREADABLE, read_footer, written_by
from promptmill.pipeline.dataset.side_json import fitting
from promptmill.pipeline.display import cut, first_line
from promptmill.pipeline.models.catalog.versions import newer_version
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import NO_OBJECT
from promptmill.schemas.errors import MissingObjectError, Problem
from promptmill.schemas.plan import CommitRecord, Counts, Shard, ShardStats, Sidecar

_LOOKS = 3
MAKE_AGAIN = "`promptmill verify --repair` and then `promptmill run` make that shard again"


def side_objects(store: Store) -> set[str]:
    """All that are there. To hold footers against them, read the footers first: a shard's side objects come before."""
    return {entry.name for folder in SIDE_FOLDERS for entry in store.list(folder)}


def missing_shards(plan: Plan, store: Store) -> list[Shard]:
    """What is left to do, from one listing of `data/`: an object that is there is a shard that is done."""
    there = {entry.name for entry in store.list("data")}
    return [shard for shard in plan.all_shards() if shard.data_key not in there]


def proven_shards(plan: Plan, store: Store, known: Mapping[int, CommitRecord]) -> dict[int, CommitRecord]:
    """By shard number what a listing shows now: each data object of this plan with all side objects that it names.

    Proofs that are `known` are not read again, and only their data object is looked for.
    """
    entries = {entry.name: entry for entry in store.list("data")}
    there = {shard.number: entries[shard.data_key] for shard in plan.all_shards() if shard.data_key in entries}
    items = read_data_objects(store, [entry for number, entry in there.items() if number not in known])
    sides = side_objects(store)
    new = [item.footer for item in items if item.footer is not None and belongs(plan, item)]
    proofs = {proof.shard.number: proof for proof in new if sides.issuperset(proof.side_objects)}
    return proofs | {number: proof for number, proof in known.items() if number in there}


@dataclass(frozen=True)
class DataObject:
    """An object below `data/`. `footer` is None where it is damaged or not ours, and `problem` says why.

    `damaged` says that it is beyond reading: no Parquet file, or with a footer of ours that nobody can read.
    `newer` says that a later version of this program wrote it.
    """

    entry: Entry
    footer: CommitRecord | None
    rows: int = 0
    problem: str | None = None
    damaged: bool = False
    newer: Problem | None = None


def read_data_objects(store: Store, entries: Sequence[Entry]) -> list[DataObject]:
    """Without those that are gone by now: `verify --repair` may be at work."""
    found = store.map(lambda entry: read_data_object(store, entry), entries)
    return [item for item in found if item is not None]


def read_data_object(store: Store, entry: Entry | None) -> DataObject | None:
    """None where it is gone. What looks damaged is looked at again, since it may be replaced after the listing."""
    item = None
    for _ in range(_LOOKS):
        if entry is None:
            return None
        item = _data_object(store, entry)
        if item is not None and not item.damaged:
            return item
        there = store.entry(entry.name)
        if item is not None and there is not None and there.version == entry.version:
            return item
        entry = there
    return item


def _data_object(store: Store, entry: Entry) -> DataObject | None:
    try:
        metadata = parquet_metadata(store, entry)
    except MissingObjectError:
        return None
    except (pa.ArrowException, ValueError) as error:
        return DataObject(entry, None, problem=f"no whole Parquet file: {first_line(error)}", damaged=True)
    try:
        footer = read_footer(metadata)
    except NO_OBJECT as error:
        if (newer := newer_version(written_by(metadata), entry.name)) is not None:
            return DataObject(entry, None, metadata.num_rows, f"{newer.expected}; this is {newer.got}", newer=newer)
        unread = f"its footer of Promptmill cannot be read: {type(error).__name__}: {first_line(error)}"
        return DataObject(entry, None, metadata.num_rows, unread, damaged=True)
    problem = None if footer is not None else "not written by Promptmill"
    return DataObject(entry, footer, metadata.num_rows, problem)


def gone_sidecars(store: Store, record: CommitRecord) -> list[Sidecar]:
    """Side objects that the proof names and that are not there now, or have another size."""
    there = {sidecar.name: store.entry(sidecar.name) for sidecar in record.sidecars}
    return [sidecar for sidecar in record.sidecars if not fits(sidecar, there[sidecar.name])]


def fits(sidecar: Sidecar, entry: Entry | None) -> bool:
    return entry is not None and sidecar.size_bytes in (None, entry.size_bytes)


def dataset_counts(plan: Plan, by_shard: Mapping[int, Counts]) -> Counts:
    """Counts of the whole dataset so far; shards that the plan does not have are left out.

    The samples of a retried shard were counted as failed where they failed first; they are moved, not added.
    """
    total = Counts()
    for number, counts in by_shard.items():
        if number < plan.shards:
            total = total + counted(plan, number, counts)
    return total


def counted(plan: Plan, shard: int, counts: Counts) -> Counts:
    """What a shard adds to the dataset."""
    if plan.segments[plan.shard(shard).segment].kind != "retry":
        return counts
    return Counts(0, counts.kept, counts.rejected, counts.failed - counts.samples)


def read_counts(plan: Plan, store: Store) -> dict[int, Counts]:
    """Counts by shard number, from the footers of this plan's objects; whatever else lies in `data/` is left out."""
    return {number: footer.counts for number, footer in read_footers(plan, store).items()}


def read_footers(plan: Plan, store: Store) -> dict[int, CommitRecord]:
    """Of this plan's objects by shard number; whatever else lies in `data/` is left out."""
    entries = [e for e in store.list("data") if (n := shard_number(e.name)) is not None and n < plan.shards]
    return {o.footer.shard.number: o.footer for o in read_data_objects(store, entries) if o.footer and belongs(plan, o)}


def failure_kinds(plan: Plan, store: Store, footers: Mapping[int, CommitRecord]) -> dict[str, int]:
    """How many samples ended as a failure of each kind, the commonest first; those that a retry made are none."""
    keys: list[str] = []
    for number in sorted(footers):
        record = footers[number]
        again = plan.segments[plan.shard(number).segment].kind == "retry"
        keys += [record.shard.data_key] if again else []
        keys += [key for key in record.side_objects if again or is_failure(key)]
    latest: dict[str, str | None] = {}
    for ids, kinds in store.map(lambda key: _kinds(store, key), keys):
        latest.update(zip(ids, kinds, strict=True))
    return dict(Counter(kind for kind in latest.values() if kind is not None).most_common())


def _kinds(store: Store, key: str) -> tuple[list[str], list[str | None]]:
    """Of one object the ids of its samples, and the kind of error of each that failed."""
    failed = is_failure(key)
    try:
        with store.open(key) as file:
            table = pq.ParquetFile(file).read(columns=["sample_id", "error_kind"] if failed else ["sample_id"])
        ids = table["sample_id"].to_pylist()
        return ids, table["error_kind"].to_pylist() if failed else [None] * len(ids)
    except (MissingObjectError, *UNREADABLE):  # a column whose name is damaged is not there
        return [], []


def newest_object(store: Store) -> Entry | None:
    """The data object that was written last, as far as the store says."""
    entries = [entry for entry in store.list("data") if shard_number(entry.name) is not None]
    return max(entries, key=lambda entry: entry.modified or 0.0, default=None)


def distinct_versions(said: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Each once, in order; without those that say nothing."""
    return list({tuple(sorted(versions.items())): versions for versions in said if versions}.values())


def belongs(plan: Plan, item: DataObject) -> bool:
    """Whether the object is the proof that its shard of this plan is done."""
    return (
        item.footer is not None
        and item.footer.fingerprint == plan.fingerprint
        and item.footer.shard.data_key == item.entry.name
        and item.footer.shard.number < plan.shards
    )


def read_receipts(
    store: Store, problems: list[str] | None = None, known: Container[str] = frozenset()
) -> list[ShardStats]:
    """What the shards cost, but for objects that are `known`.

    Appends to `problems` which are left out: a lost one costs a line in the report.
    """
    listed = (entry for entry in store.list("receipts") if entry.name.endswith(".json"))
    entries = [entry for entry in listed if entry.name not in known]
    found, left_out = [], []
    for entry, content in zip(entries, store.map(lambda entry: store.read_if_exists(entry.name), entries), strict=True):
        try:
            found.append(_sound(fitting(_STATS, content)))
        except ValueError as error:
            left_out.append(f"{entry.name}: left out: {cut(error, 200)}")
    if problems is not None:
        problems += left_out
    return found


_STATS = TypeAdapter(ShardStats)


def _sound(stats: ShardStats) -> ShardStats:
    """Raises ValueError for numbers that are no time and no count."""
    batches = (number for batch in stats.batches for number in batch)
    numbers = (*stats.seconds.values(), stats.began, stats.shard, *asdict(stats.counts).values(), stats.model_loads)
    numbers = (*numbers, stats.attempts, *batches, *stats.rejected.values(), *stats.failed.values())
    if not all(math.isfinite(number) and 0 <= number < 2**53 for number in numbers):
        raise ValueError("a number that is negative or not finite")
    return stats


def commonest_failure(store: Store) -> str:
    """Kind and message, from the failures written last; empty where there are none, or they are damaged."""
    entries = store.list("failures")
    content = store.read_if_exists(entries[-1].name) if entries else None
    if content is None:
        return ""
    try:
        table = pq.read_table(pa.BufferReader(content), columns=["error_kind", "message"])
        rows = Counter(f"{row['error_kind']}: {row['message']}" for row in table.to_pylist())
    except UNREADABLE:
        return ""
    return rows.most_common(1)[0][0][:300] if rows else ""
