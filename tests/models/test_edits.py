"""Instruction editing with real pipelines: the image decides, the seed decides, mates do not show, the size is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from tests.models.edits import EDITS, build_edit
from tests.models.test_images import sample

SETTINGS = Generation(num_inference_steps=2, guidance_scale=3.0, width=64, height=64)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def editor(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> Callable[[str], DiffusersGenerator]:
    root = tmp_path_factory.mktemp("edits")

    # They bring every image to a million pixels, which takes the tiny autoencoder 20 s an image.
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        whole = module.calculate_dimensions
        small = partial(lambda area, ratio, whole: whole(area / 256, ratio), whole=whole)
        monkeypatch_module.setattr(module, "calculate_dimensions", small)

    @cache
    def load(name: str) -> DiffusersGenerator:
        loaded = load_generator(resolve_model(Model(path=str(build_edit(name, root / name))), "model"), threads=1)
        assert isinstance(loaded, DiffusersGenerator)
        return loaded

    return load


def pixels(made_by: DiffusersGenerator, samples: list[Sample], settings: Generation = SETTINGS) -> np.ndarray:
    made = made_by.generate(samples, settings, lambda: None)
    assert [each.error for each in made] == [None] * len(samples)
    return np.stack([each.pixels for each in made]).astype(int)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_of_its_own_image_and_seed(name: str, editor: Callable[[str], DiffusersGenerator]) -> None:
    made_by = editor(name)
    prompts = ["a red circle", "a blue square on the left of a green star", "a star", "a red circle"]
    asked = [replace(sample(n, "image"), prompt=text, strength=None) for n, text in enumerate(prompts)]
    batch = pixels(made_by, asked)
    assert batch.shape == (4, 64, 64, 3)
    alone = np.concatenate([pixels(made_by, [asked[n]]) for n in (1, 3)])
    assert np.abs(batch[[1, 3]] - alone).max() <= 1
    changed = ({"seed": 99}, {"inputs": asked[1].inputs}, {"prompt": "a star"})
    others = [replace(asked[0], sample_id=f"other{i}", **each) for i, each in enumerate(changed)]
    changes = [np.abs(each - batch[0]).max() for each in pixels(made_by, others)]
    assert min(changes) > 1, f"of 255, by seed, image and prompt: {changes}"
