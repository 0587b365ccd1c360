"""Which pipeline class does a task for a model, and what its call takes: read from the installed source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache

from promptmill.pipeline.models.catalog.diffusers_source import (
    auto_classes,
    call_parameters,
    makes_images_from_text,
    parts,
    pipeline_modules,
    rounds_steps_down,
)
from promptmill.pipeline.models.catalog.families import CHANNELS, EDITS, FAILS, INPAINTS, MASKED_CHANNELS
from promptmill.pipeline.models.catalog.resolve import code_of
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.inputs import ControlKind, Role, TaskName, task_of
from promptmill.schemas.resolved import ResolvedModel

CALLED: Mapping[str, tuple[str, ...]] = {
    "num_inference_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "true_cfg_scale"),
    "width": ("width",),
    "height": ("height",),
    "image_guidance_scale": ("image_guidance_scale",),
}
"""Fields of `generation` that are arguments of a pipeline's call, and the names, of which it must take one."""


def check_arguments(model: ResolvedModel, asked: Mapping[str, str]) -> None:
    """`asked` maps the fields that a job sets itself to where it sets them; a default asks for nothing.

    Raises JobError for each that the model's pipeline does not take.
    """
    taken = call_parameters(model.pipeline_class)
    if model.pipeline_class in EDITS:  # a call without them draws in the size of its image, which is brought to them
        taken |= {"width", "height"}
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
def class_for(task: TaskName, base: str, control: ControlKind = "") -> str | None:
    """The class that does a task with the parts of the text-to-image class `base`; None where diffusers has none.

    `control` is what steers beside the model's own weights.

    Inpainting with a U-Net is the image-to-image class with blended latents: diffusers' own class insists on 4 or 9
    channels, and lets the mask's edge through where it begins inside a latent. A U-Net of 9 draws with a mask alone.
    """
    if base in INPAINTS.values():
        return base if task == "inpainting" and not control else None
    if control:
        return _controlled(task, base, control)
    if task in ("text-to-image", "edit"):
        able = base in EDITS if task == "edit" else makes_images_from_text(base)
        return base if able else None
    if base in EDITS and not makes_images_from_text(base):
        return None
    kind, ending = _MAPPED[task]
    family = next((key for key, name in auto_classes("TEXT2IMAGE").items() if name == base), None)
    found = auto_classes(kind).get(family or "", base.removesuffix("Pipeline") + ending)
    if task == "inpainting" and blends(base):
        return class_for("image-to-image", base)
    if found in FAILS:
        return None
    return found if found in pipeline_modules() and "strength" in call_parameters(found) else None


def _controlled(task: TaskName, base: str, control: ControlKind) -> str | None:
    if task == "edit":
        return None
    if control == "adapter":  # in no automatic pipeline
        found = f"{base.removesuffix('Pipeline')}AdapterPipeline"
        return found if task == "text-to-image" and found in pipeline_modules() else None
    if task == "inpainting" and blends(base):
        task = "image-to-image"
    kind = "TEXT2IMAGE" if task == "text-to-image" else _MAPPED[task][0]
    family = next((key for key, name in auto_classes("TEXT2IMAGE").items() if name == base), None)
    name = auto_classes(kind).get(f"{family}-{control}")
    if name not in pipeline_modules():
        return None
    # That of Stable Diffusion 3 for masks draws its control image anew from noise, and takes no image beside it.
    return name if task == "text-to-image" or {"image", "strength"} <= call_parameters(name) else None


@cache
def blends(base: str) -> bool:
    """Whether inpainting is done by blending latents after each step: a U-Net's lie as the pixels do."""
    image_to_image = class_for("image-to-image", base)
    return (
        image_to_image is not None
        and {"unet", "vae"} <= parts(base)
        and "callback_on_step_end" in call_parameters(image_to_image)
    )


def task_for(roles: Iterable[Role], base: str) -> TaskName:
    """What a model of this class makes of prompts that have images in these roles."""
    name = task_of(roles).name
    return "edit" if name == "image-to-image" and base in EDITS else name


def check_task(model: ResolvedModel, task: TaskName, asked: TaskName | None, where: str) -> None:
    """Raises JobError where the model's family has no pipeline for the task, naming those that have.

    `task` follows from what the job gives, `asked` is what it says that it is.
    """
    base = model.pipeline_class
    if asked is not None and asked != task:
        able = class_for(asked, base) is not None
        hint = _GIVEN[asked] if able else _that_do(asked)
        got = f"{task}, from what it gives" if able else f"{model.path}, a {base}"
        raise JobError(Problem("generation.mode", f"a job and a model for {asked}", got, hint))
    if class_for(task, base) is None:
        got = f"{model.path}, a {base}"
        if base in EDITS and task == "text-to-image":
            raise JobError(Problem("prompts.columns.image", "images for a model that edits them", got, _GIVEN["edit"]))
        if base in INPAINTS.values():
            got, hint = f"{got}, which does inpainting alone: its U-Net is given the mask", _GIVEN["inpainting"]
            raise JobError(Problem(where, f"a model that does {task}", got, f"{hint} {_that_do(task)}"))
        raise JobError(Problem(where, f"a model that does {task}", got, _that_do(task)))
    _check_channels(model, task, where)


def _check_channels(model: ResolvedModel, task: TaskName, where: str) -> None:
    """Some classes insist on the channels of the models that they were written for, once the weights are loaded."""
    name = class_for(task, model.pipeline_class) or ""
    if model.pipeline_class in INPAINTS:
        _check_latents(model)
    code = code_of(model) if name in CHANNELS else None
    has = code.settings.get("transformer", {}).get("in_channels") if code else None
    if has is not None and has not in CHANNELS[name]:
        expected = f"a transformer of {' or '.join(map(str, CHANNELS[name]))} channels, as {name} insists"
        raise JobError(Problem(where, expected, f"{has} in {model.path}"))


def _check_latents(model: ResolvedModel) -> None:
    """A U-Net that is given more than latents (a depth map, a small image) would fail in its first step."""
    code = code_of(model)
    if code is None or not {"unet", "vae"} <= code.settings.keys():
        return
    has = code.settings["unet"].get("in_channels", 4)
    latents = code.settings["vae"].get("latent_channels", 4)
    if has != latents:
        expected = f"a U-Net of {latents} channels as the autoencoder's, or of {MASKED_CHANNELS} for masks"
        raise JobError(Problem("model.path", expected, f"{has} in {model.path}, a {model.pipeline_class}"))


_GIVEN: Mapping[TaskName, str] = {
    "text-to-image": "Images make it another task: remove prompts.columns.image.",
    "image-to-image": "Name the column of images in prompts.columns.image.",
    "inpainting": "Name the columns in prompts.columns.image and prompts.columns.mask.",
    "edit": "Name the column of the images to edit in prompts.columns.image.",
}


def _that_do(task: TaskName) -> str:
    able = sorted(
        name for name in {*auto_classes("TEXT2IMAGE").values(), *EDITS, *INPAINTS.values()} if class_for(task, name)
    )
    return f"These do: {', '.join(able)}."


def that_steer(task: TaskName, control: ControlKind) -> list[str]:
    """Classes that do the task with what steers them."""
    return sorted(name for name in auto_classes("TEXT2IMAGE").values() if class_for(task, name, control))


def steps_made(task: TaskName, base: str, steps: int, strength: float) -> int:
    """How many of `steps` are made from an input image."""
    name = class_for(task, base) or base
    exact = steps * strength
    return min(steps, int(exact) if rounds_steps_down(name) else math.ceil(exact))


def check_strength(model: ResolvedModel, task: TaskName, steps: int, strength: float | None, where: str) -> None:
    """Raises JobError for a strength that leaves no step, with the smallest that does."""
    if task not in STRENGTH:
        if strength is not None:
            hint = "Remove it; `image_guidance_scale` says how closely some keep to the image."
            got = f"{strength:g}, for {task} with {model.path}"
            raise JobError(Problem(where, "no strength, which edits do not have", got, hint))
        return
    value = STRENGTH[task] if strength is None else strength
    if steps_made(task, model.pipeline_class, steps, value) < 1:
        least = math.ceil(10_000 / steps) / 10_000
        expected = f"at least {least:g} with {steps} steps (steps × strength, rounded down, are made)"
        raise JobError(Problem(where, expected, f"{value:g}", "Raise it, or make more steps."))
