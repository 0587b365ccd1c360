"""Cells of a sweep by arithmetic: a cell is a number, and nothing is listed until it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.identity import canonical_json
from schemas.job import Job, Model
from schemas.plan import ResolvedModel, Variant


def cell_count(job: Job) -> int:
    return math.prod(len(values) for values in job.sweep.axes().values())


def cell_values(job: Job, index: int) -> dict[str, Any]:
    """Swept fields of cell `index`, the last axis running fastest; `model` is an axis like the others."""
    values: dict[str, Any] = {}
    for name, axis in reversed(job.sweep.axes().items()):
        index, position = divmod(index, len(axis))
        values[name] = axis[position]
    return dict(reversed(values.items()))


def swept_models(job: Job) -> tuple[Model, ...]:
    """The models of the job in the order of the axis; one where `model` is not swept."""
    return tuple(as_model(value, job.model) for value in job.sweep.axes().get("model", (job.model,)))


def as_model(value: str | Model, base: Model) -> Model:
    """A bare path in a sweep takes its dtype from the job's `model`."""
    return value if isinstance(value, Model) else Model(path=value, dtype=base.dtype)


def variant(job: Job, models: Mapping[Model, ResolvedModel], index: int) -> Variant:
    values = cell_values(job, index)
    model = as_model(values["model"], job.model) if "model" in values else job.model
    shown = {
        name: value.model_dump(exclude_defaults=True) if isinstance(value, Model) else value
        for name, value in values.items()
    }
    generation = job.generation.model_copy(update={name: values[name] for name in values if name != "model"})
    return Variant(index, shown, models[model], generation)


def variant_text(values: Mapping[str, Any]) -> str:
    """The record's `variant`; `{}` where nothing is swept."""
    return canonical_json(values)


def images_per_prompt(job: Job) -> tuple[int, ...]:
    """Value of each cell along that axis; one value where it is not swept."""
    return tuple(job.sweep.axes().get("images_per_prompt", (job.generation.images_per_prompt,)))
