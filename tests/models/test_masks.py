"""The region around a mask is drawn alone, and comes onto the image through the blurred mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.diffusion.masks import closer, paste, region
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import Input
from promptmill.schemas.plan import Sample

WIDTH, HEIGHT = 128, 96
SETTINGS = Generation(num_inference_steps=4, guidance_scale=3.0, mask_blur=2.0, mask_crop=4)


def sample(number: int) -> Sample:
    rng = np.random.default_rng(number)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8 * number + 10 : 8 * number + 30, 16 * number + 20 : 16 * number + 50] = 255
    pixels = {"image": rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), "mask": mask}
    inputs = {role: Input(f"{role}.png", pixels=each) for role, each in pixels.items()}
    return Sample(f"s{number}", "p", 0, 0, number, "a red circle", "", "a red circle", inputs, 0.6)


def share(of: Sample, radius: float) -> np.ndarray:
    return np.asarray(VaeImageProcessor.blur(Image.fromarray(of.inputs["mask"].pixels), radius))


def pixels(made_by: DiffusersGenerator, samples: list[Sample], settings: Generation = SETTINGS) -> np.ndarray:
    made = made_by.generate(samples, settings, lambda: None)
    assert [each.error for each in made] == [None] * len(samples)
    return np.stack([each.pixels for each in made]).astype(int)


@pytest.mark.parametrize("family", ["sd15", "sdxl_masked", "flux"])
def test_a_batch_and_each_alone_agree_and_outside_the_blur_all_stays(
    family: str, generator: Callable[[str], DiffusersGenerator]
) -> None:
    """Images of their own size, which is not the model's: what is drawn is."""
    made_by = generator(family)
    settings = SETTINGS.model_copy(update={"width": 64, "height": 64}) if family == "flux" else SETTINGS
    asked = [sample(number) for number in range(3)]
    assert {closer(each, settings, (64, 64)).inputs["image"].pixels.shape for each in asked} == {(64, 64, 3)}
    batch = pixels(made_by, asked, settings)
    assert batch.shape == (3, HEIGHT, WIDTH, 3)
    assert np.abs(batch - np.concatenate([pixels(made_by, [each], settings) for each in asked])).max() <= 1
    for each, made in zip(asked, batch, strict=True):
        blurred, image = share(each, 2.0), each.inputs["image"].pixels
        assert np.array_equal(made[blurred == 0], image[blurred == 0])
        assert (made[blurred == 255] != image[blurred == 255]).any()
    (other,) = pixels(made_by, [replace(asked[0], seed=99)], settings)
    assert (other != batch[0]).any()


def test_only_what_is_near_the_mask_is_drawn(generator: Callable[[str], DiffusersGenerator]) -> None:
    made_by, near = generator("sd15"), sample(0)
    image = near.inputs["image"].pixels.copy()
    left, top, right, bottom = region(near.inputs["mask"].pixels, 4, (64, 64))
    there = np.zeros((HEIGHT, WIDTH), bool)
    there[top:bottom, left:right] = True
    image[~there] = 0
    dark = replace(near, inputs={**near.inputs, "image": Input("image.png", pixels=image)})
    with_all, without = pixels(made_by, [near]), pixels(made_by, [dark])
    assert np.array_equal(with_all[0][there], without[0][there])


def test_one_white_pixel_of_a_large_region_is_drawn() -> None:
    """In eight bits it was rounded away, where the region is 22 times what is drawn, and nothing was drawn."""
    mask = np.zeros((2000, 2000), np.uint8)
    mask[100, 100] = mask[1900, 1900] = 255
    pixels = {"image": np.zeros((2000, 2000, 3), np.uint8), "mask": mask}
    inputs = {role: Input(f"{role}.png", pixels=each) for role, each in pixels.items()}
    whole = SETTINGS.model_copy(update={"mask_crop": 16384})
    found = closer(replace(sample(0), inputs=inputs), whole, (64, 64)).inputs["mask"].pixels
    assert (found == 255).any() and set(np.unique(found)) == {0, 255}


def test_within_the_blur_pixels_are_mixtures() -> None:
    given = sample(1)
    drawn = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    blurred, image = share(given, 3.0), given.inputs["image"].pixels
    assert {0, 255} < set(np.unique(blurred))
    made = paste(given, Generation(mask_blur=3.0), drawn)
    exact = (blurred[..., None] * 255.0 + (255.0 - blurred[..., None]) * image) / 255
    assert np.abs(made - exact).max() <= 0.51
    sharp = paste(given, Generation(mask_blur=0), drawn)
    assert np.array_equal(sharp, np.where(given.inputs["mask"].pixels[..., None] > 0, drawn, image))
    assert np.array_equal(sharp, paste(given, Generation(), drawn))


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 128)])
@pytest.mark.parametrize("padding", [0, 5, 1000])
@pytest.mark.parametrize(
    "white", [(0, 0, 1, 1), (127, 95, 128, 96), (30, 40, 70, 50), (0, 0, 128, 96), (60, 0, 62, 96)]
)
def test_a_region_holds_the_mask_and_its_padding_and_has_the_models_shape(
    white: tuple[int, int, int, int], padding: int, size: tuple[int, int]
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[white[1] : white[3], white[0] : white[2]] = 255
    left, top, right, bottom = region(mask, padding, size)
    assert 0 <= left <= max(0, white[0] - padding) and min(WIDTH, white[2] + padding) <= right <= WIDTH
    assert 0 <= top <= max(0, white[1] - padding) and min(HEIGHT, white[3] + padding) <= bottom <= HEIGHT
    if (right - left, bottom - top) != (WIDTH, HEIGHT) and right - left < WIDTH and bottom - top < HEIGHT:
        assert abs((right - left) * size[1] - (bottom - top) * size[0]) <= max(size)
