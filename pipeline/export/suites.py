"""A dataset as the folders that the suites' own scorers read; `layouts/` has a module for each form.

A sweep gives one such tree for each variant, in a folder named after its settings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import KEPT, REJECTED, Samples
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.export.registry import columns_of, layout_of
from promptmill.pipeline.export.trees import Group, Place, Places, folders_of, places_of
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.pixels import ImageError
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem, StorageError
from promptmill.schemas.results import ExportResult


def export_dataset(
    plan: Plan, store: Store, out: Store, layout: str, rejected: bool = False, selection: str | None = None
) -> ExportResult:
    """Kept images, and stored rejected ones where asked for.

    Raises JobError where the layout cannot be filled or `out` holds other files, StorageError where the tree does not
    hold every image of the dataset when all is written.
    """
    chosen = layout_of(layout)
    _, samples = read_selected(plan, store, selection, columns_of(chosen))
    if samples.problems:
        hint = "`promptmill verify` says what to do"
        raise JobError(Problem(store.url, "a dataset of which every image can be read", samples.problems[0], hint))
    wanted = (KEPT, REJECTED) if rejected else (KEPT,)
    rows = [row for row, status in enumerate(samples.texts("status")) if status in wanted]
    if not rows:
        raise JobError(Problem(store.url, "images", "none", "Run the job first"))
    places = places_of(samples, rows)
    folders = folders_of(list(dict.fromkeys(variant for variant, _ in places)))
    tree = chosen.fill(samples, places, folders)
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
    return ExportResult(out.url, images, len({prompt for _, prompt in places}), sorted(set(folders.values())), without)


def _groups(store: Store, samples: Samples, places: Places) -> Iterator[tuple[Place, Group]]:
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
