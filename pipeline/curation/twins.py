"""Third step: the copies inside one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.bounds import Bounds
from promptmill.pipeline.curation.cells import Space, read_cell
from promptmill.pipeline.curation.embed import REAL, SAMPLE, TEST, vectors_in
from promptmill.pipeline.curation.settings import FOLDER, Task
from promptmill.pipeline.curation.vectors import MIRRORED, Floats, cosines, differences
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.scores import EXACT, LEAK, MEMORISED, NEAR

_ROWS, _COLUMNS = 512, 16_384
_EDGES = 32
"""Of images in other cells that one image is like, so many at most, the first in the dataset."""

Indices = npt.NDArray[np.int64]

VERDICTS: Final = pa.schema(
    [
        *(("place", pa.int64()), ("reason", pa.string()), ("twin", pa.string())),
        *(("twin_place", pa.int64()), ("similarity", pa.float64()), ("across", pa.bool_())),
    ]
)
"""A sample that is a copy. `twin_place` is −1 for a known image. `across` says that the twin is of another cell, so
that it is not known here whether it is kept itself."""


@dataclass(frozen=True)
class Cell:
    space: Space
    number: int
    blocks: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.space}/cell-{self.number:06d}.parquet"


def judge_cell(task: Task, cell: Cell, bounds: Bounds) -> None:
    store = task.output
    if store.entry(cell.key) is None:
        table = read_cell(store, cell.blocks, cell.number)
        rows = [] if table is None else _Judge(table, cell.space, bounds).verdicts()
        store.create(cell.key, to_parquet(pa.Table.from_pylist(rows, VERDICTS)))
        reached("curate-after-cell")


def read_verdicts(store: Store, key: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(key)))


class _Judge:
    """Rows in the order of the dataset: of copies the first one stays."""

    def __init__(self, table: pa.Table, space: Space, bounds: Bounds) -> None:
        self._space, self._bounds = space, bounds
        table = table.take(
            pa.array(np.lexsort((~_numpy(table, "home"), _numpy(table, "place"), _numpy(table, "kind"))))
        )
        self._vectors = vectors_in(table)
        self._kinds, self._places, self._home = (_numpy(table, name) for name in ("kind", "place", "home"))
        self._mirrored = _numpy(table, "mirrored")
        self._names = table.column("name")
        self._labels = np.unique(_texts(table, "label"), return_inverse=True)[1]
        self._pixels = table.column("pixels").to_pylist() if space == "look" else []
        self._found: list[dict[str, Any]] = []

    def verdicts(self) -> list[dict[str, Any]]:
        own = np.flatnonzero((self._kinds == SAMPLE) & self._home)
        if self._space == "look":
            own = self._without(own, self._same_pixels(own))
        if self._least >= 0 and self._space == "look":  # without a model no other pixels are copies
            return self._found
        for kind, reason in ((TEST, LEAK), (REAL, MEMORISED)):
            own = self._without(own, self._like_known(own, np.flatnonzero(self._kinds == kind), reason))
        own = self._without(own, self._like_each_other(own))
        self._like_visitors(own, np.flatnonzero((self._kinds == SAMPLE) & ~self._home))
        return self._found

    @staticmethod
    def _without(rows: Indices, gone: set[int]) -> Indices:
        return rows[~np.isin(rows, sorted(gone))] if gone else rows

    def _tell(self, row: int, reason: str, twin: int, similarity: float, across: bool = False) -> int:
        place = int(self._places[twin]) if self._kinds[twin] == SAMPLE else -1
        self._found.append(
            {
                **{"place": int(self._places[row]), "reason": reason, "twin": self._names[twin].as_py()},
                **{"twin_place": place, "similarity": similarity, "across": across},
            }
        )
        return row

    def _same_pixels(self, own: Indices) -> set[int]:
        """Known images come first, then samples in their order, whatever their class."""
        first: dict[bytes, int] = {}
        ranks = np.lexsort((self._places, -self._kinds))
        for row in ranks:
            first.setdefault(self._pixels[row], int(row))
        reasons = {TEST: LEAK, REAL: MEMORISED, SAMPLE: EXACT}
        twins = [(int(row), first[self._pixels[row]]) for row in own]
        return {
            self._tell(row, reasons[int(self._kinds[twin])], twin, 1.0)
            for row, twin in twins
            if self._places[twin] != self._places[row] or self._kinds[twin] != SAMPLE
        }

    def _like_known(self, own: Indices, known: Indices, reason: str) -> set[int]:
        """Each beside the one that it is most like."""
        gone: set[int] = set()
        for start in range(0, len(own) if len(known) else 0, _ROWS):
            rows = own[start : start + _ROWS]
            best, where = np.full(len(rows), -np.inf), np.zeros(len(rows), np.int64)
            for part in _split(known):
                alike = self._alike(rows, part)
                top = alike.argmax(axis=1)
                value = alike[np.arange(len(rows)), top]
                better = value > best
                best[better], where[better] = value[better], part[top[better]]
            copies = np.flatnonzero(best > self._least)
            gone |= {self._tell(int(rows[i]), reason, int(where[i]), self._told(best[i])) for i in copies}
        return gone

    def _like_each_other(self, own: Indices) -> set[int]:
        """Each that is like an earlier one that stays."""
        gone: set[int] = set()
        stay = np.zeros(0, np.int64)
        for start in range(0, len(own), _ROWS):
            rows = own[start : start + _ROWS]
            twins = self._first_alike(rows, stay)
            among = self._are_copies(rows, rows)
            stays = np.ones(len(rows), bool)
            for i in np.flatnonzero((twins >= 0) | np.tril(among, -1).any(axis=1)):
                earlier = np.flatnonzero(among[i, :i] & stays[:i])
                twin = int(twins[i]) if twins[i] >= 0 else int(rows[earlier[0]]) if len(earlier) else -1
                if twin < 0:
                    continue
                stays[i] = False
                alike = float(self._alike(rows[i : i + 1], np.array([twin]))[0, 0])
                gone.add(self._tell(int(rows[i]), NEAR, twin, self._told(alike)))
            stay = np.concatenate([stay, rows[stays]])
        return gone

    def _first_alike(self, rows: Indices, others: Indices) -> Indices:
        """Of each the first of `others` that is a copy, −1 where none is."""
        found = np.full(len(rows), -1, np.int64)
        for part in _split(others):
            copies = self._are_copies(rows, part)
            new = (found < 0) & copies.any(axis=1)
            found[new] = part[copies[new].argmax(axis=1)]
        return found

    def _like_visitors(self, own: Indices, visitors: Indices) -> None:
        """Earlier ones at home elsewhere, of which the cell there says whether they stay."""
        for start in range(0, len(own) if len(visitors) else 0, _ROWS):
            rows = own[start : start + _ROWS]
            for part in _split(visitors):
                copies = self._are_copies(rows, part) & (self._places[part][None] < self._places[rows][:, None])
                for i in np.flatnonzero(copies.any(axis=1)):
                    for column in np.flatnonzero(copies[i])[:_EDGES]:
                        alike = float(self._alike(rows[i : i + 1], part[column : column + 1])[0, 0])
                        self._tell(int(rows[i]), NEAR, int(part[column]), self._told(alike), across=True)

    def _are_copies(self, rows: Indices, others: Indices) -> npt.NDArray[np.bool_]:
        alike = self._alike(rows, others) > self._least
        return np.asarray(alike & (self._labels[rows][:, None] == self._labels[others][None]))

    @property
    def _least(self) -> float:
        return self._bounds.cosine if self._space == "meaning" else -self._bounds.difference

    def _alike(self, rows: Indices, others: Indices) -> Floats:
        """Cosines, or differences with a minus before them: the more alike, the larger."""
        one, other = self._vectors.take(rows), self._vectors.take(others)
        if self._space == "meaning":
            return cosines(one, other)
        return np.asarray(-differences(one, other) * np.where(self._mirrored[others], MIRRORED, 1.0))

    def _told(self, alike: float) -> float:
        """1 for what is the same."""
        return float(alike if self._space == "meaning" else 1 + alike)


def _split(rows: Indices) -> Sequence[Indices]:
    return [rows[start : start + _COLUMNS] for start in range(0, len(rows), _COLUMNS)]


def _numpy(table: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.asarray(table.column(name).to_numpy(zero_copy_only=False))


def _texts(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Null as a text that no label is."""
    return np.array(["\0" if each is None else f"={each}" for each in table.column(name).to_pylist()])
