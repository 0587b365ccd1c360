"""Variants of a sweep by arithmetic: a variant is a number, and nothing is listed until it is asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any

from promptmill.schemas.generation import Model
from promptmill.schemas.identity import canonical_json
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Variant
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.sweep import PRESETS


def count(job: Job) -> int:
    return job.sweep.grid.cells


def values_at(job: Job, index: int) -> dict[str, Any]:
    """Swept fields of variant `index`, the last axis running fastest; `model` is an axis like the others.

    Of a preset the name, as `settings`, and the fields it stands for.
    """
    axes = job.sweep.axes()
    positions = dict(zip(axes, job.sweep.grid.positions(index), strict=True))
    return _fields(job, {name: axes[name][position] for name, position in positions.items()})


def _fields(job: Job, chosen: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(chosen)
    if PRESETS in chosen:
        values |= job.sweep.presets[chosen[PRESETS]].given()
    return values


def tally(job: Job, *fields: str) -> Counter[tuple[Any, ...]]:
    """The values that these fields have together, and in how many variants; a field that is not swept as in the job.

    `model` is a `Model`, the others are fields of `generation`.
    """
    axes, grid = job.sweep.axes(), job.sweep.grid
    presets = job.sweep.presets.values()
    wanted = {*fields, *([PRESETS] if any(set(fields) & each.given().keys() for each in presets) else [])}
    involved = {name: place for place, name in enumerate(axes) if name in wanted}
    found: Counter[tuple[Any, ...]] = Counter()
    for positions in product(*(range(grid.sizes[place]) for place in involved.values())):
        count = grid.at(dict(zip(involved.values(), positions, strict=True))).cells
        chosen = {name: axes[name][position] for name, position in zip(involved, positions, strict=True)}
        if count:
            found[tuple(_value(job, _fields(job, chosen), field) for field in fields)] += count
    return found


def _value(job: Job, values: Mapping[str, Any], field: str) -> Any:
    if field == "model":
        return as_model(values.get("model", job.model), job.model)
    return values.get(field, getattr(job.generation, field))


def swept_models(job: Job) -> tuple[Model, ...]:
    """The models of the job without repeats; one where `model` is not swept."""
    values = job.sweep.values_of("model", job.model)
    return tuple(dict.fromkeys(as_model(value, job.model) for _, value in values))


def as_model(value: str | Model, base: Model) -> Model:
    """A bare path in a sweep is loaded as the job's `model` is."""
    if isinstance(value, Model):
        return value
    own = {name: getattr(base, name) for name in ("dtype", "quantization", "offload", "device_map", "mirror")}
    return Model(path=value, **own)


def variant(job: Job, models: Mapping[Model, ResolvedModel], index: int) -> Variant:
    values = values_at(job, index)
    shown = {
        name: value.as_drawn.model_dump(exclude_defaults=True) if isinstance(value, Model) else value
        for name, value in values.items()
    }
    own = type(job.generation).model_fields
    generation = job.generation.model_copy(update={name: values[name] for name in values if name in own})
    return Variant(index, shown, models[_value(job, values, "model")], generation)


def variant_text(values: Mapping[str, Any]) -> str:
    """The record's `variant`; `{}` where nothing is swept."""
    return canonical_json(values)


def images_per_prompt(job: Job) -> Counter[int]:
    """How many variants make so many images of each prompt."""
    return Counter({images: count for (images,), count in tally(job, "images_per_prompt").items()})


VARIANTS_WITHOUT_ASKING = 1_000


def describe_axes(job: Job) -> str:
    """Such as `settings 2 × guidance_scale 5, 3 excluded`; empty where nothing is swept."""
    grid = job.sweep.grid
    excluded = math.prod(grid.sizes) - grid.cells
    text = " × ".join(f"{name} {len(values)}" for name, values in job.sweep.axes().items())
    return text + (f", {excluded:,} excluded" if excluded else "")


def variant_name(values: Mapping[str, Any]) -> str:
    """`settings fast · guidance_scale 5.0 · scheduler ddim`; for people, not for keys."""
    parts = []
    for name, value in sorted(values.items(), key=lambda item: item[0] != PRESETS):
        shown = shown_value(value)
        parts.append(f"{name} {'default' if shown is None else shown}")
    return " · ".join(parts) or "all samples"


def shown_value(value: Any) -> Any:
    """A model by its name; other values as they are."""
    if isinstance(value, Model):
        value = value.model_dump(exclude_defaults=True)
    return model_name(value) if isinstance(value, Mapping) else value


def model_name(value: Mapping[str, Any]) -> str:
    """Of a swept model: `builtin:shapes dtype float16 + hollow × 0.75`, with all that tells it from its neighbours."""
    added = [
        f"{each['name']} × {factor:g}" if (factor := each.get("weight", each.get("scale", 1.0))) != 1 else each["name"]
        for kind in _ADDED
        for each in value.get(kind, ())
    ]
    if looks := value.get("ip_adapter"):
        factor = looks.get("scale", 1.0)
        name = str(looks["path"]).rstrip("/").rpartition("/")[2]
        added.append(name if factor == 1 else f"{name} × {factor:g}")
    if not value.keys() <= Model.model_fields.keys():
        return str(dict(value))
    path = value.get("path", Model.model_fields["path"].default)
    return " + ".join([f"{path}{_unusual(value)}", *added])


def _unusual(value: Mapping[str, Any]) -> str:
    """What the model does not have by default, so that two of one path stay apart."""
    usual = {name: field.default for name, field in Model.model_fields.items()}
    rest = {name: text for name, text in value.items() if name not in ("path", "ip_adapter", *_ADDED)}
    return "".join(f" {name} {text}" for name, text in rest.items() if text is not None and text != usual.get(name))


_ADDED = ("adapters", "controlnets")
