"""Proof that a dataset holds each sample once: from footers alone, or from every image."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from promptmill.pipeline.dataset.keys import shard_number
from promptmill.pipeline.dataset.state import DataObject, dataset_counts, read_data_objects, side_objects
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.local import TEMPORARY
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import Counts


@dataclass
class Verification:
    """`problems` make the dataset wrong; `missing` shards only make it unfinished; `orphans` harm nothing.

    `damaged` are data objects; their side objects count as orphans.
    """

    counts: Counts = field(default_factory=Counts)
    shards: int = 0
    shards_done: int = 0
    missing: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    images_checked: int = 0

    @property
    def complete(self) -> bool:
        return not self.problems and not self.missing


def verify_dataset(plan: Plan, store: Store, deep: bool = False) -> Verification:
    """Reads each footer once; `deep` also decodes every image, checks its hash, and looks for ids that come twice.

    From the footers: every shard of the plan there, of this job, over the rows the plan gives it, and samples asked
    for = kept + rejected + failed, where a shard's kept are the rows it has. Shards cover disjoint rows and prompt ids
    are unique (checked when planned), so no sample can be in two shards.
    """
    result = Verification(shards=plan.shards)
    objects = read_data_objects(store, store.list("data"))
    good: dict[int, DataObject] = {}
    there = side_objects(store)
    for item in objects:
        problem = _problem(plan, item, there)
        if problem is None and item.footer is not None:
            good[item.footer.shard.number] = item
        else:
            result.problems.append(f"{item.entry.name}: {problem}")
            result.damaged.append(item.entry.name)
    result.missing = [shard.number for shard in plan.all_shards() if shard.number not in good]
    result.shards_done = len(good)
    result.counts = dataset_counts(plan, {number: item.footer.counts for number, item in good.items() if item.footer})
    if not result.missing and result.counts.samples != plan.samples:
        result.problems.append(f"the plan asks for {plan.samples} samples, the shards hold {result.counts.samples}")
    if deep:
        _look_at_everything(store, good, result)
    whole = [item for item in good.values() if item.entry.name not in result.damaged]
    named = {key for item in whole if item.footer for key in item.footer.side_objects}
    result.orphans = sorted(there - named) + [entry.name for entry in store.list(TEMPORARY)]
    return result


def repair(result: Verification, store: Store) -> list[str]:
    """Remove orphans and damaged data objects, so that `run` makes those shards again; what was removed.

    Only while no run is going on: an orphan may be the side object of a shard that is being committed.
    """
    removed = [*result.orphans, *result.damaged]
    for key in removed:
        store.delete(key)
    return removed


def _problem(plan: Plan, item: DataObject, there: set[str]) -> str | None:
    footer = item.footer
    if footer is None:
        return item.problem
    number = shard_number(item.entry.name)
    if number != footer.shard.number:
        return f"holds shard {footer.shard.number}"
    if footer.fingerprint != plan.fingerprint:
        return f"belongs to job {footer.fingerprint[:12]}, not {plan.fingerprint[:12]}"
    try:
        shard = plan.shard(footer.shard.number)
    except IndexError:
        return f"the plan has {plan.shards} shards only"
    if shard != footer.shard:
        return f"covers rows {footer.shard.start}–{footer.shard.stop}, the plan says {shard.start}–{shard.stop}"
    counts = footer.counts
    asked = plan.samples_in(shard)
    if not counts.conserved or counts.samples != asked:
        return f"{asked} samples asked for, {counts.kept} kept + {counts.rejected} rejected + {counts.failed} failed"
    if item.rows != counts.kept:
        return f"has {item.rows} rows, its footer says {counts.kept}"
    lost = [key for key in footer.side_objects if key not in there]
    return f"names {lost[0]}, which is not there" if lost else None


def _look_at_everything(store: Store, good: dict[int, DataObject], result: Verification) -> None:
    seen: dict[bytes, str] = {}
    for item in good.values():
        assert item.footer is not None
        problems = [
            *_check_rows(store, item.entry.name, item.footer.counts.kept, seen, result),
            *(problem for key in item.footer.side_objects for problem in _check_side(store, key, seen, result)),
        ]
        if problems:
            result.damaged.append(item.entry.name)
            result.problems.extend(problems)


def _check_side(store: Store, key: str, seen: dict[bytes, str], result: Verification) -> Iterator[str]:
    if key.startswith("rejects/"):
        yield from _check_rows(store, key, None, seen, result)
        return
    try:
        ids = pq.read_table(_whole(store, key), page_checksum_verification=True).column("sample_id").to_pylist()
    except (pa.ArrowException, OSError) as error:
        yield f"{key}: cannot be read: {error}"
        return
    if len(set(ids)) < len(ids):
        yield f"{key}: a sample_id comes twice"


def _whole(store: Store, key: str) -> pa.BufferReader:
    """Read first and parsed afterwards, so that an error of the storage is never taken for damage."""
    return pa.BufferReader(store.read(key))


def _check_rows(
    store: Store, key: str, rows: int | None, seen: dict[bytes, str], result: Verification
) -> Iterator[str]:
    found = 0
    try:
        columns = ["sample_id", "image", "image_sha256", "width", "height"]
        file = pq.ParquetFile(_whole(store, key), page_checksum_verification=True)
        for batch in file.iter_batches(batch_size=64):
            for row in batch.select(columns).to_pylist():
                found += 1
                short = hashlib.blake2b(row["sample_id"].encode(), digest_size=16).digest()
                if short in seen:
                    yield f"{key}: sample {row['sample_id']} is in {seen[short]} too"
                seen[short] = key
                yield from _check_image(key, row)
                result.images_checked += row["image"] is not None
    except (pa.ArrowException, OSError) as error:
        yield f"{key}: cannot be read: {str(error).splitlines()[0][:200]}"
        return
    if rows is not None and found != rows:
        yield f"{key}: {found} rows can be read, its footer says {rows}"


def _check_image(key: str, row: dict[str, object]) -> Iterator[str]:
    image = row["image"]
    if not isinstance(image, dict):
        return
    data = image["bytes"]
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        yield f"{key}: the image of sample {row['sample_id']} does not have its hash"
        return
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            size = picture.size
    except (OSError, SyntaxError, ValueError) as error:
        yield f"{key}: the image of sample {row['sample_id']} does not decode: {error}"
        return
    if size != (row["width"], row["height"]):
        yield f"{key}: the image of sample {row['sample_id']} is {size[0]}×{size[1]}, its row says otherwise"
