"""All samples of a dataset as one table without pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import shard_number
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.side_scores import read_side_scores
from promptmill.pipeline.dataset.state import (
    MAKE_AGAIN,
    DataObject,
    belongs,
    read_data_objects,
    read_receipts,
    side_objects,
)
from promptmill.pipeline.display import first_line
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.plan import Counts, ShardStats
from promptmill.schemas.records import FAILURE, RECORD, REJECT, TAKEN

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"
_STATUS_OF_FOLDER = {"data": KEPT, "rejects": REJECTED, "failures": FAILED}
SCORE_PREFIX = "score:"
"""Scores lie flat in the table, `score:clip` and so on."""

SOURCE_PREFIX = "source:"
"""Every column of the source has it, so that none can stand where one of ours does, whatever its name."""

_TYPES = {column.name: column.type for schema in (FAILURE, REJECT, RECORD) for column in schema}
_NEEDED = named("sample_id", "prompt_id", "prompt", "variant")


@dataclass(frozen=True)
class Samples:
    """`table` has a row for every sample that ended, in the order of shards.

    Columns: those of the record, reject and failure schemas without `image`, columns of the source as `source:<name>`,
    scores as `score:<name>`, and `status`, `object`, `row` (where the image lies). `problems` names what is left out.
    `lowest_is_best` are scores that were added later, see `SideScores`.
    """

    table: pa.Table
    counts: dict[int, Counts]
    receipts: tuple[ShardStats, ...] = ()
    problems: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    lowest_is_best: frozenset[str] = frozenset()

    @property
    def score_names(self) -> list[str]:
        return [name.removeprefix(SCORE_PREFIX) for name in self.table.column_names if name.startswith(SCORE_PREFIX)]

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Names in the dataset's own files, without the prefix."""
        names = self.table.column_names
        return tuple(name.removeprefix(SOURCE_PREFIX) for name in names if name.startswith(SOURCE_PREFIX))

    def source(self, name: str) -> pa.ChunkedArray:
        return self.table.column(f"{SOURCE_PREFIX}{name}")

    def score(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [rows], NaN where a sample has none."""
        column = self.table.column(f"{SCORE_PREFIX}{name}").cast(pa.float64())
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)

    def texts(self, name: str) -> list[str]:
        return as_texts(self.table.column(name))


def as_texts(column: pa.ChunkedArray) -> list[str]:
    return [str(value) if value is not None else "" for value in column.to_pylist()]


def read_dataset(plan: Plan, store: Store, needed: Container[str] = ()) -> tuple[Plan, Samples]:
    """All samples of this job, and the plan that holds for them: with what has been added since `plan` was read.

    Of the source's columns those that may sort prompts, and those `needed` whatever they hold.
    """
    entries = _listed(store)
    plan = newest_plan(plan, store)
    objects = _read_objects(store, entries)
    foreign = [item.entry.name for item in objects if item.footer is not None and not belongs(plan, item)]
    samples = _samples(store, [item for item in objects if item.entry.name not in foreign], needed)
    problems = (f"{name}: left out, since it is not an object of this job's plan" for name in foreign)
    return plan, replace(samples, problems=(*samples.problems, *problems))


def read_samples(store: Store) -> Samples:
    """Reads every object that a footer vouches for; orphans are passed over. Works while a run is going on."""
    return _samples(store, _read_objects(store, _listed(store)), ())


def _listed(store: Store) -> list[Entry]:
    return [entry for entry in store.list("data") if shard_number(entry.name) is not None]


def _read_objects(store: Store, entries: Sequence[Entry]) -> list[DataObject]:
    return sorted(read_data_objects(store, entries), key=lambda item: shard_number(item.entry.name) or 0)


def _samples(store: Store, objects: Sequence[DataObject], needed: Container[str]) -> Samples:
    keys, problems = _vouched_for(objects, side_objects(store))
    tables = []
    for key, table in zip(keys, _read_all(store, keys, needed), strict=True):
        if isinstance(table, pa.Table):
            tables.append(table)
        else:
            problems.append(f"{key}: {table}")
    table = _latest(joined(tables)) if tables else _SHAPE.empty_table()
    side = read_side_scores(store, table.column("sample_id").to_pylist(), problems)
    for name, values in side.values.items():
        column = f"{SCORE_PREFIX}{name}"
        table = table.drop_columns([column]) if column in table.column_names else table
        table = table.append_column(column, pa.array(values))
    receipts = read_receipts(store, problems)
    counts = _counts(objects)
    return Samples(table, counts, tuple(receipts), tuple(problems), lowest_is_best=side.lowest_is_best)


def _vouched_for(objects: Iterable[DataObject], there: Container[str]) -> tuple[list[str], list[str]]:
    """Keys of what can be read, and what is wrong with the rest."""
    keys, problems = [], []
    for item in objects:
        if item.footer is None:
            problems.append(f"{item.entry.name}: {item.problem}")
            continue
        keys.append(item.entry.name)
        for key in item.footer.side_objects:
            if key.partition("/")[0] not in _STATUS_OF_FOLDER:
                problems.append(f"{key}: no name of ours, although {item.entry.name} names it")
            elif key in there:
                keys.append(key)
            else:
                problems.append(f"{key}: not there, although {item.entry.name} names it. {MAKE_AGAIN}")
    return keys, problems


def _read_all(store: Store, keys: Sequence[str], needed: Container[str]) -> Iterable[pa.Table | str]:
    return store.map(lambda key: _read_one(store, key, needed), keys)


def _read_one(store: Store, key: str, needed: Container[str]) -> pa.Table | str:
    """The object's rows, or why it is left out."""
    try:
        with store.open(key) as file:
            parquet = pq.ParquetFile(file)
            names = [field.name for field in parquet.schema_arrow if _is_read(field, needed)]
            # A dot in a name of the source makes Arrow take more columns than were named.
            table = parquet.read(columns=names).select(names).replace_schema_metadata(None)
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            return f"no column {missing[0]}"
        table = _flat_scores(_own_types(table))
        _check_variants(table)
    except MissingObjectError:
        return "removed while it was to be read"
    except UNREADABLE as error:
        return first_line(error)
    rows = table.num_rows
    table = table.append_column("status", pa.array([_STATUS_OF_FOLDER[key.partition("/")[0]]] * rows, pa.string()))
    table = table.append_column("object", pa.array([key] * rows, pa.string()).dictionary_encode())
    return table.append_column("row", pa.array(np.arange(rows), pa.int64()))


def _is_read(column: pa.Field[Any], needed: Container[str]) -> bool:
    if column.name in TAKEN:
        return bool(column.name != "image")
    return str(column.name) in needed or sorts_prompts(column.type)


def sorts_prompts(kind: pa.DataType) -> bool:
    """Whether a column of this type may say of what kind a prompt is: text, truth values, integers."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer)
    return any(test(kind) for test in tests)


def _own_types(table: pa.Table) -> pa.Table:
    """Our columns in our types, the source's under their prefix. Raises ArrowException where a value does not fit."""
    columns, names = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        ours = name in TAKEN
        names.append(name if ours else f"{SOURCE_PREFIX}{name}")
        kept = not ours or name == "scores" or (name == "seed" and column.type == pa.uint64())
        columns.append(column if kept else column.cast(_TYPES[name]))
    return pa.table(columns, names=names)


def _flat_scores(table: pa.Table) -> pa.Table:
    if "scores" not in table.column_names:
        return table
    scores = table.column("scores").combine_chunks()
    table = table.drop_columns(["scores"])
    if not pa.types.is_struct(scores.type) or scores.null_count == len(scores):
        return table
    for i in range(scores.type.num_fields):
        name = f"{SCORE_PREFIX}{scores.type.field(i).name}"
        if name not in table.column_names:
            table = table.append_column(name, pc.struct_field(scores, [i]).cast(pa.float64()))
    return table


def _check_variants(table: pa.Table) -> None:
    """Raises ValueError where one is no JSON object, or an id is missing."""
    for name in ("sample_id", "prompt_id"):
        if table.column(name).null_count:
            raise ValueError(f"{name}: null in a row")
    for text in table.column("variant").unique().to_pylist():
        if not isinstance(json.loads(text or "null"), dict):
            raise ValueError(f"variant: no JSON object: {str(text)[:80]}")  # noqa: TRY004


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """A column of the source that is of another type in some object becomes text in all."""
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for column in table.schema:
            kinds.setdefault(column.name, set()).add(column.type)
    of_any_type = [name for name in kinds if name.startswith(SOURCE_PREFIX) or name == "seed"]  # seeds of 63 or 64 bits
    mixed = {name for name in of_any_type if len(kinds[name]) > 1}
    return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _as_text(table: pa.Table, names: Container[str]) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if name in names:
            values = table.column(place).to_pylist()
            texts = pa.array([None if value is None else str(value) for value in values], pa.string())
            table = table.set_column(place, name, texts)
    return table


def _latest(table: pa.Table) -> pa.Table:
    """A sample that failed and was retried is there twice: the last one counts."""
    last: dict[str, int] = {}
    for position, sample in enumerate(table.column("sample_id").to_pylist()):
        last[str(sample)] = position
    return table if len(last) == table.num_rows else table.take(pa.array(sorted(last.values())))


def _counts(objects: Sequence[DataObject]) -> dict[int, Counts]:
    return {item.footer.shard.number: item.footer.counts for item in objects if item.footer is not None}


_PLACE = {"status": pa.string(), "object": pa.string(), "row": pa.int64()}
_SHAPE = pa.schema(
    [*((name, kind) for name, kind in _TYPES.items() if name not in ("image", "scores")), *_PLACE.items()]
)


def plain(value: Any) -> Any:
    """The value with NaN and infinity as None and NumPy numbers as Python's, so that it is valid JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
