"""A dataset without copies: of each other, of the images that it was made from, of those it will be judged by.

What comes out is a dataset with the shards of the input, in which the copies are rejects that name their twin. Every
step writes objects that are created if absent and depend on the input alone, so that the same call goes on wherever
one before was stopped, on however many workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.bounds import NEVER, Bounds, find_bounds
from promptmill.pipeline.curation.cells import SPACES, Block, Space, find_centres, sort_block
from promptmill.pipeline.curation.decisions import KEY, decide
from promptmill.pipeline.curation.embed import PARTS, Numbers, embed_known, embed_shard
from promptmill.pipeline.curation.known import KnownPart
from promptmill.pipeline.curation.percentiles import KEY as BELOW
from promptmill.pipeline.curation.percentiles import find_worst, worst_places
from promptmill.pipeline.curation.rewrite import rewrite_shard
from promptmill.pipeline.curation.settings import FOLDER, Task
from promptmill.pipeline.curation.twins import Cell, judge_cell
from promptmill.pipeline.curation.vectors import LOOK_UNIT, SCALE
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import Shard

S = TypeVar("S")
T = TypeVar("T")
_BLOCK_BYTES = 48 << 20


class Spread(Protocol):
    """Applies a function to many things, here or on many machines; answers in order."""

    def __call__(self, function: Callable[[S], T], things: Sequence[S], model: bool = False) -> Iterable[T]: ...


def here(function: Callable[[S], T], things: Sequence[S], model: bool = False) -> Iterator[T]:
    return map(function, things)


@dataclass(frozen=True)
class Progress:
    """Told what is done: a word for the step, how many of how many."""

    tell: Callable[[str, int, int], None] = lambda step, done, of: None

    def each(self, step: str, answers: Iterable[T], of: int) -> list[T]:
        found = []
        for answer in answers:
            found.append(answer)
            self.tell(step, len(found), of)
        return found


def curate(plan: Plan, task: Task, known: Sequence[KnownPart], spread: Spread, progress: Progress) -> None:
    """`plan` is that of the output, which has been claimed."""
    store = task.output
    if store.entry(KEY) is None:
        try:
            _decide(plan, task, known, spread, progress)
        except Exception:  # another call may have decided meanwhile, and tidied away what this one was about to read
            if store.entry(KEY) is None:
                raise
    todo = missing_shards(plan, store)
    keep_images = plan.job.output.keep_rejected_images
    progress.each("write", spread(partial(rewrite_shard, task, keep_images=keep_images), todo), len(todo))
    _tidy(store)


def _decide(plan: Plan, task: Task, known: Sequence[KnownPart], spread: Spread, progress: Progress) -> None:
    find_worst(plan, task)
    shards = list(plan.all_shards())
    own = progress.each("embed", spread(partial(embed_shard, task), shards, model=True), len(shards))
    theirs = progress.each("embed known", spread(partial(embed_known, task), known, model=True), len(known))
    parts = _keys(shards, own, known, theirs)
    images = sum(each.images for each in own)
    bounds = find_bounds(task.output, task.settings, [f"{PARTS}/{part.key}.parquet" for part in known], images)
    cells: list[str] = []
    for space in SPACES if bounds.cosine != NEVER else SPACES[:1]:
        cells += _find_twins(space, task, parts, images + sum(each.images for each in theirs), bounds, spread, progress)
    broken = [place for each in own for place in each.broken]
    decide(task, cells, broken, bounds, worst_places(task.output))


def _keys(
    shards: Sequence[Shard], own: Sequence[Numbers], known: Sequence[KnownPart], theirs: Sequence[Numbers]
) -> list[str]:
    """Of the parts that have any image."""
    names = [*(shard.part for shard in shards), *(part.key for part in known)]
    return [f"{PARTS}/{name}.parquet" for name, each in zip(names, (*own, *theirs), strict=True) if each.images]


def _find_twins(
    space: Space, task: Task, parts: list[str], images: int, bounds: Bounds, spread: Spread, progress: Progress
) -> list[str]:
    """The objects that say what the cells of one space found."""
    store = task.output
    centres = find_centres(store, space, parts, images, task.settings.cell_rows)
    blocks = _blocks(store, space, parts, _reach(space, bounds))
    progress.each(f"sort by {space}", spread(partial(sort_block, task), blocks), len(blocks))
    keys = tuple(block.key for block in blocks)
    cells = [Cell(space, number, keys) for number in range(len(centres))]
    progress.each(f"compare by {space}", spread(partial(judge_cell, task, bounds=bounds), cells), len(cells))
    return [cell.key for cell in cells]


def _reach(space: Space, bounds: Bounds) -> float:
    """How far apart copies may lie, in whole numbers."""
    if space == "meaning":
        return SCALE * float(np.sqrt(max(0.0, 2 - 2 * bounds.cosine)))
    return float(max(0.0, bounds.difference) * LOOK_UNIT**0.5)


def _blocks(store: Store, space: Space, parts: Sequence[str], reach: float) -> list[Block]:
    """As many parts to a block as fit into memory, by the sizes of their objects."""
    sizes = {entry.name: entry.size_bytes for entry in store.list(PARTS)}
    groups: list[list[str]] = []
    held = 0
    for key in parts:
        if not groups or held + sizes[key] > _BLOCK_BYTES:
            groups, held = [*groups, []], 0
        groups[-1].append(key)
        held += sizes[key]
    return [Block(space, number, tuple(group), reach) for number, group in enumerate(groups)]


def _tidy(store: Store) -> None:
    """What was worked out on the way goes; `decisions.parquet` stays."""
    if store.entry(BELOW) is not None:
        store.delete(BELOW)
    for folder in (PARTS, *(f"{FOLDER}/{space}" for space in SPACES)):
        for entry in store.list(folder):
            store.delete(entry.name)
            reached("curate-tidying")
