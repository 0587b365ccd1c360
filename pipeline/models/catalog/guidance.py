"""Whether `generation.guidance_scale` changes an image of a model: some take it and leave it."""

from __future__ import annotations

from promptmill.pipeline.models.catalog.diffusers_source import call_defaults, call_parameters
from promptmill.pipeline.models.catalog.families import NO_SCALE
from promptmill.pipeline.models.catalog.resolve import code_of
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel

_HIGH = 9.0


def scale_acts(model: ResolvedModel, negative: bool) -> bool:
    """`negative` is whether there is a negative prompt, without which some pipelines do not guide."""
    code, call = code_of(model), call_parameters(model.pipeline_class)
    if model.pipeline_class in NO_SCALE:
        return False
    if code is None or code.guides(_HIGH):
        return True
    denoiser = code.settings.get("transformer") or code.settings.get("unet") or {}
    if denoiser.get("guidance_embeds") or denoiser.get("time_cond_proj_dim"):
        return True  # it is an input of the model
    if "true_cfg_scale" in call:
        return negative or (call_defaults(model.pipeline_class).get("true_cfg_scale") or 0) > 1
    if "guidance_embeds" in denoiser or code.guides(_HIGH) is False:
        return "guider" in code.settings or ("negative_prompt" in call and code.guides(_HIGH) is None)
    return True


def check_guidance(model: ResolvedModel, negative: bool, where: str) -> None:
    """Raises JobError where a scale is asked for that has no effect."""
    if not scale_acts(model, negative):
        hint = "Remove it, or give a negative prompt." if scale_acts(model, True) else "Remove it."
        got = f"one that {model.path}, a {model.pipeline_class}, draws without"
        raise JobError(Problem(where, "a guidance_scale that changes images", got, hint))
