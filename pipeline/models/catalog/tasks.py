"""Which pipeline class does a task for a model, and what its call takes: read from the installed source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

from promptmill.pipeline.models.catalog.diffusers_source import (
    auto_classes,
    call_parameters,
    parts,
    pipeline_modules,
    rounds_steps_down,
)
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.plan import ResolvedModel

CALLED: Mapping[str, tuple[str, ...]] = {
    "num_inference_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "true_cfg_scale"),
    "width": ("width",),
    "height": ("height",),
}
"""Fields of `generation` that are arguments of a pipeline's call, and the names, of which it must take one."""


def check_arguments(model: ResolvedModel, asked: Mapping[str, str]) -> None:
    """`asked` maps the fields that a job sets itself to where it sets them; a default asks for nothing.

    Raises JobError for each that the model's pipeline does not take.
    """
    taken = call_parameters(model.pipeline_class)
    problems = [
        Problem(
            where, f"a field that {model.pipeline_class} takes", f"`{field}`, which its call does not know",
            f"Remove it, or leave this combination out: {model.path} would be drawn without it.",
        )
        for field, where in asked.items()
        if taken and not taken & {*CALLED[field]}
    ]  # fmt: skip
    if problems:
        raise JobError(*problems)


STRENGTH: Mapping[TaskName, float] = {"image-to-image": 0.6, "inpainting": 1.0}
"""Where neither job nor row says one; diffusers' own defaults lie between 0.3 and 1."""
_MAPPED: Mapping[TaskName, tuple[str, str]] = {
    "image-to-image": ("IMAGE2IMAGE", "Img2ImgPipeline"),
    "inpainting": ("INPAINT", "InpaintPipeline"),
}


@cache
def class_for(task: TaskName, base: str, controlled: bool = False) -> str | None:
    """The class that does a task with the parts of the text-to-image class `base`; None where diffusers has none.

    `controlled` is for models with ControlNets.

    Inpainting with a U-Net is the image-to-image class with blended latents: diffusers' own class insists on 4 or 9
    channels, and lets the mask's edge through where it begins inside a latent.
    """
    if controlled:
        return _controlled(task, base)
    if task == "text-to-image":
        return base
    kind, ending = _MAPPED[task]
    family = next((key for key, name in auto_classes("TEXT2IMAGE").items() if name == base), None)
    found = auto_classes(kind).get(family or "", base.removesuffix("Pipeline") + ending)
    if task == "inpainting" and blends(base):
        return class_for("image-to-image", base)
    return found if found in pipeline_modules() and "strength" in call_parameters(found) else None


def _controlled(task: TaskName, base: str) -> str | None:
    if task == "inpainting" and blends(base):
        task = "image-to-image"
    kind = "TEXT2IMAGE" if task == "text-to-image" else _MAPPED[task][0]
    family = next((key for key, name in auto_classes("TEXT2IMAGE").items() if name == base), None)
    found = auto_classes(kind).get(f"{family}-controlnet")
    return found if found in pipeline_modules() else None


@cache
def blends(base: str) -> bool:
    """Whether inpainting is done by blending latents after each step: a U-Net's lie as the pixels do."""
    image_to_image = class_for("image-to-image", base)
    return (
        image_to_image is not None
        and {"unet", "vae"} <= parts(base)
        and "callback_on_step_end" in call_parameters(image_to_image)
    )


def check_task(model: ResolvedModel, task: TaskName, where: str) -> None:
    """Raises JobError where the model's family has no pipeline for the task, naming those that have."""
    if class_for(task, model.pipeline_class) is None:
        able = sorted(name for name in auto_classes("TEXT2IMAGE").values() if class_for(task, name))
        hint = f"These do: {', '.join(able)}."
        raise JobError(Problem(where, f"a model that does {task}", f"{model.path}, a {model.pipeline_class}", hint))


def steps_made(task: TaskName, base: str, steps: int, strength: float) -> int:
    """How many of `steps` are made from an input image."""
    name = class_for(task, base) or base
    exact = steps * strength
    return min(steps, int(exact) if rounds_steps_down(name) else math.ceil(exact))


def check_strength(model: ResolvedModel, task: TaskName, steps: int, strength: float | None, where: str) -> None:
    """Raises JobError for a strength that leaves no step, with the smallest that does."""
    value = STRENGTH[task] if strength is None else strength
    if steps_made(task, model.pipeline_class, steps, value) < 1:
        least = math.ceil(10_000 / steps) / 10_000
        expected = f"at least {least:g} with {steps} steps (steps × strength, rounded down, are made)"
        raise JobError(Problem(where, expected, f"{value:g}", "Raise it, or make more steps."))
