"""What a plan says of a job that is right, and yet may not be what was meant."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptmill.pipeline.display import redact
from promptmill.pipeline.models.catalog.classifiers import license_notice
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.diffusers_source import rounds_steps_down
from promptmill.pipeline.models.catalog.licenses import license_called
from promptmill.pipeline.models.catalog.schedulers import find_scheduler
from promptmill.pipeline.models.catalog.tasks import STRENGTH, class_for, steps_made, task_for
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.licensed import Part
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.pixels import ImageError, open_image
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import Problem
from promptmill.schemas.job import Job
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.resolved import ResolvedModel

_MUCH_LARGER = 4
_LOOKED_AT = 8


def from_noise(job: Job, models: Sequence[ResolvedModel], largest: float | None) -> Iterator[str]:
    """Strengths below 1 with which every step is made: a flow begins such a way with noise alone, and the image that
    is drawn over has no effect. `largest` is the largest strength that a row has."""
    resolved = dict(zip(variants.swept_models(job), models, strict=True))
    fields = ("num_inference_steps", "scheduler", "strength")
    rows = () if largest is None else (largest,)
    asked = {(*own, value) for *own, given in variants.tally(job, "model", *fields) for value in (given, *rows)}
    texts = (_from_noise(job, resolved[model], steps, scheduler, value) for model, steps, scheduler, value in asked)
    yield from sorted({text for text in texts if text is not None})


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
    """Models that draw each image in the size that it has."""
    resolved = dict(zip(variants.swept_models(job), models, strict=True))
    for model, *asked in variants.tally(job, "model", "width", "height", "fit"):
        if asked == [None, None, None]:
            yield resolved[model]


def _photos(job: Job, files: Sequence[SourceFile], count: int) -> Iterator[tuple[SourceFile, tuple[int, int]]]:
    """Some of the source's own images on this machine that are drawn from, with their sizes."""
    there = [file for file in files if is_image(file.name) and not is_remote(file.path)]
    for photo in there[:: max(1, len(there) // count)][:count] if "image" in job.task.roles else ():
        with contextlib.suppress(OSError, ImageError), open_image(Path(photo.path).read_bytes()) as image:
            yield photo, image.size


def _from_noise(
    job: Job, model: ResolvedModel, steps: int, scheduler: str | None, strength: float | None
) -> str | None:
    task = task_for(job.task.roles, model.pipeline_class)
    found = find_scheduler(scheduler) if scheduler else None
    value = STRENGTH.get(task) if strength is None else strength
    flows = "Flow" in (found[0] if found else model.scheduler)
    name = class_for(task, model.pipeline_class, model.control)
    if value is None or not value < 1 or not flows or name is None or rounds_steps_down(name):
        return None
    if steps_made(task, model.pipeline_class, steps, value) < steps:
        return None
    most, more = (steps - 1) / steps, math.ceil(round(1 / (1 - value), 6))
    way = f"at most {most:.3g}, or {more} steps" if steps > 1 else f"at least {more} steps"
    return (
        f"strength {value:g} of {steps} steps begins with noise alone in {name}: "
        f"{'what is drawn anew' if task == 'inpainting' else 'the image'} keeps nothing of the input; take {way}"
    )


def of_licenses(parts: Sequence[Part]) -> Iterator[str]:
    """What licences of models, of what is put onto them, and of the source say on training, where that is not free."""
    for part in sorted({(part.kind, redact(part.name), part.license) for part in parts if part.license is not None}):
        kind, name, license = part
        known = license_called(license)
        if known.training not in ("free", "unknown"):
            said = f"is {known.training} for training with its images: {known.says}"
            yield f"{kind} {name}: its licence {known.name} {said}"


def of_classifiers(job: Job, clips: Sequence[ResolvedClip]) -> Iterator[str]:
    """Under which licence a classifier judges."""
    with_model = [score for score in job.score if score.model is not None]
    yield from (license_notice(clip) for score, clip in zip(with_model, clips, strict=True) if score.classifier)
