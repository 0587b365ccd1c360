"""Sizes that a job asks for, held against what a model draws."""

from __future__ import annotations

from math import sqrt

from promptmill.pipeline.models.catalog.resolve import code_of
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel


def check_size(width: int | None, height: int | None, model: ResolvedModel, where: str) -> None:
    """Null stands for the model's own size. Raises JobError naming the nearest sizes that work."""
    problems = []
    for name, value in (("width", width), ("height", height)):
        if value is None:
            continue
        low, high, step = model.size_multiple, model.max_size, model.size_multiple
        below = max(low, min(value, high or value) // step * step)
        above = below if high and below + step > high else below + step
        nearest = f"Nearest: {below}." if below == above or value < low else f"Nearest: {below} and {above}."
        if high and value > high:
            problems.append(Problem(f"{where}.{name}", f"at most {high} for {model.path}", str(value), nearest))
        elif value < low or value % step:
            problems.append(
                Problem(f"{where}.{name}", f"a multiple of {step} for {model.pipeline_class}", str(value), nearest)
            )
    if problems:
        raise JobError(*problems)
    _check_pixels(width, height, model, where)


def _check_pixels(width: int | None, height: int | None, model: ResolvedModel, where: str) -> None:
    """Some pipelines scale every size to one number of pixels, and would draw another than the one asked for."""
    code = code_of(model) if width or height else None
    listed = code.resolutions() if code else []
    if listed and [width or model.width, height or model.height] not in listed:
        known = ", ".join(f"{one} × {other}" for one, other in listed)
        got = f"{width or model.width} × {height or model.height}"
        raise JobError(Problem(f"{where}.width", f"a size that {model.pipeline_class} draws", got, f"These: {known}."))
    pixels = code.kept_pixels() if code else None
    if pixels is None:
        return
    asked = (width or model.width, height or model.height)
    scale, step = sqrt(pixels / (asked[0] * asked[1])), model.size_multiple
    drawn = tuple(int(side * scale // step * step) for side in asked)
    if drawn != asked:
        expected = f"about {pixels:,} pixels, to which {model.pipeline_class} scales every size"
        got, hint = (
            f"{asked[0]} × {asked[1]}",
            f"It would draw {drawn[0]} × {drawn[1]}, which works if it is asked for.",
        )
        raise JobError(Problem(f"{where}.width", expected, got, hint))
