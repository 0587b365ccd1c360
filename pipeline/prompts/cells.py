"""Images that lie in the cells of a Parquet file, read a few rows at a time, in order, without holding its column."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import STAGED

_ROWS_AT_ONCE: Final = 4
_BUFFER_BYTES: Final = 1 << 20
"""Without one Arrow reads a row group's whole column at once: 1,000 photos are 2 GB."""
_CURSORS: Final = 2
"""As many as threads that fetch: each goes on where it was, while another is some rows ahead."""


def open_parquet(path: str, output: Store) -> pq.ParquetFile:
    if path.startswith(STAGED) and ".." in path.split("/"):
        raise outside(path)
    if path.startswith(STAGED):
        return pq.ParquetFile(output.open(path.removeprefix(STAGED)), buffer_size=_BUFFER_BYTES)
    folder, _, name = path.rpartition("/")
    return pq.ParquetFile(Store(folder).open(name), buffer_size=_BUFFER_BYTES)


def outside(place: str) -> SampleError:
    return SampleError("input", f"{place} lies outside the dataset and the places of the jobs that were run here")


class Cells:
    """Safe to use from several threads."""

    def __init__(self, output: Store) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._cursors: list[_Cursor] = []

    def value(self, path: str, column: str, row: int) -> Any:
        """Raises ValueError for a row that the file does not have."""
        with self._lock:
            cursor = self._at_or_before(path, column, row)
            self._cursors = [each for each in self._cursors if each is not cursor][1 - _CURSORS :] + [cursor]
            return cursor.value(row)

    def _at_or_before(self, path: str, column: str, row: int) -> _Cursor:
        """The one that has the shortest way to go on, unless a row group of the file begins nearer."""
        able = [each for each in self._cursors if each.column == (path, column) and each.begins <= row]
        nearest = max(able, key=lambda each: each.begins, default=None)
        if nearest is not None and nearest.group_start(row) <= nearest.stops:
            return nearest
        return _Cursor((path, column), open_parquet(path, self._output), row)


@dataclass
class _Cursor:
    """A place in one column. `begins` and `stops` are the rows that it holds."""

    column: tuple[str, str]
    file: pq.ParquetFile
    row: int
    begins: int = 0
    stops: int = 0
    _held: pa.Array = field(default_factory=lambda: pa.nulls(0))
    _batches: Iterator[pa.RecordBatch] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        first = sum(start <= self.row for start in self._starts[1:])
        self.begins = self.stops = self._starts[first] if sizes else 0
        groups = list(range(first, len(sizes)))
        self._batches = self.file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[self.column[1]])

    def group_start(self, row: int) -> int:
        """First row of the row group that a row stands in."""
        return max((start for start in self._starts if start <= row), default=0)

    def value(self, row: int) -> Any:
        while self.stops <= row:
            self._held = pa.nulls(0)
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"no row {row}")
            self._held = batch.column(0)
            self.begins, self.stops = self.stops, self.stops + batch.num_rows
        return self._held[row - self.begins].as_py()
