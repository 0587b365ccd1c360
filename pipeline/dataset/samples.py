"""All samples of a dataset as one table without pixels, and the few pixels that are asked for."""

from __future__ import annotations

import io
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import shard_number
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.state import (
    MAKE_AGAIN,
    DataObject,
    belongs,
    read_data_objects,
    read_receipts,
    side_objects,
)
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.plan import Counts, ShardStats

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"
_STATUS_OF_FOLDER = {"data": KEPT, "rejects": REJECTED, "failures": FAILED}
SCORE_PREFIX = "score:"
"""Scores lie flat in the table, `score:clip` and so on, apart from columns of the source with the same name."""


@dataclass(frozen=True)
class Samples:
    """`table` has a row for every sample that ended, in the order of shards.

    Columns: those of the record, reject and failure schemas without `image`, the source's own, the scores as
    `score:<name>`, and `status`, `object`, `row` (where the image lies). `problems` names objects that cannot be read.
    """

    table: pa.Table
    source_columns: tuple[str, ...]
    counts: dict[int, Counts]
    receipts: tuple[ShardStats, ...] = ()
    problems: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def score_names(self) -> list[str]:
        return [name.removeprefix(SCORE_PREFIX) for name in self.table.column_names if name.startswith(SCORE_PREFIX)]

    def score(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [rows], NaN where a sample has none."""
        column = self.table.column(f"{SCORE_PREFIX}{name}").cast(pa.float64())
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)

    def texts(self, name: str) -> list[str]:
        return [str(value) if value is not None else "" for value in self.table.column(name).to_pylist()]


def read_dataset(plan: Plan, store: Store) -> tuple[Plan, Samples]:
    """All samples of this job, and the plan that holds for them: with what has been added since `plan` was read."""
    entries = _listed(store)
    plan = newest_plan(plan, store)
    objects = _read_objects(store, entries)
    foreign = [item.entry.name for item in objects if item.footer is not None and not belongs(plan, item)]
    samples = _samples(store, [item for item in objects if item.entry.name not in foreign])
    problems = (f"{name}: left out, since it is not an object of this job's plan" for name in foreign)
    return plan, replace(samples, problems=(*samples.problems, *problems))


def read_samples(store: Store) -> Samples:
    """Reads every object that a footer vouches for; orphans are passed over. Works while a run is going on."""
    return _samples(store, _read_objects(store, _listed(store)))


def _listed(store: Store) -> list[Entry]:
    return [entry for entry in store.list("data") if shard_number(entry.name) is not None]


def _read_objects(store: Store, entries: Sequence[Entry]) -> list[DataObject]:
    return sorted(read_data_objects(store, entries), key=lambda item: item.entry.name)


def _samples(store: Store, objects: Sequence[DataObject]) -> Samples:
    keys, problems = _vouched_for(objects, side_objects(store))
    tables = []
    for key, table in zip(keys, _read_all(store, keys), strict=True):
        if isinstance(table, pa.Table):
            tables.append(table)
        else:
            problems.append(f"{key}: {table}")
    table = _latest(pa.concat_tables(tables, promote_options="permissive")) if tables else _EMPTY
    own = set(_OWN_COLUMNS)
    source = tuple(n for n in table.column_names if n not in own and not n.startswith(SCORE_PREFIX))
    table = _with_sibling_scores(store, table, problems)
    return Samples(table, source, _counts(objects), tuple(read_receipts(store)), tuple(problems))


def _vouched_for(objects: Iterable[DataObject], there: Container[str]) -> tuple[list[str], list[str]]:
    """Keys of what can be read, and what is wrong with the rest."""
    keys, problems = [], []
    for item in objects:
        if item.footer is None:
            problems.append(f"{item.entry.name}: {item.problem}")
            continue
        keys.append(item.entry.name)
        for key in item.footer.side_objects:
            if key in there:
                keys.append(key)
            else:
                problems.append(f"{key}: not there, although {item.entry.name} names it. {MAKE_AGAIN}")
    return keys, problems


def _read_all(store: Store, keys: Sequence[str]) -> Iterable[pa.Table | str]:
    return store.map(lambda key: _read_one(store, key), keys)


def _read_one(store: Store, key: str) -> pa.Table | str:
    try:
        with store.open(key) as file:
            parquet = pq.ParquetFile(file)
            names = [name for name in parquet.schema_arrow.names if name != "image"]
            table = parquet.read(columns=names)
    except MissingObjectError:
        return "removed while it was to be read"
    except (pa.ArrowException, OSError) as error:
        return str(error).splitlines()[0][:200]
    rows = table.num_rows
    table = _flat_scores(table.replace_schema_metadata(None))
    table = table.append_column("status", pa.array([_STATUS_OF_FOLDER[key.partition("/")[0]]] * rows, pa.string()))
    table = table.append_column("object", pa.array([key] * rows, pa.string()).dictionary_encode())
    return table.append_column("row", pa.array(np.arange(rows), pa.int64()))


def _flat_scores(table: pa.Table) -> pa.Table:
    if "scores" not in table.column_names:
        return table
    scores = table.column("scores").combine_chunks()
    table = table.drop_columns(["scores"])
    if not pa.types.is_struct(scores.type) or scores.null_count == len(scores):
        return table
    for i in range(scores.type.num_fields):
        name = scores.type.field(i).name
        table = table.append_column(f"{SCORE_PREFIX}{name}", pc.struct_field(scores, [i]))
    return table


def _latest(table: pa.Table) -> pa.Table:
    """A sample that failed and was retried is there twice: the last one counts."""
    last: dict[str, int] = {}
    for position, sample in enumerate(table.column("sample_id").to_pylist()):
        last[str(sample)] = position
    return table if len(last) == table.num_rows else table.take(pa.array(sorted(last.values())))


def _with_sibling_scores(store: Store, table: pa.Table, problems: list[str]) -> pa.Table:
    """Adds `scores/<metric>-*.parquet`, which `promptmill score` wrote beside the data."""
    rows = {sample: i for i, sample in enumerate(table.column("sample_id").to_pylist())}
    found: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    keys = [entry.name for entry in store.list("scores") if entry.name.endswith(".parquet")]
    for key, content in zip(keys, _read_all_scores(store, keys), strict=True):
        if isinstance(content, str):
            problems.append(f"{key}: {content}")
            continue
        positions = np.array([rows.get(sample, -1) for sample in content.column("sample_id").to_pylist()], np.int64)
        there = positions >= 0
        for name in content.column_names:
            if name != "sample_id" and pa.types.is_floating(content.schema.field(name).type):
                values = found.setdefault(name, np.full(table.num_rows, np.nan))
                values[positions[there]] = content.column(name).to_numpy()[there]
    for name, values in found.items():
        column = f"{SCORE_PREFIX}{name}"
        table = table.drop_columns([column]) if column in table.column_names else table
        table = table.append_column(column, pa.array(values))
    return table


def _read_all_scores(store: Store, keys: Sequence[str]) -> Iterator[pa.Table | str]:
    for key in keys:
        try:
            yield pq.read_table(io.BytesIO(store.read(key)))
        except MissingObjectError:
            yield "removed while it was to be read"
        except (pa.ArrowException, OSError) as error:
            yield str(error).splitlines()[0][:200]


def _counts(objects: Sequence[DataObject]) -> dict[int, Counts]:
    return {item.footer.shard.number: item.footer.counts for item in objects if item.footer is not None}


_OWN_COLUMNS = (
    *("sample_id", "prompt_id", "caption", "prompt", "negative_prompt", "sample_index", "variant", "seed", "model"),
    *("model_revision", "pipeline_class", "scheduler", "dtype", "num_inference_steps", "guidance_scale", "width"),
    *("height", "clip_score", "image_sha256", "image_phash", "flags", "reason", "error_kind", "message", "attempts"),
    *("status", "object", "row"),
)
_EMPTY = pa.table(
    {
        **{name: pa.array([], pa.string()) for name in _OWN_COLUMNS},
        **{name: pa.array([], pa.int64()) for name in ("sample_index", "seed", "row")},
    }
)


def plain(value: Any) -> Any:
    """The value with NaN and infinity as None and NumPy numbers as Python's, so that it is valid JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
