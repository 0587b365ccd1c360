"""Text-to-image classes of the installed diffusers, tiny, against every promise; FAMILIES=1 tries all built here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from promptmill.pipeline.models.catalog.pipeline_code import PipelineCode
from promptmill.pipeline.models.catalog.schedulers import fitting_schedulers
from tests.families.builders import BUILDERS, OLDER
from tests.families.promises import (
    PROMISES,
    ROUNDING,
    Family,
    as_plain_diffusers_draws,
    furthest,
    mates_do_not_show,
    sample,
    seeds_make_images,
)

CORE = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"),
    *("Flux2KleinPipeline", "QwenImagePipeline", "ZImagePipeline", "SanaPipeline", "PixArtSigmaPipeline"),
)
ALL = bool(os.environ.get("FAMILIES"))
TRIED = sorted({*BUILDERS, *OLDER}) if ALL else CORE
HELD = PROMISES if ALL else (mates_do_not_show,)


@pytest.mark.parametrize("promise", HELD, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("name", TRIED)
def test_promise(name: str, promise: Callable[[Family], None], family: Callable[[str], Family]) -> None:
    promise(family(name))


@pytest.mark.parametrize("name", ["flow_lcm", "dpm++_sde", "sa"])
def test_noise_of_a_step_is_the_samples_own(name: str, family: Callable[[str], Family]) -> None:
    """Stable Diffusion 3 gives `step` no generator: the same sample again was another image, by 254 of 255."""
    made_by = family("StableDiffusion3Pipeline")
    first = made_by.pixels(sample(1), sample(2), scheduler=name, num_inference_steps=3)
    torch.manual_seed(99)
    alone = made_by.pixels(sample(1), scheduler=name, num_inference_steps=3)
    assert furthest(first[:1], alone) <= ROUNDING


def test_what_is_drawn_from_the_process_is_drawn_for_each_sample_alone(family: Callable[[str], Family]) -> None:
    """As GLM-Image does, whose language model samples: one seed served the whole batch."""
    made_by = family("StableDiffusionPipeline")

    def noisy(module: Any, given: Any, made: Any) -> Any:
        return (made[0] + torch.randn(made[0].shape),)

    handle = made_by.denoiser.register_forward_hook(noisy)
    try:
        seeds_make_images(made_by)
        mates_do_not_show(made_by)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["Kandinsky3Pipeline", "IFPipeline"])
def test_pixels_are_scaled_where_a_pipeline_leaves_that_out(name: str, family: Callable[[str], Family]) -> None:
    """Asked for tensors, these answer in −1 to 1: all that is darker than grey was black."""
    as_plain_diffusers_draws(family(name))


@pytest.mark.parametrize(
    ("name", "settings", "size", "multiple"),
    [
        ("QwenImage21Pipeline", {"vae": {}}, 1024, 32),
        ("HunyuanImagePipeline", {"vae": {"spatial_compression_ratio": 32}}, 2048, 64),
        ("Ideogram4Pipeline", {"vae": {"block_out_channels": [1] * 4}}, 2048, 16),
        ("Kandinsky3Pipeline", {}, 1024, 64),
        ("PRXPixelPipeline", {"transformer": {"patch_size": 16}}, 1024, 16),
        ("ZImagePipeline", {"vae": {"block_out_channels": [1] * 4}}, 1024, 16),
        ("Krea2Pipeline", {"vae": {"temperal_downsample": [0, 1, 1]}}, 1024, 16),
        ("ErnieImagePipeline", {"vae": {"block_out_channels": [1] * 4}}, 1024, 16),
    ],
)
def test_sizes_are_read_from_the_pipelines_own_source(
    name: str, settings: dict[str, Any], size: int, multiple: int
) -> None:
    code = PipelineCode(name, {}, settings)
    assert (code.own_side("width"), code.multiple()) == (size, multiple)


def test_some_pipelines_say_which_sizes_they_draw() -> None:
    vae = {"vae": {"block_out_channels": [1] * 4}}
    assert PipelineCode("HiDreamImagePipeline", {}, vae).kept_pixels() == 1024**2
    assert [1408, 640] in PipelineCode("Kandinsky5T2IPipeline", {}, vae).resolutions()


@pytest.mark.parametrize(
    ("base", "refused"),
    [
        ("ZImagePipeline", "DPMSolverMultistepScheduler"),
        ("CogView4Pipeline", "SASolverScheduler"),
        ("ErnieImagePipeline", "UniPCMultistepScheduler"),
        ("BriaPipeline", "FlowMatchLCMScheduler"),
        ("Kandinsky3Pipeline", "HeunDiscreteScheduler"),
        ("SanaSprintPipeline", "EulerDiscreteScheduler"),
    ],
)
def test_a_scheduler_that_lacks_what_the_pipeline_asks_of_it_is_refused(
    base: str, refused: str, family: Callable[[str], Family]
) -> None:
    flows = base not in ("Kandinsky3Pipeline", "SanaSprintPipeline")
    known = family("StableDiffusion3Pipeline" if flows else "StableDiffusionPipeline").model
    assert refused in fitting_schedulers(known)
    assert refused not in fitting_schedulers(replace(known, pipeline_class=base))
