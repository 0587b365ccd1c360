"""What a source says of itself: its licence, and of which datasets of ours its images are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptmill.pipeline.models.catalog.licenses import CARD, CARD_BYTES, front_matter, license_in
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.checked import NO_OBJECT
from promptmill.schemas.errors import PromptmillError
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.origin import MOST_GENERATIONS, Lineage
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.urls import split_query

FRONT = "promptmill"
"""In the front matter of a card of ours: `fingerprint` and `generation` of the dataset."""
_BELOW = ("data", "rejects", "selections")
_CLAIM, _CLAIM_BYTES = "job.json", 64 << 20
_MOST_FOLDERS = 16
_PATIENCE_S = 5.0


def lineage_of(prompts: Prompts, files: Sequence[SourceFile]) -> Lineage:
    """Of a job of these files. Whatever cannot be read says nothing: it changes no image."""
    _, query = split_query(prompts.source or "")
    said = {folder: _said(folder, query) for folder in _folders(files)}
    license = prompts.license or next((each.license for each in said.values() if each.license), None)
    if "image" not in prompts.columns.images.values():
        return Lineage(license=license)
    ours = {folder: each for folder, each in said.items() if each.datasets}
    generation = max((each.generation + 1 for each in ours.values()), default=1)
    datasets = tuple(sorted({dataset for each in ours.values() for dataset in each.datasets}))
    whole = all(any(folder in ours for folder in _of(file)) for file in files)
    return Lineage(min(generation, MOST_GENERATIONS), datasets, license, whole)


def _folders(files: Sequence[SourceFile]) -> list[str]:
    """Where a card may lie: the folder that is the source, and above `data/` of a dataset."""
    found = dict.fromkeys(folder for file in files if "/" in file.path for folder in _of(file))
    return list(found)[:_MOST_FOLDERS]


def _of(file: SourceFile) -> Iterator[str]:
    own, whole = file.path.rpartition("/")[0], file.path.removesuffix(f"/{file.name}")
    yield own if whole == file.path else whole
    above, _, last = own.rpartition("/")
    if last in _BELOW and above:
        yield above


def _said(folder: str, query: str) -> Lineage:
    """Of a dataset of ours its own generation; of others the licence alone."""
    if folder.startswith(("http:", "https:")) or "::" in folder:  # no folders, or those of an archive
        return Lineage()
    try:
        store = Store(folder, _PATIENCE_S, on_wait=lambda message: None, query=query if is_remote(folder) else "")
        front = front_matter(store.read_if_exists(CARD, CARD_BYTES) or b"")
        claim = None if FRONT in front else store.read_if_exists(_CLAIM, _CLAIM_BYTES)
        told = front.get(FRONT) if claim is None else _of_claim(claim)
    except (PromptmillError, OSError, *NO_OBJECT):
        return Lineage()
    return _checked(told, license_in(front))


def _of_claim(data: bytes) -> dict[str, object]:
    """Of a dataset without a card, such as one that is still being made."""
    content = parse_object(data)
    return {"fingerprint": content["fingerprint"], **content["plan"].get("lineage", {})}


def _checked(told: object, license: str | None) -> Lineage:
    if not isinstance(told, dict):
        return Lineage(license=license)
    dataset, generation = told.get("fingerprint"), told.get("generation", 1)
    if not (isinstance(dataset, str) and dataset.isalnum() and len(dataset) <= 100):
        return Lineage(license=license)
    known = isinstance(generation, int) and 1 <= generation <= MOST_GENERATIONS
    return Lineage(generation if known else 1, (dataset,), license)
