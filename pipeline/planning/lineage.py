"""What a source says of itself: its licence, and of which datasets of ours its images are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from promptmill.pipeline.models.catalog.licenses import CARD, CARD_BYTES, front_matter, license_in, strictest
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.checked import NO_OBJECT
from promptmill.schemas.errors import StorageError
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.origin import MOST_GENERATIONS, Lineage
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.urls import split_query

FRONT = "promptmill"
"""In the front matter of a card of ours: `fingerprint` and `generation` of the dataset."""
_BELOW = ("data", "rejects", "selections")
_CLAIM, _CLAIM_BYTES = "job.json", 64 << 20
_LATER, _MOST_LATER = "segments", 1_000
_MOST_FOLDERS = 16
"""Beyond these a folder counts as one without a card: each is a request to the store."""
_NONE_THERE = (PermissionError, IsADirectoryError)
"""S3 answers 403 and not 404 for an object that is not there, where the key may not list."""


def lineage_of(prompts: Prompts, files: Sequence[SourceFile]) -> Lineage:
    """Of a job of these files. What is not there, or is no card, says nothing. Raises StorageError."""
    _, query = split_query(prompts.source or "")
    folders = dict.fromkeys(folder for file in files if "/" in file.path for folder in _of(file))
    said = {folder: _said(folder, query) for folder in list(folders)[:_MOST_FOLDERS]}
    parts = {tuple(said[folder] for folder in _of(file) if folder in said) for file in files}
    license = prompts.license or _strictest(
        [_strictest([each.license for each in part if each.license]) for part in parts]
    )
    if prompts.columns.image != "image":
        return Lineage(license=license)
    ours = [each for each in said.values() if each.datasets]
    generation = max((each.generation + 1 for each in ours), default=1)
    datasets = tuple(sorted({dataset for each in ours for dataset in each.datasets}))
    whole = all(any(each.datasets for each in part) for part in parts)
    return Lineage(min(generation, MOST_GENERATIONS), datasets, license, whole)


def merged(parts: Sequence[Lineage]) -> Lineage:
    """Of a dataset whose images come from several sources."""
    return Lineage(
        max(part.generation for part in parts),
        tuple(sorted({dataset for part in parts for dataset in part.datasets})),
        _strictest([part.license for part in parts]),
        all(part.whole for part in parts),
    )


def _strictest(licenses: Sequence[str | None]) -> str | None:
    """Of several that all hold; where one of them is not said it counts as unknown, and None where none is."""
    different = set(licenses)
    if len(different) <= 1:
        return next(iter(different), None)
    return strictest(different).name


def _of(file: SourceFile) -> Iterator[str]:
    own, whole = file.path.rpartition("/")[0], file.path.removesuffix(f"/{file.name}")
    yield own if whole == file.path else whole
    above, _, last = own.rpartition("/")
    if last in _BELOW and above:
        yield above


def _said(folder: str, query: str) -> Lineage:
    """Of a dataset of ours its own generation; of others the licence alone. Raises StorageError."""
    if folder.startswith(("http:", "https:")) or "::" in folder:  # no folders, or those of an archive
        return Lineage()
    try:
        store = Store(folder, query=query if is_remote(folder) else "")
        front = front_matter(store.read_if_exists(CARD, CARD_BYTES) or b"")
        claim = None if FRONT in front else store.read_if_exists(_CLAIM, _CLAIM_BYTES)
        told = front.get(FRONT) if claim is None else _of_claim(claim, store)
    except NO_OBJECT:
        return Lineage()
    except StorageError as error:
        if isinstance(error.__context__, _NONE_THERE):
            return Lineage()
        raise
    return _checked(told, license_in(front))


def _of_claim(data: bytes, store: Store) -> dict[str, object]:
    """Of a dataset without a card, such as one that is still being made: the largest generation of all its parts."""
    content = parse_object(data)
    parts = [content["plan"], *_later_parts(store)]
    told = [part.get("lineage") or {} for part in parts]
    generations = [each["generation"] for each in told if type(each.get("generation")) is int]
    largest = min(max(generations, default=1), MOST_GENERATIONS)
    return {"fingerprint": content["fingerprint"], "generation": largest}


def _later_parts(store: Store) -> Iterator[dict[str, Any]]:
    for entry in store.list(_LATER)[:_MOST_LATER]:
        data = store.read_if_exists(entry.name, _CLAIM_BYTES)
        with suppress(*NO_OBJECT):  # a strange one hides no other
            yield from [dict(each) for each in parse_object(data or b"{}").get("segments", [])]


def _checked(told: object, license: str | None) -> Lineage:
    if not isinstance(told, dict):
        return Lineage(license=license)
    dataset, generation = told.get("fingerprint"), told.get("generation", 1)
    if not (isinstance(dataset, str) and dataset.isalnum() and len(dataset) <= 100):
        return Lineage(license=license)
    if isinstance(generation, str):  # as cards have it
        generation = int(generation) if re.fullmatch(r"[0-9]{1,4}", generation) else None
    known = isinstance(generation, int) and 1 <= generation <= MOST_GENERATIONS
    return Lineage(generation if known else 1, (dataset,), license)
