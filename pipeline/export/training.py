"""A dataset in the form that training code reads: the layouts of `layouts/` that have `write`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.export.names import distinct_names
from promptmill.pipeline.export.signing import Sign
from promptmill.pipeline.export.splits import WHOLE, assign
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import HASHES, named
from promptmill.schemas.errors import JobError, Problem, StorageError
from promptmill.schemas.results import ExportResult

_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


@dataclass(frozen=True)
class Picture:
    """One image and what a training reads beside it. `name` is its sample id, without dots and slashes."""

    split: str
    name: str
    suffix: str
    data: bytes
    caption: str
    label: int | None
    label_name: str | None
    folder: str
    facts: Mapping[str, Any]

    @property
    def file(self) -> str:
        return f"{self.name}.{self.suffix}"


@dataclass(frozen=True)
class Facts:
    """Of the whole export. `folders` are names of classes that any disk takes, `splits` counts images."""

    plan: Plan
    splits: Mapping[str, int]
    folders: Mapping[str, str]
    classes: Sequence[str] = ()
    sign: Sign | None = None

    @property
    def asked(self) -> bool:
        """Whether there are splits at all."""
        return list(self.splits) != list(WHOLE)

    def folder_of(self, split: str) -> str:
        return f"{split}/" if self.asked else ""


Put = Callable[[str, bytes], None]


def export_training(
    plan: Plan,
    store: Store,
    out: Store,
    layout: Any,
    shares: Mapping[str, float] | None = None,
    rejected: bool = False,
    selection: str | None = None,
    sign: Sign | None = None,
) -> ExportResult:
    """Kept images, and stored rejected ones where asked for, as one tree for all variants.

    Images are signed by `sign`, which in a layout of tables gives the manifest alone. Raises JobError where the layout
    cannot be filled or `out` holds other files.
    """
    plan, samples = read_selected(plan, store, selection, ("label", "label_name"))
    if samples.problems:
        hint = "`promptmill verify` says what to do"
        raise JobError(Problem(store.url, "a dataset of which every image can be read", samples.problems[0], hint))
    rows = _wanted(samples, (KEPT, REJECTED) if rejected else (KEPT,))
    if not rows:
        raise JobError(Problem(store.url, "images", "none", "Run the job first"))
    _refuse_strangers(out, layout.NAMES)
    labels = label_names(samples)
    splits = assign(_groups(samples, rows), [labels[row] or "" for row in rows], shares or WHOLE)
    places: dict[str, dict[int, str]] = defaultdict(dict)
    objects, numbers = samples.texts("object"), samples.table.column("row").to_pylist()
    for row, split in zip(rows, splits, strict=True):
        places[objects[row]][numbers[row]] = split
    named = sorted({name for row in rows if (name := labels[row]) is not None})
    counts = {name: splits.count(name) for name in shares or WHOLE}
    facts = Facts(plan, counts, distinct_names({name: name for name in named}, "class"), named, sign)
    return _written(out, layout, facts, places, _tables(store, places), samples, rows)


def _written(
    out: Store,
    layout: Any,
    facts: Facts,
    places: Mapping[str, Mapping[int, str]],
    tables: Iterator[tuple[str, pa.Table]],
    samples: Samples,
    rows: Sequence[int],
) -> ExportResult:
    seen, files = Counter[str](), set[str]()

    def put(key: str, data: bytes) -> None:
        out.put(key, data)
        files.add(key)

    counted = _counting(tables, seen)
    layout.write(counted if getattr(layout, "TABLES", False) else _pictures(counted, facts), facts, put)
    strangers = sorted({entry.name for entry in out.find()} - files)
    if strangers:
        got = f"{len(strangers)} others, such as {strangers[0]}"
        raise JobError(Problem(out.url, "files of this export alone", got, "Choose an empty folder"))
    images = sum(seen.values())
    status = samples.texts("status")
    without = len(rows) - images
    if without > sum(status[row] == REJECTED for row in rows):
        raise StorageError(f"{without} images of {len(rows)} could not be read; `promptmill verify --deep` says which")
    prompts = samples.texts("prompt_id")
    return ExportResult(
        *(out.url, images, len({prompts[row] for row in rows}), [""], without),
        splits=dict(seen),
        files=len(files),
        signed=images if facts.sign else None,
    )


def _wanted(samples: Samples, kinds: Sequence[str]) -> list[int]:
    return [row for row, status in enumerate(samples.texts("status")) if status in kinds]


def label_names(samples: Samples) -> list[str | None]:
    """Of each row its class: `label_name`, or `label` where there are no names."""
    for name in ("label_name", "source:label_name", "label", "source:label"):
        if name in samples.table.column_names:
            values = samples.table.column(name).to_pylist()
            return [None if value is None else str(value) for value in values]
    return [None] * samples.table.num_rows


def _groups(samples: Samples, rows: Sequence[int]) -> list[str]:
    """The image that each was drawn from, else its prompt."""
    prompts = samples.texts("prompt_id")
    hashes = samples.table.column(HASHES).to_pylist() if HASHES in samples.table.column_names else None
    sources = [(hashes[row] or {}).get("image") if hashes else None for row in rows]
    return [
        f"image {source}" if source else f"prompt {prompts[row]}" for source, row in zip(sources, rows, strict=True)
    ]


def _tables(store: Store, places: Mapping[str, Mapping[int, str]]) -> Iterator[tuple[str, pa.Table]]:
    """Rows of one split of one row group at a time, in the order of the dataset; those without image are left out."""
    for key, splits in places.items():
        with whole_object(store, key) as file:
            parquet = pq.ParquetFile(file)
            begins = 0
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                there = [i for i in range(table.num_rows) if begins + i in splits and _has_image(table, i)]
                for split in dict.fromkeys(splits[begins + i] for i in there):
                    yield split, table.take(pa.array([i for i in there if splits[begins + i] == split], pa.int64()))
                begins += table.num_rows


def _has_image(table: pa.Table, row: int) -> bool:
    image = table.column("image")[row]
    return bool(image.is_valid and image["bytes"].is_valid)


def _counting(tables: Iterable[tuple[str, pa.Table]], seen: Counter[str]) -> Iterator[tuple[str, pa.Table]]:
    for split, table in tables:
        seen[split] += table.num_rows
        yield split, table


def _pictures(tables: Iterable[tuple[str, pa.Table]], facts: Facts) -> Iterator[Picture]:
    for split, table in tables:
        for start in range(table.num_rows):
            yield _picture(split, table.slice(start, 1).to_pylist()[0], facts)


_TOLD = named("sample_id", "prompt_id", "prompt", "seed", "model", "model_revision", "width", "height", "scores")


def _picture(split: str, row: Mapping[str, Any], facts: Facts) -> Picture:
    data: bytes = row["image"]["bytes"]
    suffix = suffix_of(data)
    label, name = row.get("label"), row.get("label_name", row.get("label"))
    name = None if name is None else str(name)
    number = label if isinstance(label, int) else None
    if number is None and name is not None:
        number = list(facts.classes).index(name)
    caption = row.get("caption") or row.get("prompt") or ""
    told = {each: row[each] for each in _TOLD if row.get(each) is not None}
    folder = "" if name is None else facts.folders[name]
    data = facts.sign(data, suffix, f"{row['sample_id']}.{suffix}") if facts.sign else data
    return Picture(split, row["sample_id"], suffix, data, caption, number, name, folder, told)


def suffix_of(data: bytes) -> str:
    return next((own for magic, own in _SUFFIXES.items() if data.startswith(magic)), "png")


def need_labels(facts: Facts, layout: str) -> None:
    if not facts.classes:
        hint = "`prompts.classes`, or `prompts.columns.label`, gives records their class"
        raise JobError(Problem(f"layout {layout}", "a column `label_name` or `label`", "none", hint))


def one_line(text: str) -> str:
    return " ".join(text.split())


def _refuse_strangers(out: Store, ours: re.Pattern[str]) -> None:
    others = [entry.name for entry in out.find() if not ours.fullmatch(entry.name)]
    if others:
        got = f"{len(others)} files that are not of this layout, such as {others[0]}"
        raise JobError(Problem(out.url, "an empty folder, or this very export", got, "Choose another folder"))
