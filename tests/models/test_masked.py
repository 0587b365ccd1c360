"""U-Nets of 9 channels, which are given the mask: drawn with diffusers' own class, and for nothing but inpainting."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.controls import resolve_control
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.tasks import check_task
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.additions import ControlNet
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.resolved import ResolvedModel
from tests.models import tiny
from tests.models.controls import build_control
from tests.models.test_images import batch_as_alone, pixels, sample

OWN = {"sd15_masked": "StableDiffusionInpaintPipeline", "sdxl_masked": "StableDiffusionXLInpaintPipeline"}
WHERE = "prompts.columns.image"


def resolved(folder: Path) -> ResolvedModel:
    return resolve_model(Model(path=str(folder)), "model")


@pytest.mark.parametrize("family", OWN)
def test_a_batch_and_each_alone_agree_and_what_is_black_stays(
    family: str, generator: Callable[[str], DiffusersGenerator]
) -> None:
    made_by = generator(family)
    assert made_by.pipeline_class == OWN[family] and made_by._pipe.unet.config.in_channels == 9
    asked = [sample(number, "image", "mask") for number in range(4)]
    batch = batch_as_alone(made_by, asked)
    image = {**asked[0].inputs, "image": asked[1].inputs["image"]}
    changed = ({"seed": 99}, {"prompt": "a blue star"}, {"inputs": image})
    for number, each in enumerate(changed):
        (other,) = pixels(made_by, [replace(asked[0], sample_id=f"o{number}", **each)])
        white = asked[0].inputs["mask"].pixels >= 128
        assert (other[white] != batch[0][white]).any(), each.keys()


def test_the_channels_say_what_a_folder_is_and_not_the_class_that_it_is_saved_as(
    folder: Callable[[str], Path], tmp_path: Path, generator: Callable[[str], DiffusersGenerator]
) -> None:
    """A U-Net of 9 channels below `StableDiffusionPipeline` passed, and each of its images failed."""
    nine = shutil.copytree(folder("sd15_masked"), tmp_path / "nine")
    plain = resolved(tiny.saved_as("StableDiffusionPipeline", nine))
    assert plain.pipeline_class == "StableDiffusionInpaintPipeline"
    assert (plain.width, plain.height, plain.size_multiple) == (64, 64, 8)
    made_by = DiffusersGenerator(plain)
    asked = [sample(1, "image", "mask")]
    assert np.array_equal(pixels(made_by, asked), pixels(generator("sd15_masked"), asked))
    four = tiny.saved_as("StableDiffusionInpaintPipeline", shutil.copytree(folder("sd15"), tmp_path / "four"))
    assert resolved(four).pipeline_class == "StableDiffusionPipeline"
    made = pixels(DiffusersGenerator(resolved(four)), [sample(1)])
    assert np.array_equal(made, pixels(generator("sd15"), [sample(1)]))


@pytest.mark.parametrize("family", OWN)
@pytest.mark.parametrize(
    ("task", "asked"),
    [("text-to-image", None), ("image-to-image", None), ("image-to-image", "inpainting"), ("inpainting", "edit")],
)
def test_other_tasks_are_refused_with_what_it_does(
    family: str, task: TaskName, asked: TaskName | None, folder: Callable[[str], Path]
) -> None:
    with pytest.raises(JobError) as refused:
        check_task(resolved(folder(family)), task, asked, WHERE)
    assert OWN[family] in str(refused.value) or "prompts.columns.mask" in str(refused.value)
    if asked is None:
        assert "inpainting alone" in str(refused.value) and "prompts.columns.mask" in str(refused.value)
    check_task(resolved(folder(family)), "inpainting", None, WHERE)


@pytest.mark.parametrize("task", ["text-to-image", "image-to-image", "inpainting"])
def test_a_u_net_that_is_given_something_else_is_refused_before_it_is_loaded(task: TaskName, tmp_path: Path) -> None:
    depth = resolved(tiny.build_sd15(tmp_path / "five", unet=tiny.unet(in_channels=5)))
    with pytest.raises(JobError, match="a U-Net of 4 channels .* or of 9 for masks, got 5"):
        check_task(depth, task, None, WHERE)


def test_a_control_net_is_refused_beside_a_mask_where_the_class_would_not_see_the_image(tmp_path: Path) -> None:
    """Diffusers maps one to Stable Diffusion 3, which takes no image: validate passed, runs failed."""
    base = tiny.build_sd3(tmp_path / "sd3", channels=16)
    net = ControlNet(name="edges", path=str(build_control(base, tmp_path / "net")))
    with pytest.raises(JobError, match="inpainting with ControlNets, .* These do: FluxPipeline, StableDiffusion"):
        resolve_control(net, resolved(base), "inpainting", False, "model.controlnets[0]")
    assert resolve_control(net, resolved(base), "text-to-image", False, "model.controlnets[0]").name == "edges"


@pytest.mark.parametrize("family", OWN)
def test_a_control_net_is_refused_for_a_u_net_that_is_given_the_mask(
    family: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    net = ControlNet(name="edges", path=str(tmp_path))
    with pytest.raises(JobError, match="inpainting with ControlNets"):
        resolve_control(net, resolved(folder(family)), "inpainting", False, "model.controlnets[0]")
