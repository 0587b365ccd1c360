"""Drawing from images with real pipelines of several families: an image does not depend on its mates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.tasks import blends, class_for, steps_made
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import Sample

SETTINGS = Generation(num_inference_steps=4, guidance_scale=3.0, width=64, height=64)


def sample(number: int, *roles: Role, side: int = 64) -> Sample:
    rng = np.random.default_rng(number)
    mask = np.zeros((side, side), np.uint8)
    mask[8 * number : 8 * number + 24, 16:40] = 255
    pixels = {"image": rng.integers(0, 255, (side, side, 3), dtype=np.uint8), "mask": mask}
    inputs = {role: Input(f"{role}.png", pixels=pixels[role]) for role in roles}
    return Sample(f"s{number}", "p", 0, 0, number, "a red circle", "", "a red circle", inputs, 0.6)


def pixels(made_by: DiffusersGenerator, samples: list[Sample]) -> np.ndarray:
    made = made_by.generate(samples, SETTINGS, lambda: None)
    assert [each.error for each in made] == [None] * len(samples)
    return np.stack([each.pixels for each in made]).astype(int)


def batch_as_alone(made_by: DiffusersGenerator, asked: list[Sample]) -> np.ndarray:
    """The batch, which is held to what each is alone; what masks leave black is held to the images."""
    batch = pixels(made_by, asked)
    alone = np.concatenate([pixels(made_by, [each]) for each in asked])
    assert np.abs(batch - alone).max() <= 1
    for each, made in zip(asked, batch, strict=True):
        if "mask" in each.inputs:
            black = each.inputs["mask"].pixels < 128
            assert np.array_equal(made[black], each.inputs["image"].pixels[black])
    return batch


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux", "lcm", "sd3"])
def test_a_batch_and_each_alone_agree_and_seeds_differ(
    family: str, generator: Callable[[str], DiffusersGenerator]
) -> None:
    made_by = generator(family)
    asked = [sample(number, "image") for number in range(4)]
    batch = batch_as_alone(made_by, asked)
    again = pixels(made_by, [replace(asked[0], seed=99)])
    assert np.abs(again[0] - batch[0]).max() > 1


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux"])
def test_inpainting_in_batches_keeps_what_is_black(family: str, generator: Callable[[str], DiffusersGenerator]) -> None:
    made_by = generator(family)
    asked = [sample(number, "image", "mask") for number in range(3)]
    batch_as_alone(made_by, asked)


def test_weights_are_shared_and_text_to_image_stays_as_it_was(
    generator: Callable[[str], DiffusersGenerator],
) -> None:
    made_by = generator("sd15")
    before = pixels(made_by, [sample(1)])
    pixels(made_by, [sample(1, "image")])
    other = made_by._siblings["image-to-image", False]
    assert other.unet is made_by._pipe.unet and other.vae is made_by._pipe.vae
    assert np.array_equal(pixels(made_by, [sample(1)]), before)


def test_sizes_and_strengths_go_apart(generator: Callable[[str], DiffusersGenerator]) -> None:
    made_by = generator("sd15")
    asked = [sample(1, "image"), sample(2, "image", side=32), replace(sample(3, "image"), strength=1.0)]
    made = made_by.generate(asked, SETTINGS.model_copy(update={"width": None, "height": None}), lambda: None)
    assert [each.pixels.shape[0] for each in made if each.pixels is not None] == [64, 32, 64]


def test_what_diffusers_offers_is_read_from_its_source() -> None:
    assert class_for("image-to-image", "StableDiffusionPipeline") == "StableDiffusionImg2ImgPipeline"
    assert class_for("inpainting", "FluxPipeline") == "FluxInpaintPipeline"
    assert class_for("image-to-image", "Flux2Pipeline") is None  # takes references, no strength
    assert class_for("image-to-image", "PixArtSigmaPipeline") is None
    assert blends("StableDiffusionXLPipeline") and not blends("FluxPipeline")
    assert steps_made("image-to-image", "StableDiffusionPipeline", 4, 0.2) == 0
    assert steps_made("image-to-image", "FluxPipeline", 4, 0.2) == 1
