"""Folders in the form that the suites' own scorers read.

    geneval   00000/metadata.jsonl, 00000/samples/0000.png …   github.com/djghosh13/geneval
    dpg       <item_id>.png, four images as a 2×2 grid         github.com/TencentQQGYLab/ELLA, dpg_bench

A sweep gives one such tree for each cell, in a folder named after its settings.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples, read_dataset
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem

Layout = Literal["geneval", "dpg"]
GRID = 4
_GENEVAL_COLUMNS = ("tag", "include")
_GENEVAL_OPTIONAL = ("exclude",)


@dataclass(frozen=True)
class ExportSummary:
    images: int
    prompts: int
    folders: list[str] = field(default_factory=list)


def export_dataset(plan: Plan, store: Store, out: Store, layout: Layout, rejected: bool = False) -> ExportSummary:
    """Kept images, and stored rejected ones where asked for. Raises JobError where the layout cannot be filled."""
    _, samples = read_dataset(plan, store)
    wanted = (KEPT, REJECTED) if rejected else (KEPT,)
    rows = [row for row, status in enumerate(samples.texts("status")) if status in wanted]
    if not rows:
        raise JobError(Problem(store.url, "images", "none", "Run the job first"))
    folders = _folders(samples, rows)
    write = _geneval(samples, rows, out, folders) if layout == "geneval" else _dpg(samples, rows, out, folders)
    images = 0
    for group in _groups(store, samples, rows):
        write(group)
        images += len(group)
    prompts = samples.texts("prompt_id")
    return ExportSummary(images, len({prompts[row] for row in rows}), sorted(set(folders.values())))


Group = Sequence[tuple[int, bytes]]
"""(row of the table, encoded image) of one prompt in one cell, by sample index."""


def _groups(store: Store, samples: Samples, rows: Sequence[int]) -> Iterator[Group]:
    """A prompt's images of one cell lie in one shard, so a shard at a time is enough."""
    objects, variants, prompts = (samples.texts(name) for name in ("object", "variant", "prompt_id"))
    places, indices = (samples.table.column(name).to_pylist() for name in ("row", "sample_index"))
    by_shard: dict[str, dict[str, dict[int, int]]] = {}
    for row in rows:
        part = objects[row].partition("/")[2][:11]
        by_shard.setdefault(part, {}).setdefault(objects[row], {})[places[row]] = row
    for keys in by_shard.values():
        groups: dict[tuple[str, str], list[tuple[int, bytes]]] = {}
        for key, wanted in keys.items():
            for place, data in read_images(store, key, list(wanted)):
                row = wanted[place]
                groups.setdefault((variants[row], prompts[row]), []).append((row, data))
        for group in groups.values():
            yield sorted(group, key=lambda pair: int(indices[pair[0]] or 0))


def _folders(samples: Samples, rows: Sequence[int]) -> dict[str, str]:
    """Folder of each cell by its variant; the root where there is one cell."""
    variants = samples.texts("variant")
    distinct = list(dict.fromkeys(variants[row] for row in rows))
    return {text: "" if len(distinct) == 1 else folder_name(json.loads(text)) + "/" for text in distinct}


def folder_name(values: Mapping[str, Any]) -> str:
    """`guidance_scale=5.0,scheduler=ddim`, with nothing in it that a file system could take amiss."""
    parts = [
        f"{name}={value.get('path', '') if isinstance(value, Mapping) else value}" for name, value in values.items()
    ]
    return re.sub(r"[^A-Za-z0-9=,._-]+", "-", ",".join(parts)).strip(".-")[:150] or "all"


def _geneval(samples: Samples, rows: Sequence[int], out: Store, folders: Mapping[str, str]) -> Callable[[Group], None]:
    _need_columns(samples, _GENEVAL_COLUMNS, "geneval")
    table = samples.table
    names = [*_GENEVAL_COLUMNS, *(name for name in _GENEVAL_OPTIONAL if name in table.column_names), "prompt"]
    prompts, variants = samples.texts("prompt_id"), samples.texts("variant")
    numbers: dict[str, int] = {}
    for row in rows:
        numbers.setdefault(prompts[row], len(numbers))

    def write(group: Group) -> None:
        first = group[0][0]
        folder = f"{folders[variants[first]]}{numbers[prompts[first]]:05d}"
        metadata = {name: _without_nulls(table.column(name)[first].as_py()) for name in names}
        metadata = {name: value for name, value in metadata.items() if value is not None}
        for item in metadata.get("include", ()):
            _number_position(item)
        out.put(f"{folder}/metadata.jsonl", (json.dumps(metadata, ensure_ascii=False) + "\n").encode())
        for i, (_, data) in enumerate(group):
            out.put(f"{folder}/samples/{i:04d}.png", as_png(data))

    return write


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


def _dpg(samples: Samples, rows: Sequence[int], out: Store, folders: Mapping[str, str]) -> Callable[[Group], None]:
    variants = samples.texts("variant")
    names = samples.texts("item_id" if "item_id" in samples.table.column_names else "prompt_id")
    count: dict[tuple[str, str], int] = {}
    for row in rows:
        count[variants[row], names[row]] = count.get((variants[row], names[row]), 0) + 1
    short = [name for (_, name), images in count.items() if images < GRID]
    if short:
        hint = "Set `images_per_prompt: 4` and leave `select` out, or give --rejected where their images are stored"
        raise JobError(
            Problem(
                "layout dpg", f"{GRID} images of each prompt", f"fewer for {len(short)}, such as {short[0]!r}", hint
            )
        )

    def write(group: Group) -> None:
        first = group[0][0]
        name = re.sub(
            r"\.txt:\d+$", "", names[first]
        )  # a folder of text files, one prompt each, is how DPG-Bench comes
        stem = re.sub(r"[^\w.-]+", "_", name).strip(".")[:150] or "prompt"
        out.put(f"{folders[variants[first]]}{stem}.png", grid_png([data for _, data in group[:GRID]]))

    return write


def _need_columns(samples: Samples, needed: Sequence[str], layout: str) -> None:
    missing = [name for name in needed if name not in samples.table.column_names]
    if missing:
        got = ", ".join(samples.source_columns) or "no columns of the source"
        hint = "The prompts must come from the suite's own file, whose columns are carried through"
        raise JobError(*(Problem(f"layout {layout}", f"a column `{name}`", got, hint) for name in missing))


def as_png(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        return data
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def grid_png(images: Sequence[bytes]) -> bytes:
    """Four images of one size as a 2×2 grid, row by row."""
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for i, picture in enumerate(pictures):
        sheet.paste(
            picture.resize((width, height)) if picture.size != (width, height) else picture,
            (i % 2 * width, i // 2 * height),
        )
    sink = io.BytesIO()
    sheet.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
