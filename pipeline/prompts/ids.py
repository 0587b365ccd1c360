"""Whether ids repeat, which takes one reading of their column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xxhash

from promptmill.pipeline.prompts.some_columns import column_tables
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.row_values import values_of


def check_unique_ids(store: Store, files: Sequence[SourceFile], prompts: Prompts) -> None:
    """Reads the id column alone, also behind `prompts.limit`: a limit that is raised finds no surprise.

    Raises InputError naming the row of an id that is missing or broken, and both rows of one that comes twice.
    """
    parts: list[np.ndarray] = []
    for file in files:
        for ids in _id_batches(store, file, prompts):
            parts.append(np.fromiter((xxhash.xxh3_64_intdigest(_id_bytes(v)) for v in ids), np.uint64, len(ids)))
    hashes = np.sort(np.concatenate(parts))
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(repeated):
        _raise_if_repeated(store, files, prompts, {int(value) for value in repeated})


def _raise_if_repeated(store: Store, files: Sequence[SourceFile], prompts: Prompts, suspects: set[int]) -> None:
    # Two ids may share a 64-bit hash: look at the texts before refusing.
    seen: dict[str, str] = {}
    for file in files:
        row = 0
        for ids in _id_batches(store, file, prompts):
            for value in ids:
                if xxhash.xxh3_64_intdigest(_id_bytes(value)) in suspects:
                    place = f"{file.name} row {row}"
                    if str(value) in seen:
                        raise InputError(
                            Problem(
                                f"prompts.columns.id: {place}",
                                "an id that is unique over the whole source",
                                f"{value!r}, which {seen[str(value)]} has too",
                                "Make the ids unique, or leave prompts.columns.id out",
                            )
                        )
                    seen[str(value)] = place
                row += 1


def _id_bytes(value: object) -> bytes:
    return str(value).encode()


def _id_batches(store: Store, file: SourceFile, prompts: Prompts) -> Iterator[list[object]]:
    first = 0
    for table in column_tables(store, file, prompts, [str(prompts.columns.id)]):
        mended, broken = mend(table)
        ids: list[object] = values_of(mended.column(0))
        for row, value in enumerate(ids):
            if value is None or value == "" or row in broken:
                got = "broken Unicode" if row in broken else "null" if value is None else "an empty text"
                where = f"prompts.columns.id: {file.name} row {first + row}"
                raise InputError(Problem(where, f"an id in column {table.column_names[0]!r} of every row", got))
        yield ids
        first += len(ids)
