"""Where the images of a set lie that is read and never written: a folder, Parquet files, a dataset's kept rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from promptmill.pipeline.dataset.keys import SIDE_FOLDERS
from promptmill.pipeline.display import redact
from promptmill.pipeline.prompts.bombs import check_strangers
from promptmill.pipeline.prompts.files import kept_of_dataset
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SIDES: Final = tuple(f"{folder}/" for folder in (*SIDE_FOLDERS, "scores", "selections", "report"))


@dataclass(frozen=True)
class ImageSet:
    """Beside image `files` no `tables` are read. `entries` is all that lies there."""

    store: Store
    files: Sequence[Entry]
    tables: Sequence[Entry]
    entries: Sequence[Entry]


def images_at(source: str, where: str, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> ImageSet:
    """Image files at any depth, else Parquet files; of our own datasets the kept ones. `where` is who asks.

    Raises JobError where there is neither, or where tables are not fit to be opened.
    """
    store, found = find_objects(source)
    entries = _without_sides(kept_of_dataset(found))
    files = [entry for entry in entries if entry.name.lower().endswith(tuple(suffixes))]
    tables = [] if files else [entry for entry in entries if entry.name.endswith(".parquet")]
    if not files and not tables:
        got = f"{len(entries)} other files" if entries else "nothing there"
        expected = f"a folder of images ({', '.join(suffixes)}) or a dataset"
        raise JobError(Problem(f"{where} {redact(source)}", expected, got))
    check_strangers(store, tables)
    return ImageSet(store, files, tables, entries)


def _without_sides(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Of a dataset that was copied without its `job.json`. Elsewhere `report` may be a class, and its images count."""
    if not any(entry.name.startswith("data/") and entry.name.endswith(".parquet") for entry in entries):
        return entries
    return [entry for entry in entries if not entry.name.startswith(_SIDES)]
