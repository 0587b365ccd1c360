"""The moment a shard becomes part of the dataset: side objects first, then the data object, only if absent.

The data object is the commit record. There is no rename, no marker and no table of ids: whoever comes second finds
the object there and is done, and a reply that was lost on the way looks the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.dataset.keys import side_object_key
from promptmill.pipeline.dataset.records import Outcome, RecordWriter, to_parquet
from promptmill.pipeline.dataset.state import MAKE_AGAIN, gone_sidecars, read_data_object
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import OutputMismatchError, Problem, PromptmillError
from promptmill.schemas.plan import CommitRecord, Counts, Shard, ShardStats, Sidecar

NOT_SAID: Mapping[str, str] = {}
_TRIES = 3
"""Others may remove at the same time what they take for damaged or for left over; each of them only once."""


def commit_shard(
    shard: Shard,
    asked: Sequence[str],
    outcomes: Sequence[Outcome],
    writer: RecordWriter,
    store: Store,
    fingerprint: str,
    versions: Mapping[str, str] = NOT_SAID,
) -> tuple[Counts, int]:
    """Counts of the data object that stands in the end, ours or that of whoever was first, and the bytes of ours.

    `versions` that acted become part of the proof: on the same ones the bytes are the same.
    """
    check_conservation(asked, outcomes)
    order = {sample: position for position, sample in enumerate(asked)}
    outcomes = sorted(outcomes, key=lambda outcome: order[outcome.sample.sample_id])
    kept = [outcome for outcome in outcomes if outcome.error is None and outcome.reason is None]
    rejected = [outcome for outcome in outcomes if outcome.error is None and outcome.reason is not None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    counts = Counts(len(asked), len(kept), len(rejected), len(failed))
    record = CommitRecord(fingerprint, shard, counts, (), (), versions, _labels(kept))
    return commit_tables(record, writer.kept(kept), writer.rejected(rejected), writer.failed(failed), store)


def commit_tables(
    record: CommitRecord, kept: pa.Table, rejected: pa.Table, failed: pa.Table | None, store: Store
) -> tuple[Counts, int]:
    """As `commit_shard`, of rows that are made already; the side objects of `record` are filled in.

    Raises PromptmillError where its counts are not those of the tables.
    """
    shard = record.shard
    _check_rows(record.counts, kept, rejected, failed)
    reached("before-side-objects")
    contents: dict[str, bytes] = {}
    sidecars: list[Sidecar] = []
    for folder, table in (("rejects", rejected), ("failures", failed)):
        if table is not None and table.num_rows:
            content = to_parquet(table)
            name = side_object_key(folder, shard, content)
            contents[name] = content
            sidecars.append(Sidecar(name, table.num_rows, len(content), hashlib.sha256(content).hexdigest()))
    record = replace(record, side_objects=tuple(contents), sidecars=tuple(sidecars))
    data = to_parquet(kept, record)
    return _committed(record, contents, data, store).counts, len(data)


def _check_rows(counts: Counts, kept: pa.Table, rejected: pa.Table, failed: pa.Table | None) -> None:
    rows = (kept.num_rows, rejected.num_rows, 0 if failed is None else failed.num_rows)
    if rows != (counts.kept, counts.rejected, counts.failed) or not counts.conserved:
        raise PromptmillError(f"a shard does not add up: {counts} and {rows} rows. This is a defect of Promptmill")


def _labels(kept: Sequence[Outcome]) -> dict[str, int]:
    """How many of each class, in the order of their numbers."""
    counts = Counter(outcome.sample.label for outcome in kept if outcome.sample.label is not None)
    return {str(label): counts[label] for label in sorted(counts)}


def _committed(record: CommitRecord, contents: Mapping[str, bytes], data: bytes, store: Store) -> CommitRecord:
    """The proof that stands in the end, with all that it names.

    Side objects are written right before the proof, where `verify --repair` spares them for their age, and are looked
    for after it: what a repair removed before it could see the proof is put back. After it no repair removes them.
    """
    shard = record.shard
    for _ in range(_TRIES):
        for name, content in contents.items():
            store.put(name, content)
            reached(f"after-{name.partition('/')[0]}")
        reached("before-data")
        if store.create(shard.data_key, data):
            reached("after-data")
        standing = committed_footer(store, shard, record.fingerprint)
        if standing is not None and _whole(standing, contents, store):
            return standing
    raise PromptmillError(
        f"{store.url}/{shard.data_key} was there and is gone: something else deletes from this output"
    )


def _whole(record: CommitRecord, contents: Mapping[str, bytes], store: Store) -> bool:
    """Whether all side objects are there, put back where need be. Raises OutputMismatchError where one cannot be."""
    for _ in range(_TRIES):
        gone = gone_sidecars(store, record)
        if not gone:
            return True
        for sidecar in gone:
            if sidecar.name not in contents:
                where = f"{store.url}/{sidecar.name}"
                raise OutputMismatchError(Problem(where, f"what {record.shard.data_key} names", "nothing", MAKE_AGAIN))
            store.put(sidecar.name, contents[sidecar.name])
    return False


def proven(store: Store, shard: Shard, fingerprint: str) -> CommitRecord | None:
    """The proof that the shard is done, with all that it names; None where it has to be made. As `committed_footer`."""
    record = committed_footer(store, shard, fingerprint)
    return None if record is None or gone_sidecars(store, record) else record


def write_receipt(store: Store, shard: Shard, receipt: ShardStats) -> None:
    store.put(shard.receipt_key, json.dumps(asdict(receipt), sort_keys=True).encode())
    reached("after-receipt")


def check_conservation(asked: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Raises PromptmillError unless every sample asked for ended exactly once."""
    ended = [outcome.sample.sample_id for outcome in outcomes]
    if len(set(ended)) < len(ended) or set(ended) != set(asked) or len(set(asked)) < len(asked):
        missing, extra = len(set(asked) - set(ended)), len(ended) - len(set(ended) & set(asked))
        raise PromptmillError(
            f"a shard does not add up: {len(asked)} samples asked for, {len(ended)} ended, {missing} missing, "
            f"{extra} too many. Nothing was written; this is a defect of Promptmill"
        )


def committed_footer(store: Store, shard: Shard, fingerprint: str) -> CommitRecord | None:
    """Proof that the shard is done, None where it is not. Raises OutputMismatchError for what is no proof of it."""
    item = read_data_object(store, store.entry(shard.data_key))
    if item is None:
        return None
    record, expected = item.footer, f"an object of job {fingerprint[:12]}"
    got, hint = f"one of {record.fingerprint[:12] if record else 'another program'}", "Choose another output.url"
    if item.damaged:
        expected, got = "a whole Parquet object", item.problem or ""
        hint = "`promptmill verify --repair` removes it so that it is made again"
    elif record is not None and record.fingerprint == fingerprint:
        if record.shard == shard:
            return record
        expected, got = _rows_of(shard), _rows_of(record.shard)
        hint = MAKE_AGAIN
    raise OutputMismatchError(Problem(f"{store.url}/{shard.data_key}", expected, got, hint))


def _rows_of(shard: Shard) -> str:
    return f"rows {shard.start}–{shard.stop} as {shard.part}"
