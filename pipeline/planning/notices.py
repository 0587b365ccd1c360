"""What a plan says of a job that is right, and yet may not be what was meant."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from promptmill.pipeline.display import redact
from promptmill.pipeline.models.catalog.classifiers import license_notice
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.diffusers_source import rounds_steps_down
from promptmill.pipeline.models.catalog.licenses import license_called
from promptmill.pipeline.models.catalog.schedulers import find_scheduler
from promptmill.pipeline.models.catalog.tasks import STRENGTH, class_for, steps_made, task_for
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.licensed import Part, licensed_parts
from promptmill.pipeline.planning.photo_sizes import own_sizes
from promptmill.pipeline.prompts.source import Source
from promptmill.schemas.job import Job
from promptmill.schemas.origin import Lineage
from promptmill.schemas.resolved import ResolvedModel


def notices_of(
    job: Job, models: Sequence[ResolvedModel], clips: Sequence[ResolvedClip], source: Source, lineage: Lineage
) -> Iterator[str]:
    """All that a person should read before the job runs."""
    yield from source.notices
    yield from from_noise(job, models, source.largest.get("strength"))
    yield from own_sizes(job, models, source.files)
    yield from of_licenses(licensed_parts(job, models, lineage))
    yield from of_classifiers(job, clips)


def from_noise(job: Job, models: Sequence[ResolvedModel], largest: float | None) -> Iterator[str]:
    """Strengths below 1 with which every step is made: a flow begins such a way with noise alone, and the image that
    is drawn over has no effect. `largest` is the largest strength that a row has."""
    resolved = dict(zip(variants.swept_models(job), models, strict=True))
    fields = ("num_inference_steps", "scheduler", "strength")
    rows = () if largest is None else (largest,)
    asked = {(*own, value) for *own, given in variants.tally(job, "model", *fields) for value in (given, *rows)}
    texts = (_from_noise(job, resolved[model], steps, scheduler, value) for model, steps, scheduler, value in asked)
    yield from sorted({text for text in texts if text is not None})


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
