"""Second step: who is held against whom. Images lie in cells around centres, and copies lie in one cell.

SemDeDup's way (arXiv 2303.09540), with one thing more: an image that lies near the border of a cell visits the cells
beyond, as near as a copy may lie, so that no pair is lost between two of them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.embed import SAYS, read_part, vectors_in
from promptmill.pipeline.curation.settings import FOLDER, Task
from promptmill.pipeline.curation.vectors import Vectors, Whole, products
from promptmill.pipeline.storage.store import Store

Space = Literal["look", "meaning"]
SPACES: Final[tuple[Space, ...]] = ("look", "meaning")
_ROUNDS = 10
_PER_CENTRE = 64
"""Images that each centre is made of."""
_VISITS = 4
"""Cells that an image visits at most, the nearest first: more lie about a border only where centres crowd."""
_CHUNK_ROWS = 4096

Floats = npt.NDArray[np.float64]
Centres = npt.NDArray[np.int32]
"""Whole numbers [cells, width]."""


def points(vectors: Vectors, space: Space) -> Whole:
    return vectors.looks if space == "look" else vectors.meanings


def make_centres(sample: Whole, cells: int) -> Centres:
    """k-means (Lloyd's) over whole numbers: sums are exact, so that the same images make the same centres."""
    chosen = np.random.default_rng(0).permutation(len(sample))[:cells]
    centres = sample[np.sort(chosen)].astype(np.int32)
    wide = sample.astype(np.int64)
    for _ in range(_ROUNDS if cells > 1 else 1):
        nearest = np.concatenate([_nearest(part, centres, 1)[0][:, 0] for part in _chunks(sample)])
        sums = np.zeros(centres.shape, np.int64)
        np.add.at(sums, nearest, wide)
        counts = np.bincount(nearest, minlength=len(centres))
        filled = counts > 0
        moved = np.rint(sums[filled] / counts[filled, None]).astype(np.int32)
        if np.array_equal(moved, centres[filled]):
            break
        centres[filled] = moved
    return np.unique(centres, axis=0)


def _chunks(rows: Whole) -> Iterator[Whole]:
    for start in range(0, len(rows), _CHUNK_ROWS):
        yield rows[start : start + _CHUNK_ROWS]


def _nearest(rows: Whole, centres: Centres, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Indices [rows, count] of the nearest centres and squared distances, the nearest first, of equals the first."""
    lengths = np.square(rows.astype(np.int64)).sum(axis=1)
    apart = lengths[:, None] + np.square(centres.astype(np.int64)).sum(axis=1) - 2 * products(rows, centres)
    if count == 1:
        first = apart.argmin(axis=1)[:, None]
        return first, np.take_along_axis(apart, first, axis=1)
    some = np.sort(np.argpartition(apart, count - 1, axis=1)[:, :count], axis=1)
    order = np.take_along_axis(some, np.argsort(np.take_along_axis(apart, some, axis=1), axis=1, kind="stable"), axis=1)
    return order, np.take_along_axis(apart, order, axis=1)


def cells_of(rows: Whole, centres: Centres, reach: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(row, cell) pairs, each row's own cell first among its own: of an image x and centres a, b it lies within `reach`
    of the plane between them where |x−b|² − |x−a|² ≤ 2 · reach · |a−b|."""
    order, apart = _nearest(rows, centres, min(1 + _VISITS, len(centres)))
    gaps = apart - apart[:, :1]
    own, others = centres[order[:, 0]].astype(np.float64), centres[order].astype(np.float64)
    between = np.sqrt(np.square(others - own[:, None]).sum(axis=2))
    visits = gaps <= 2 * reach * between
    visits[:, 0] = True
    row, column = np.nonzero(visits)
    return row, order[row, column]


@dataclass(frozen=True)
class Block:
    """Some parts whose images are sorted into cells together."""

    space: Space
    number: int
    parts: tuple[str, ...]
    reach: float

    @property
    def key(self) -> str:
        return f"{FOLDER}/{self.space}/block-{self.number:06d}.parquet"


def centres_key(space: Space) -> str:
    return f"{FOLDER}/{space}/centres.npy"


def read_centres(store: Store, space: Space) -> Centres:
    return np.asarray(np.load(io.BytesIO(store.read(centres_key(space))), allow_pickle=False), np.int32)


def find_centres(store: Store, space: Space, parts: Sequence[str], images: int, cell_rows: int) -> Centres:
    """Those that are there, else made of images from all over the set."""
    if store.entry(centres_key(space)) is None:
        cells = max(1, -(-images // cell_rows))
        sample = _some_images(store, space, parts, images, cells * _PER_CENTRE)
        sink = io.BytesIO()
        np.save(sink, make_centres(sample, min(cells, len(sample))) if len(sample) else np.zeros((1, 1), np.int32))
        store.create(centres_key(space), sink.getvalue())
        reached("curate-after-centres")
    return read_centres(store, space)


def _some_images(store: Store, space: Space, parts: Sequence[str], images: int, wanted: int) -> Whole:
    every = max(1, images // max(1, wanted))
    skipped = max(1, min(every, len(parts) // 64))
    every, begins, found = max(1, every // skipped), 0, []
    for table in store.map(lambda key: read_part(store, key), parts[::skipped]):
        rows = points(vectors_in(table), space)
        found.append(rows[-begins % every :: every])
        begins += len(rows)
    there = [rows for rows in found if len(rows)]
    return np.concatenate(there) if there else np.zeros((0, 1), np.int8)


def sort_block(task: Task, block: Block) -> None:
    """The images of its parts by cell, as `home` in their own and as visitors in others; a row group a cell."""
    store = task.output
    if store.entry(block.key) is not None:
        return
    table = _joined([read_part(store, key) for key in block.parts], block.space)
    centres = read_centres(store, block.space)
    pairs = [
        (start + row, cell)
        for start, part in _parts(points(vectors_in(table), block.space))
        for row, cell in [cells_of(part, centres, block.reach)]
    ]
    rows, cells = (np.concatenate(each) if pairs else np.zeros(0, np.int64) for each in zip(*pairs, strict=True))
    home = np.ones(len(rows), bool)
    home[1:] = rows[1:] != rows[:-1]
    order = np.lexsort((rows, cells))
    table = table.take(pa.array(rows[order])).append_column("home", pa.array(home[order]))
    store.create(block.key, _by_cell(table, cells[order]))
    reached("curate-after-block")


def _parts(rows: Whole) -> Iterator[tuple[int, Whole]]:
    for start in range(0, max(1, len(rows)), _CHUNK_ROWS):
        yield start, rows[start : start + _CHUNK_ROWS]


def _joined(tables: Sequence[pa.Table], space: Space) -> pa.Table:
    """Parts without any image have no meanings. Looks are needed among looks alone."""
    whole = pa.concat_tables([each for each in tables if each.num_rows] or list(tables[:1]))
    return whole if space == "look" else whole.drop_columns(["look", "pixels"])


def _by_cell(table: pa.Table, cells: npt.NDArray[np.int64]) -> bytes:
    sink, numbers = io.BytesIO(), np.unique(cells)
    said = {SAYS: json.dumps([int(each) for each in numbers]).encode()}
    schema = table.schema.with_metadata(said)
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=["label"]) as writer:
        for cell in numbers:
            start, stop = np.searchsorted(cells, [cell, cell + 1])
            writer.write_table(table.slice(start, stop - start).cast(schema), row_group_size=max(1, stop - start))
    return sink.getvalue()


def read_cell(store: Store, blocks: Sequence[str], cell: int) -> pa.Table | None:
    """All images at home in a cell or visiting it; None where there are none."""
    found: list[Any] = [each for each in store.map(lambda key: _of_block(store, key, cell), blocks) if each is not None]
    return pa.concat_tables(found).combine_chunks() if found else None


def _of_block(store: Store, key: str, cell: int) -> pa.Table | None:
    with store.open(key) as file:
        parquet = pq.ParquetFile(file)
        cells = json.loads(parquet.schema_arrow.metadata[SAYS])
        if cell not in cells:
            return None
        return parquet.read_row_group(cells.index(cell)).replace_schema_metadata(None)
