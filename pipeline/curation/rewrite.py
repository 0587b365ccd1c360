"""Last step: each shard of the input as a shard of the output, with the copies among its rejects."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.curation.decisions import decisions_of
from promptmill.pipeline.curation.settings import Task
from promptmill.pipeline.dataset.commit import commit_tables, proven
from promptmill.pipeline.dataset.records import FOOTER_KEY, read_footer
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import IMAGE
from promptmill.schemas.errors import OutputMismatchError, Problem
from promptmill.schemas.plan import CommitRecord, Counts, Shard
from promptmill.schemas.records import REJECT


def rewrite_shard(task: Task, shard: Shard, keep_images: bool) -> Counts:
    """The shard's counts. `keep_images` says whether rejects keep their images, as the job said of its own."""
    done = proven(task.output, shard, task.fingerprint)
    if done is not None:
        return done.counts
    whole, record = _data_object(task.input, shard)
    reasons = decisions_of(task.output, shard)
    gone = np.isin(np.arange(whole.num_rows), list(reasons))
    rejected = _rejects(whole.filter(pa.array(gone)), [reasons[row] for row in sorted(reasons)], keep_images)
    sides = {key.partition("/")[0]: _read(task.input, key) for key in record.side_objects}
    if (before := sides.get("rejects")) is not None:
        rejected = pa.concat_tables([before, rejected.select(before.column_names).cast(before.schema)])
    kept = whole.filter(pa.array(~gone))
    counts = replace(record.counts, kept=kept.num_rows, rejected=rejected.num_rows)
    made = CommitRecord(task.fingerprint, shard, counts, (), (), record.versions, _labels(record, kept))
    return commit_tables(made, kept, rejected, sides.get("failures"), task.output)[0]


def _labels(record: CommitRecord, kept: pa.Table) -> dict[str, int]:
    """As a run's proof counts them; empty where the input's says nothing of classes."""
    if not record.labels:
        return {}
    counts = Counter(label for label in kept.column("label").to_pylist() if label is not None)
    return {str(label): counts[label] for label in sorted(counts)}


def _read(store: Store, key: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(key)))


def _data_object(store: Store, shard: Shard) -> tuple[pa.Table, CommitRecord]:
    with whole_object(store, shard.data_key) as file:
        parquet = pq.ParquetFile(file)
        record = read_footer(parquet.metadata)
        table = parquet.read()
    if record is None or record.shard != shard:
        where, hint = f"{store.url}/{shard.data_key}", "Does something else write to that dataset?"
        raise OutputMismatchError(Problem(where, "the proof of that shard", "another object", hint))
    return table, record


def _rejects(table: pa.Table, reasons: list[str], keep_images: bool) -> pa.Table:
    """As a run writes them: `reason` stands where the schema of rejects has it."""
    if not keep_images:
        place = table.column_names.index("image")
        table = table.set_column(place, table.schema.field("image"), pa.nulls(table.num_rows, IMAGE))
    place = REJECT.get_field_index("reason")
    table = table.add_column(place, REJECT.field("reason"), pa.array(reasons, pa.string()))
    return table.replace_schema_metadata({key: v for key, v in table.schema.metadata.items() if key != FOOTER_KEY})
