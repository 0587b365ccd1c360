"""Folders in the form that the suites' own scorers read.

    geneval   00000/metadata.jsonl, 00000/samples/0000.png …   github.com/djghosh13/geneval
    dpg       <item_id>.png, four images as a 2×2 grid         github.com/TencentQQGYLab/ELLA, dpg_bench

A sweep gives one such tree for each cell, in a folder named after its settings.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples, as_texts
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.export.names import distinct_names
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import shown_value
from promptmill.pipeline.prompts.pixels import MAX_PIXELS, ImageError, decode_image, open_image
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem, StorageError

Layout = Literal["geneval", "dpg"]
GRID = 4
_GENEVAL_COLUMNS = ("tag", "include")
_GENEVAL_OPTIONAL = ("exclude",)

Place = tuple[str, str]
"""Variant and prompt id: whose images lie together."""

Group = Sequence[tuple[int, bytes]]
"""(row of the table, encoded image) of one place, by sample index."""


@dataclass(frozen=True)
class ExportSummary:
    """`without_image` are rejected samples whose image the dataset does not store."""

    images: int
    prompts: int
    folders: list[str] = field(default_factory=list)
    without_image: int = 0


@dataclass(frozen=True)
class Tree:
    """A layout, filled: the files that each place gives, and how they are made of its images."""

    keys: Mapping[Place, Callable[[int], list[str]]]
    make: Callable[[Place, Group], Iterator[bytes]]


def export_dataset(
    plan: Plan, store: Store, out: Store, layout: Layout, rejected: bool = False, selection: str | None = None
) -> ExportSummary:
    """Kept images, and stored rejected ones where asked for.

    Raises JobError where the layout cannot be filled or `out` holds other files, StorageError where the tree does not
    hold every image of the dataset when all is written.
    """
    _, samples = read_selected(plan, store, selection, (*_GENEVAL_COLUMNS, *_GENEVAL_OPTIONAL))
    if samples.problems:
        hint = "`promptmill verify` says what to do"
        raise JobError(Problem(store.url, "a dataset of which every image can be read", samples.problems[0], hint))
    wanted = (KEPT, REJECTED) if rejected else (KEPT,)
    rows = [row for row, status in enumerate(samples.texts("status")) if status in wanted]
    if not rows:
        raise JobError(Problem(store.url, "images", "none", "Run the job first"))
    places = _places(samples, rows)
    folders = _folders(list(dict.fromkeys(variant for variant, _ in places)))
    tree = (_geneval if layout == "geneval" else _dpg)(samples, places, folders)
    _refuse_others(out, {key for place, rows in places.items() for key in tree.keys[place](len(rows))})
    written: set[str] = set()
    images = 0
    for place, group in _groups(store, samples, places):
        keys = tree.keys[place](len(group))
        try:
            contents = list(tree.make(place, group))
        except ImageError:  # counted below as images that could not be read
            continue
        for key, data in zip(keys, contents, strict=True):
            out.put(key, data)
        written.update(keys)
        images += len(group)
    without = _count(samples, rows, images, written, out)
    return ExportSummary(images, len({prompt for _, prompt in places}), sorted(set(folders.values())), without)


def _places(samples: Samples, rows: Sequence[int]) -> dict[Place, list[int]]:
    """The rows of each prompt in each cell, by sample index; a retried one lies in another shard than its siblings."""
    variants, prompts = samples.texts("variant"), samples.texts("prompt_id")
    indices = samples.table.column("sample_index").to_pylist()
    found: dict[Place, list[int]] = defaultdict(list)
    for row in rows:
        found[variants[row], prompts[row]].append(row)
    return {place: sorted(group, key=lambda row: int(indices[row] or 0)) for place, group in found.items()}


def _groups(store: Store, samples: Samples, places: Mapping[Place, list[int]]) -> Iterator[tuple[Place, Group]]:
    """Each place once all of its images are read; those whose images lie in several objects wait for the last."""
    objects, rows_there = samples.texts("object"), samples.table.column("row").to_pylist()
    place_of = {row: place for place, rows in places.items() for row in rows}
    by_object: dict[str, dict[int, int]] = defaultdict(dict)
    for row in sorted(place_of):
        by_object[objects[row]][rows_there[row]] = row
    missing = {place: len({objects[row] for row in rows}) for place, rows in places.items()}
    waiting: dict[Place, dict[int, bytes]] = defaultdict(dict)
    for key, wanted in by_object.items():
        for at, data in read_images(store, key, list(wanted)):
            waiting[place_of[wanted[at]]][wanted[at]] = data
        for place in dict.fromkeys(place_of[row] for row in wanted.values()):
            missing[place] -= 1
            images = waiting.pop(place, {}) if not missing[place] else {}
            if images:
                yield place, [(row, images[row]) for row in places[place] if row in images]


def _refuse_others(out: Store, ours: set[str]) -> None:
    """Images of another export in the same tree would be scored with these."""
    others = sorted(entry.name for entry in out.find() if entry.name not in ours)
    if others:
        got = f"{len(others)} files that are not of this export, such as {others[0]}"
        raise JobError(Problem(out.url, "an empty folder, or this very export", got, "Choose another folder"))


def _count(samples: Samples, rows: Sequence[int], images: int, written: set[str], out: Store) -> int:
    """How many rejected samples have no image. Raises StorageError where the tree lacks something."""
    lost = written - {entry.name for entry in out.find()}
    if lost:
        raise StorageError(f"{out.url} lacks {len(lost)} files that were written, such as {min(lost)}")
    status = samples.texts("status")
    without = len(rows) - images
    rejected = sum(status[row] == REJECTED for row in rows)
    if without > rejected:
        raise StorageError(f"{without} images of {len(rows)} could not be read; `promptmill verify --deep` says which")
    return without


def _folders(variants: Sequence[str]) -> dict[str, str]:
    """Folder of each cell by its variant; the root where there is one cell."""
    if len(variants) == 1:
        return {variants[0]: ""}
    return {text: f"{name}/" for text, name in distinct_names({text: cell_label(text) for text in variants}).items()}


def cell_label(variant: str) -> str:
    """`guidance_scale=5.0,scheduler=ddim`."""
    return ",".join(f"{name}={shown_value(value)}" for name, value in json.loads(variant).items())


def geneval_files(samples: Samples) -> dict[str, str]:
    """The sample of each image in the tree of kept images, by its path there."""
    status, ids = samples.texts("status"), samples.texts("sample_id")
    places = _places(samples, [row for row, word in enumerate(status) if word == KEPT])
    folders, numbers = _folders(list(dict.fromkeys(variant for variant, _ in places))), _numbers(places)
    return {
        f"{folders[variant]}{numbers[prompt]:05d}/samples/{i:04d}.png": ids[row]
        for (variant, prompt), rows in places.items()
        for i, row in enumerate(rows)
    }


def _numbers(places: Mapping[Place, list[int]]) -> dict[str, int]:
    return {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt for _, prompt in places))}


def _geneval(samples: Samples, places: Mapping[Place, list[int]], folders: Mapping[str, str]) -> Tree:
    _need_columns(samples, _GENEVAL_COLUMNS, "geneval")
    names = [*_GENEVAL_COLUMNS, *(name for name in _GENEVAL_OPTIONAL if name in samples.source_columns)]
    numbers = _numbers(places)
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


def _dpg(samples: Samples, places: Mapping[Place, list[int]], folders: Mapping[str, str]) -> Tree:
    short = [prompt for (_, prompt), rows in places.items() if len(rows) < GRID]
    if short:
        hint = "Set `images_per_prompt: 4` and leave `select` out, or give --rejected where their images are stored"
        got = f"fewer for {len(short)}, such as {short[0]!r}"
        raise JobError(Problem("layout dpg", f"{GRID} images of each prompt", got, hint))
    named = as_texts(samples.source("item_id")) if "item_id" in samples.source_columns else samples.texts("prompt_id")
    # A folder of text files, one prompt each, is how DPG-Bench comes.
    labels = {prompt: re.sub(r"\.txt:\d+$", "", named[rows[0]]) for (_, prompt), rows in places.items()}
    stems = distinct_names(labels, "prompt")

    def filled(key: str) -> Callable[[int], list[str]]:
        return lambda images: [key]

    def make(place: Place, group: Group) -> Iterator[bytes]:
        yield grid_png([data for _, data in group[:GRID]])

    return Tree({(v, p): filled(f"{folders[v]}{stems[p]}.png") for v, p in places}, make)


def _need_columns(samples: Samples, needed: Sequence[str], layout: str) -> None:
    missing = [name for name in needed if name not in samples.source_columns]
    if missing:
        got = ", ".join(samples.source_columns) or "no such columns of the source"
        hint = "The prompts must come from the suite's own file, whose columns are carried through"
        raise JobError(*(Problem(f"layout {layout}", f"a column `{name}`", got, hint) for name in missing))


def as_png(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        return data
    sink = io.BytesIO()
    Image.fromarray(decode_image(data)).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def grid_png(images: Sequence[bytes]) -> bytes:
    """Four images of one size as a 2×2 grid, row by row."""
    with open_image(images[0]) as first:
        width, height = first.size
    if 4 * width * height > MAX_PIXELS:
        raise ImageError(f"four of {width}×{height}, more than {MAX_PIXELS:,} pixels")
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for i, data in enumerate(images):
        picture = Image.fromarray(decode_image(data))
        sheet.paste(
            picture.resize((width, height)) if picture.size != (width, height) else picture,
            (i % 2 * width, i // 2 * height),
        )
    sink = io.BytesIO()
    sheet.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
