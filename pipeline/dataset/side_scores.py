"""What lies in `scores/` beside the data: scores of single samples, added after the run."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.display import first_line
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.json_text import parse_json

FOLDER = "scores"
_LOWEST = b"promptmill-lower-is-better"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SideScores:
    """`values` by name of the score: float64 [samples], NaN where a sample has none. Of `lowest_is_best` the lowest is
    the best, as the class said that gave them."""

    values: dict[str, Floats]
    lowest_is_best: frozenset[str]


def lowest_metadata(names: Sequence[str]) -> dict[bytes, bytes]:
    """What the schema of an object says of its scores."""
    return {_LOWEST: json.dumps(list(names)).encode()} if names else {}


def _lowest_in(table: pa.Table) -> frozenset[str]:
    try:
        names = parse_json((table.schema.metadata or {}).get(_LOWEST) or b"[]")
    except ValueError:
        return frozenset()
    return frozenset(table.column_names).intersection(map(str, names)) if isinstance(names, list) else frozenset()


def read_side_scores(store: Store, sample_ids: Sequence[str], problems: list[str]) -> SideScores:
    """Appends to `problems` what is left out."""
    rows = {sample: i for i, sample in enumerate(sample_ids)}
    found: dict[str, Floats] = {}
    lowest: set[str] = set()
    entries = [entry for entry in store.list(FOLDER) if entry.name.endswith(".parquet")]
    for entry, table in zip(entries, store.map(lambda entry: _read(store, entry), entries), strict=True):
        if isinstance(table, str):
            problems.append(f"{entry.name}: {table}")
            continue
        lowest |= _lowest_in(table)
        positions = np.array([rows.get(sample, -1) for sample in table.column("sample_id").to_pylist()], np.int64)
        there = positions >= 0
        for name in table.column_names:
            if name == "sample_id":
                continue
            numbers = as_numbers(table.column(name))
            if numbers is None:
                problems.append(f"{entry.name}: {name[:80]} is left out: {table.schema.field(name).type} is no number")
                continue
            values = found.setdefault(name, np.full(len(sample_ids), np.nan))
            values[positions[there]] = numbers[there]
    return SideScores(found, frozenset(lowest))


def names_in(store: Store, key: str) -> list[str]:
    """The scores that an object holds; none where there is none, or it is damaged."""
    entry = store.entry(key)
    table = "" if entry is None else _read(store, entry)
    return [name for name in table.column_names if name != "sample_id"] if isinstance(table, pa.Table) else []


def _read(store: Store, entry: Entry) -> pa.Table | str:
    """The table, or why it is left out."""
    try:
        table = pq.read_table(io.BytesIO(store.read(entry.name)))
        names = table.column_names
        if len(set(names)) < len(names):
            return "a column name twice"
        if "sample_id" not in names:
            return "no column sample_id"
        return table.set_column(names.index("sample_id"), "sample_id", table.column("sample_id").cast(pa.string()))
    except MissingObjectError:
        return "removed while it was to be read"
    except UNREADABLE as error:
        return first_line(error)


def as_numbers(column: pa.ChunkedArray) -> Floats | None:
    """float64 with NaN for null; None where the type is neither a number nor a truth value."""
    kind: Any = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
