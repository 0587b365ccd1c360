"""First step: the numbers of every image, one object a shard of the input and one for each part of the known sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.known import KnownPart, known_images
from promptmill.pipeline.curation.percentiles import worst_places
from promptmill.pipeline.curation.settings import FOLDER, LABELS, Task
from promptmill.pipeline.curation.vectors import LOOK_BYTES, Vectors, look_of, meanings_of, pixel_hash
from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.prompts.decoding import decode
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import SampleError, WorkerError
from promptmill.schemas.plan import Shard

SAMPLE, REAL, TEST = 0, 1, 2
KINDS: Final = {"real": REAL, "test": TEST}
PARTS: Final = f"{FOLDER}/vectors"
SAYS: Final = b"promptmill-curation"
HASH_BYTES: Final = 16
_BATCH = 32


@dataclass(frozen=True)
class Numbers:
    """What a part has: how many images, how wide their meanings are, and the rows that do not decode."""

    images: int
    width: int
    broken: tuple[int, ...]


def schema_of(width: int) -> pa.Schema:
    """`place` is the shard's number · 2^32 + the row, of a known image its number. `label` is null outside classes."""
    return pa.schema(
        [
            ("kind", pa.int8()),
            ("place", pa.int64()),
            ("mirrored", pa.bool_()),
            ("name", pa.string()),
            ("label", pa.string()),
            ("pixels", pa.binary(HASH_BYTES)),
            ("look", pa.binary(LOOK_BYTES)),
            *([("meaning", pa.binary(2 * width))] if width else []),
        ]
    )


def vectors_in(table: pa.Table) -> Vectors:
    """Of width 0 where a column is missing."""
    return Vectors(_fixed(table, "look", np.dtype(np.int8)), _fixed(table, "meaning", np.dtype("<i2")))


def _fixed(table: pa.Table, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    if name not in table.column_names:
        return np.zeros((table.num_rows, 0), kind)
    column = table.column(name).combine_chunks()
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return data.view(kind).reshape(len(column), width // kind.itemsize)


def embed_shard(task: Task, shard: Shard) -> Numbers:
    """Of the kept images of a shard, but for those that a percentile takes. What is there already is not made again."""
    key = f"{PARTS}/{shard.part}.parquet"
    if (numbers := numbers_of(task.output, key)) is not None:
        return numbers
    names, labels = _names(task, shard)
    gone = worst_places(task.output, shard.number) if task.settings.percentiles else {}
    images = read_images(task.input, shard.data_key, [row for row in range(len(names)) if row not in gone])
    rows = ((SAMPLE, (shard.number << 32) + row, names[row], labels[row], data) for row, data in images)
    return _write(task, key, rows, both_ways=False)


def embed_known(task: Task, part: KnownPart) -> Numbers:
    """As `embed_shard`, each image as it is and mirrored."""
    key = f"{PARTS}/{part.key}.parquet"
    if (numbers := numbers_of(task.output, key)) is not None:
        return numbers
    images = enumerate(known_images(part), part.number << 32)
    rows = ((KINDS[part.option], place, name, None, data) for place, (name, data) in images)
    return _write(task, key, rows, both_ways=True)


def _names(task: Task, shard: Shard) -> tuple[list[str], list[str | None]]:
    with task.input.open(shard.data_key) as file:
        parquet = pq.ParquetFile(file)
        there = parquet.schema_arrow.names
        wanted = (task.settings.label,) if task.settings.label else LABELS
        label = next((name for name in wanted if name in there), None)
        table = parquet.read(columns=["sample_id", *([label] if label else [])])
    names: list[str] = table.column("sample_id").to_pylist()
    labels = table.column(label).to_pylist() if label else [None] * len(names)
    return names, [None if each is None else str(each) for each in labels]


Row = tuple[int, int, str, str | None, bytes]
_Named = tuple[int, int, bool, str, str | None]
"""A row without its image: kind, place, whether it is mirrored, name, label."""


def _write(task: Task, key: str, rows: Iterable[Row], both_ways: bool) -> Numbers:
    broken: list[int] = []
    batches = list(_batches(task, rows, both_ways, broken))
    width = batches[0].meanings.shape[1] if batches else 0
    tables = [each.table(width) for each in batches] or [schema_of(0).empty_table()]
    numbers = Numbers(sum(each.num_rows for each in tables), width, tuple(broken))
    said = {SAYS: json.dumps(vars(numbers), sort_keys=True).encode()}
    task.output.create(key, to_parquet(pa.concat_tables(tables).replace_schema_metadata(said)))
    reached("curate-after-vectors")
    return numbers


@dataclass(frozen=True)
class _Batch:
    rows: list[_Named]
    hashes: list[bytes]
    looks: list[bytes]
    meanings: npt.NDArray[np.int16]

    def table(self, width: int) -> pa.Table:
        columns = [*zip(*self.rows, strict=True), self.hashes, self.looks]
        columns += [[row.astype("<i2").tobytes() for row in self.meanings]] if width else []
        schema = schema_of(width)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _batches(task: Task, rows: Iterable[Row], both_ways: bool, broken: list[int]) -> Iterator[_Batch]:
    waiting: list[tuple[_Named, Pixels]] = []
    for kind, place, name, label, data in rows:
        try:
            pixels = decode(data, "image").pixels
        except SampleError:
            broken.append(place)
            continue
        waiting.append(((kind, place, False, name, label), pixels))
        if both_ways:
            waiting.append(((kind, place, True, name, label), np.ascontiguousarray(pixels[:, ::-1])))
        if len(waiting) >= _BATCH:
            yield _encoded(task, waiting[:_BATCH])
            del waiting[:_BATCH]
    if waiting:
        yield _encoded(task, waiting)


def _encoded(task: Task, waiting: Sequence[tuple[_Named, Pixels]]) -> _Batch:
    images = [pixels for _, pixels in waiting]
    looks = [look_of(each).tobytes() for each in images]
    return _Batch([row for row, _ in waiting], [pixel_hash(each) for each in images], looks, _meanings(task, images))


def _meanings(task: Task, images: Sequence[Pixels]) -> npt.NDArray[np.int16]:
    """Of an image that breaks the model, zeros: only its pixels and its look are held against others."""
    if task.encoder is None:
        return np.zeros((len(images), 0), np.int16)
    try:
        return meanings_of(task.encoder.images(images))
    except SampleError:
        width = task.encoder.images([np.zeros((32, 32, 3), np.uint8)]).shape[1]
        return np.zeros((1, width), np.int16)
    except WorkerError:
        if len(images) == 1:
            raise
        return np.concatenate([_meanings(task, [each]) for each in images])


def numbers_of(store: Store, key: str) -> Numbers | None:
    """None where the part is not there yet."""
    entry = store.entry(key)
    if entry is None:
        return None
    with store.open(key) as file:
        said = json.loads((pq.read_schema(file).metadata or {})[SAYS])
    return Numbers(said["images"], said["width"], tuple(said["broken"]))


def read_part(store: Store, key: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(key))).replace_schema_metadata(None)


def of_kind(table: pa.Table, kind: int) -> pa.Table:
    return table.filter(pc.equal(table.column("kind"), kind))
