"""What a prompt's own line sets: held against the model, since no column of numbers was there to be judged before."""

from __future__ import annotations

import json
import math
from functools import lru_cache

from promptmill.pipeline.models.catalog.families import WEIGHS_WORDS
from promptmill.pipeline.models.catalog.guidance import check_guidance
from promptmill.pipeline.models.catalog.sizes import check_size
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.schemas.emphasis import is_emphasised
from promptmill.schemas.errors import JobError, SampleError
from promptmill.schemas.generation import ASPECT, Generation
from promptmill.schemas.plan import Sample, Variant
from promptmill.schemas.resolved import ResolvedModel


def with_size(settings: str | None, generation: Generation, model: ResolvedModel) -> str | None:
    """The settings with a width and height in place of an aspect ratio: as many pixels as the job's, by the nearest
    sides that the model can draw."""
    said = json.loads(settings) if settings else {}
    ratio = said.pop(ASPECT, None)
    if ratio is None:
        return settings
    pixels = (generation.width or model.width) * (generation.height or model.height)
    for side, length in (("width", math.sqrt(pixels * ratio)), ("height", math.sqrt(pixels / ratio))):
        said[side] = max(1, round(length / model.size_multiple)) * model.size_multiple
    return json.dumps(said, sort_keys=True)


def wrong_settings(variant: Variant, sample: Sample) -> SampleError | None:
    if sample.settings is not None:
        said = _wrong(sample.settings, variant.generation, variant.model, bool(sample.negative_prompt))
        if said is not None:
            return SampleError("invalid_setting", said)
    weighs = variant.model.pipeline_class in WEIGHS_WORDS
    if sample.written is None or weighs or not any(map(is_emphasised, (sample.prompt, sample.negative_prompt))):
        return None
    return SampleError("invalid_syntax", f"weights of words or BREAK, which {variant.model.pipeline_class} cannot draw")


@lru_cache(1024)
def _wrong(settings: str, variant: Generation, model: ResolvedModel, negative: bool) -> str | None:
    said = json.loads(settings)
    drawn = variant.model_copy(update=said)
    try:
        check_size(said.get("width"), said.get("height"), model, "row")
        if "num_inference_steps" in said:
            check_steps(drawn.scheduler, drawn.num_inference_steps, model, "row.steps")
        if drawn.guidance_scale > 1 and "guidance_scale" in said:
            check_guidance(model, negative, "row.cfg_scale")
    except JobError as error:
        return "; ".join(str(problem) for problem in error.problems)
    return None
