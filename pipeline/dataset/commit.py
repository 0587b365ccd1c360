"""The moment a shard becomes part of the dataset: side objects first, then the data object, only if absent.

The data object is the commit record. There is no rename, no marker and no table of ids: whoever comes second finds
the object there and is done, and a reply that was lost on the way looks the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.dataset.keys import side_object_key
from promptmill.pipeline.dataset.records import Outcome, RecordWriter, read_footer, to_parquet
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import OutputMismatchError, Problem, PromptmillError
from promptmill.schemas.plan import CommitRecord, Counts, Shard, ShardStats

_TRIES = 3
"""A `verify --repair` may remove a damaged object between the refusal and the look at it."""


def commit_shard(
    shard: Shard,
    asked: Sequence[str],
    outcomes: Sequence[Outcome],
    writer: RecordWriter,
    store: Store,
    fingerprint: str,
) -> tuple[Counts, int]:
    """Counts of the data object that stands in the end, ours or that of whoever was first, and the bytes of ours."""
    check_conservation(asked, outcomes)
    order = {sample: position for position, sample in enumerate(asked)}
    outcomes = sorted(outcomes, key=lambda outcome: order[outcome.sample.sample_id])
    kept = [outcome for outcome in outcomes if outcome.error is None and outcome.reason is None]
    rejected = [outcome for outcome in outcomes if outcome.error is None and outcome.reason is not None]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    reached("before-side-objects")
    side_objects = []
    for folder, table in (("rejects", writer.rejected(rejected)), ("failures", writer.failed(failed))):
        if table.num_rows:
            content = to_parquet(table)
            side_objects.append(side_object_key(folder, shard, content))
            store.put(side_objects[-1], content)
            reached(f"after-{folder}")
    counts = Counts(len(asked), len(kept), len(rejected), len(failed))
    data = to_parquet(writer.kept(kept), CommitRecord(fingerprint, shard, counts, tuple(side_objects)))
    reached("before-data")
    for _ in range(_TRIES):
        if store.create(shard.data_key, data):
            reached("after-data")
            return counts, len(data)
        footer = committed_footer(store, shard, fingerprint)
        if footer is not None:
            return footer.counts, len(data)
    raise PromptmillError(
        f"{store.url}/{shard.data_key} was there and is gone: something else deletes from this output"
    )


def write_receipt(store: Store, receipt: ShardStats) -> None:
    store.put(f"receipts/part-{receipt.shard:06d}.json", json.dumps(asdict(receipt), sort_keys=True).encode())
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
    """Proof that the shard is done, None where it is not. Raises OutputMismatchError for an object of another job."""
    entry = store.entry(shard.data_key)
    if entry is None:
        return None
    where = f"{store.url}/{shard.data_key}"
    try:
        footer = read_footer(store.parquet_metadata(entry))
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise OutputMismatchError(
            Problem(
                where,
                "a whole Parquet object",
                str(error).splitlines()[0][:200],
                "`promptmill verify --repair` removes it so that it is made again",
            )
        ) from None
    if footer is None or footer.fingerprint != fingerprint:
        raise OutputMismatchError(
            Problem(
                where,
                f"an object of job {fingerprint[:12]}",
                f"one of {footer.fingerprint[:12] if footer else 'another program'}",
                "Choose another output.url",
            )
        )
    return footer
