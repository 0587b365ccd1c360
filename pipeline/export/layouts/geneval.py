"""00000/metadata.jsonl, 00000/samples/0000.png … for github.com/djghosh13/geneval."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from promptmill.pipeline.dataset.samples import KEPT, Samples
from promptmill.pipeline.export.trees import (
    Folders,
    Group,
    Place,
    Places,
    Tree,
    as_png,
    folders_of,
    need_columns,
    numbers_of,
    places_of,
)

COLUMNS = ("tag", "include")
OPTIONAL = ("exclude",)


def fill(samples: Samples, places: Places, folders: Folders) -> Tree:
    need_columns(samples, COLUMNS, "geneval")
    names = [*COLUMNS, *(name for name in OPTIONAL if name in samples.source_columns)]
    numbers = numbers_of(places)
    texts = samples.texts("prompt")

    def keys(folder: str, images: int) -> list[str]:
        return [f"{folder}/metadata.jsonl", *(f"{folder}/samples/{i:04d}.png" for i in range(images))]

    def make(place: Place, group: Group) -> Iterator[bytes]:
        first = group[0][0]
        metadata = {name: _without_nulls(samples.source(name)[first].as_py()) for name in names}
        metadata = {name: value for name, value in metadata.items() if value is not None}
        for item in metadata.get("include", ()):
            _number_position(item)
        yield (json.dumps({**metadata, "prompt": texts[first]}, ensure_ascii=False) + "\n").encode()
        yield from (as_png(data) for _, data in group)

    def filled(folder: str) -> Callable[[int], list[str]]:
        return lambda images: keys(folder, images)

    return Tree({(v, p): filled(f"{folders[v]}{numbers[p]:05d}") for v, p in places}, make)


def _without_nulls(value: Any) -> Any:
    """Parquet gives every struct of a column all fields; those that were not in the source come back as null."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value


def _number_position(item: Any) -> None:
    """`["left of", "0"]` is `["left of", 0]` again: a column of mixed types is carried as text."""
    position = item.get("position") if isinstance(item, dict) else None
    if isinstance(position, list):
        item["position"] = [int(part) if isinstance(part, str) and part.isdecimal() else part for part in position]


def geneval_files(samples: Samples) -> dict[str, str]:
    """The sample of each image in the tree of kept images, by its path there."""
    status, ids = samples.texts("status"), samples.texts("sample_id")
    places = places_of(samples, [row for row, word in enumerate(status) if word == KEPT])
    folders, numbers = folders_of(list(dict.fromkeys(variant for variant, _ in places))), numbers_of(places)
    return {
        f"{folders[variant]}{numbers[prompt]:05d}/samples/{i:04d}.png": ids[row]
        for (variant, prompt), rows in places.items()
        for i, row in enumerate(rows)
    }
