"""Whether the photos of a source are of a size that the models draw in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from promptmill.pipeline.planning import variants
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.pixels import ImageError, open_image
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import Problem
from promptmill.schemas.job import Job
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.resolved import ResolvedModel

_MUCH_LARGER: Final = 4
_LOOKED_AT: Final = 8


def own_sizes(job: Job, models: Sequence[ResolvedModel], files: Sequence[SourceFile]) -> Iterator[str]:
    """A folder of photos much larger than what a model was made for, where each is drawn in its own size."""
    for photo, sides in _photos(job, files, 1):
        for own in _in_own_size(job, models):
            if sides[0] * sides[1] > _MUCH_LARGER * own.width * own.height:
                shown = f"{photo.name} is {sides[0]}×{sides[1]}, and {own.path} was made for {own.width}×{own.height}"
                yield f"images are drawn in their own size: {shown}; generation.fit: cover brings all to that size"


def too_large(job: Job, models: Sequence[ResolvedModel], files: Sequence[SourceFile]) -> Iterator[Problem]:
    """A folder of photos of which each that is looked at is larger than the model draws: none would be made."""
    photos = list(_photos(job, files, _LOOKED_AT))
    for own in _in_own_size(job, models):
        most = own.max_size
        if photos and most is not None and all(max(sides) - own.size_multiple / 2 > most for _, sides in photos):
            (photo, (width, height)), more = photos[0], f", and {len(photos) - 1} more" if len(photos) > 1 else ""
            expected = f"cover, contain or stretch, since {own.path} draws at most {most} pixels a side"
            yield Problem("generation.fit", expected, f"null, and {photo.name} is {width}×{height}{more}")


def _in_own_size(job: Job, models: Sequence[ResolvedModel]) -> Iterator[ResolvedModel]:
    """Models that draw each image, and not a region of it, in the size that it has."""
    resolved = dict(zip(variants.swept_models(job), models, strict=True))
    for model, *asked in variants.tally(job, "model", "width", "height", "fit", "mask_crop"):
        if asked == [None] * 4:
            yield resolved[model]


def _photos(job: Job, files: Sequence[SourceFile], count: int) -> Iterator[tuple[SourceFile, tuple[int, int]]]:
    """Some of the source's own images on this machine that are drawn from, with their sizes."""
    there = [file for file in files if is_image(file.name) and not is_remote(file.path)]
    for photo in there[:: max(1, len(there) // count)][:count] if "image" in job.task.roles else ():
        with contextlib.suppress(OSError, ImageError), open_image(Path(photo.path).read_bytes()) as image:
            yield photo, image.size
