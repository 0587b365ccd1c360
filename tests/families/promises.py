"""What a pipeline of any class is held to. Each promise is a function that raises AssertionError with what it found."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch

from promptmill.pipeline.models.catalog.families import ONE_TEXT
from promptmill.pipeline.models.catalog.guidance import scale_acts
from promptmill.pipeline.models.catalog.resolve import code_of
from promptmill.pipeline.models.catalog.schedulers import check_scheduler, fitting_schedulers
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.pipeline.models.diffusion.calls import told
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.interface import Generated
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.errors import JobError, SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel

ROUNDING = 2
"""Of 255: what another shape of a batch changes."""
SHORT, OTHER, LONG = (
    "a red circle",
    "the blue square",
    "a green star above the yellow triangle and a red circle on a blue square",
)
TOO_LONG = "a red circle on a blue square and " * 500
Pixels = np.ndarray[Any, np.dtype[np.int16]]


class Family:
    def __init__(self, model: ResolvedModel) -> None:
        self.model = model
        side = -(-64 // model.size_multiple) * model.size_multiple
        self.settings = Generation(num_inference_steps=2, guidance_scale=5.0, width=side, height=side)

    @cached_property
    def generator(self) -> DiffusersGenerator:
        loaded = load_generator(self.model, threads=1)
        assert isinstance(loaded, DiffusersGenerator)
        side = self.settings.width or 0
        if isinstance(getattr(loaded._pipe, "resolutions", None), list):
            loaded._pipe.resolutions.append((side, side))  # Kandinsky 5 draws a million pixels at least: too slow here
        code = code_of(self.model)
        if code is not None and code.kept_pixels():
            loaded._pipe.default_sample_size = side // loaded._pipe.vae_scale_factor  # and so does HiDream
        return loaded

    @property
    def pipe(self) -> Any:
        return self.generator._pipe

    @property
    def denoiser(self) -> torch.nn.Module:
        part = getattr(self.pipe, "transformer", None) or self.pipe.unet
        assert isinstance(part, torch.nn.Module)
        return part

    def draw(self, *asked: Sample, on_step: Callable[[], None] = lambda: None, **changes: Any) -> list[Generated]:
        made = self.generator.generate(asked, self.settings.model_copy(update=changes), on_step)
        assert [each.error for each in made] == [None] * len(made), next(str(each.error) for each in made if each.error)
        return made

    def pixels(self, *asked: Sample, **changes: Any) -> Pixels:
        shown = [each.pixels for each in self.draw(*asked, **changes)]
        return np.stack([each for each in shown if each is not None]).astype(np.int16)


def sample(number: int, prompt: str = SHORT, negative: str = "") -> Sample:
    return Sample(f"s{number}", f"p{number}", number, 0, number, prompt, negative, prompt)


def furthest(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one - other).max())


def seeds_make_images(family: Family) -> None:
    first = family.pixels(sample(1), sample(2))
    assert furthest(first[:1], first[1:]) > ROUNDING, "two seeds, one image"
    torch.manual_seed(99)
    again = family.pixels(sample(1), sample(2))
    assert furthest(first, again) == 0, f"again: {furthest(first, again)} of 255"


def as_plain_diffusers_draws(family: Family) -> None:
    """The pixels of the pipeline's own call, scaled to bytes as it scales them."""
    call = {**told(family.pipe, 2), "output_type": "np"}
    known = inspect.signature(family.pipe.__call__).parameters
    if family.pipe.components.get("guider") is not None:
        family.pipe.guider.guidance_scale = 5.0
    if "true_cfg_scale" in known and known["true_cfg_scale"].default > 1:
        call |= {"true_cfg_scale": 5.0, "negative_prompt": [" "]}
    size = {"width": family.settings.width, "height": family.settings.height}
    generators = [torch.Generator("cpu").manual_seed(1)]
    prompt = SHORT if family.model.pipeline_class in ONE_TEXT else [SHORT]
    made = family.pipe(prompt=prompt, num_inference_steps=2, generator=generators, **size, **_scales(family), **call)
    images = made.image if hasattr(made, "image") else made.images
    expected = (np.asarray(images) * 255).round().astype(np.int16)
    found = furthest(family.pixels(sample(1)), expected)
    assert found <= 1, f"{found} of 255 from plain diffusers"


def _scales(family: Family) -> dict[str, float]:
    known = inspect.signature(family.pipe.__call__).parameters
    return {name: 5.0 for name in ("guidance_scale", "distilled_guidance_scale") if name in known}


def mates_do_not_show(family: Family) -> None:
    asked = [sample(1, SHORT), sample(2, LONG, "blurry"), sample(3, OTHER), sample(4, SHORT)]
    together = family.pixels(*asked)
    alone = np.concatenate([family.pixels(each) for each in asked])
    assert furthest(together, alone) <= ROUNDING, f"{furthest(together, alone)} of 255 with other mates"


def prompts_make_images(family: Family) -> None:
    assert (family.pixels(sample(1, SHORT)) != family.pixels(sample(1, LONG))).any(), "two prompts, one image"


def guidance_acts_or_is_refused(family: Family) -> None:
    low, high = (family.pixels(sample(1), guidance_scale=scale) for scale in (1.5, 9.0))
    acts = bool((low != high).any())
    said = scale_acts(family.model, negative=False)
    assert acts == said, f"guidance {'acts' if acts else 'has no effect'}, and is {'offered' if said else 'refused'}"


def negative_prompt_acts_or_is_flagged(family: Family) -> None:
    without = family.pixels(sample(1))
    (made,) = family.draw(sample(1, negative="blurry star"))
    acts = bool((made.pixels != without[0]).any())
    flagged = "negative_prompt_ignored" in made.flags
    assert acts != flagged, f"it {'acts' if acts else 'does nothing'}, flags {made.flags}"


def steps_are_those_recorded(family: Family) -> None:
    for steps in (1, 3):
        try:
            check_steps(None, steps, family.model, "generation.num_inference_steps")
        except JobError:
            continue
        seen: list[None] = []
        family.draw(sample(1), num_inference_steps=steps, on_step=lambda: seen.append(None))  # noqa: B023
        assert len(seen) - 2 == steps, f"{steps} asked for, {len(seen) - 2} made"  # and one before and after


def default_size_is_the_pipelines_own(family: Family) -> None:
    if getattr(family.denoiser.config, "sample_size", None) and "1024" in str(
        inspect.signature(family.pipe.__call__).parameters["height"].default
    ):
        return  # its signature has one size for all folders, its folder another (Sana, AuraFlow)
    try:
        own = _latents(family, {})
    except Exception:
        assert getattr(family.pipe, "default_sample_size", None), "no size of its own, and none that fits it"
        return  # GLM-Image asks for both sides
    ours = _latents(family, {"width": family.model.width, "height": family.model.height})
    assert own == ours, f"{family.model.width}×{family.model.height} gives {ours}, the pipeline's own {own}"


class _Seen(Exception):
    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self.shapes = shapes


def _latents(family: Family, size: dict[str, int]) -> list[tuple[int, ...]]:
    """Shapes of what the denoiser is given first."""

    def look(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = [value for value in (*args, *options.values()) if isinstance(value, torch.Tensor) and value.dim() > 1]
        raise _Seen([tuple(value.shape) for value in given])

    handle = family.denoiser.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with suppress(_Seen) as _:
            try:
                family.pipe(prompt=[SHORT], num_inference_steps=2, **size, **_scales(family), **told(family.pipe, 2))
            except _Seen as seen:
                return seen.shapes
    finally:
        handle.remove()
    raise AssertionError("the denoiser was not called")


def truncation_is_flagged(family: Family) -> None:
    """Whether the end of a long prompt shows decides whether it must be flagged. Ideogram 4 draws no such prompt."""
    try:
        one, other = (family.draw(sample(1, TOO_LONG + end))[0] for end in ("star", "triangle"))
    except SampleError as error:
        if "exceeds" not in error.message:
            raise
        return
    shows = bool((one.pixels != other.pixels).any())
    plain = "prompt_truncated" in one.flags
    flagged = any(flag.startswith("prompt_truncated") for flag in one.flags)
    assert not plain if shows else flagged, f"its end {'shows' if shows else 'does not show'}, flags {one.flags}"


def schedulers_offered_run_and_repeat(family: Family) -> None:
    wrong = []
    for name in sorted(fitting_schedulers(family.model)):
        try:
            check_scheduler(name, family.model, "generation.scheduler")
            first = family.pixels(sample(1), sample(2), scheduler=name, num_inference_steps=3)
            torch.manual_seed(99)
            again = family.pixels(sample(1), sample(2), scheduler=name, num_inference_steps=3)
            if furthest(first, again):
                wrong.append(f"{name}: {furthest(first, again)} of 255 when made again")
        except Exception as error:
            wrong.append(f"{name}: {str(error).splitlines()[0][:120]}")
    assert not wrong, "; ".join(wrong)


PROMISES: tuple[Callable[[Family], None], ...] = (
    seeds_make_images,
    as_plain_diffusers_draws,
    mates_do_not_show,
    prompts_make_images,
    guidance_acts_or_is_refused,
    negative_prompt_acts_or_is_flagged,
    steps_are_those_recorded,
    default_size_is_the_pipelines_own,
    truncation_is_flagged,
    schedulers_offered_run_and_repeat,
)
