"""Strengths that leave nothing of the image are said before a job begins: flows begin such a way with noise alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline
from PIL import Image

from promptmill.pipeline.planning.notices import from_noise
from promptmill.pipeline.planning.photo_sizes import own_sizes, too_large
from promptmill.schemas.job import Job
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.resolved import ResolvedModel

JOB = {
    "name": "x",
    "prompts": {"source": "x.jsonl", "columns": {"image": "image"}},
    "model": {"path": "m"},
    "output": {"url": "out"},
}


def model(name: str, scheduler: str) -> ResolvedModel:
    return ResolvedModel("m", "m", "r", "float32", f"{name}Pipeline", scheduler, 64, 64, 8, None, 1, True)


def notices(
    name: str,
    generation: dict[str, Any],
    largest: float | None = None,
    scheduler: str = "FlowMatchEulerDiscreteScheduler",
) -> list[str]:
    job = Job.model_validate({**JOB, "generation": generation})
    return list(from_noise(job, [model(name, scheduler)], largest))


@pytest.mark.parametrize(
    ("steps", "strength", "said"),
    [
        (4, 0.8, "strength 0.8 of 4 steps begins with noise alone in FluxImg2ImgPipeline: the image keeps nothing"),
        (4, 0.75, None),
        (4, 1.0, None),  # what was asked for
        (10, 0.9, None),
        (9, 0.9, "take at most 0.889, or 10 steps"),
        (1, None, "strength 0.6 of 1 steps begins with noise alone"),
        (1, 0.5, "take at least 2 steps"),
    ],
)
def test_a_flow_with_few_steps_and_a_high_strength_begins_with_noise_alone(
    steps: int, strength: float | None, said: str | None
) -> None:
    found = notices("Flux", {"num_inference_steps": steps, "strength": strength})
    assert (said is None) == (not found)
    assert said is None or said in found[0]
    if strength is not None:  # as diffusers does
        pipe = FluxImg2ImgPipeline.__new__(FluxImg2ImgPipeline)
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(steps)
        object.__setattr__(pipe, "_internal_dict", {})
        object.__setattr__(pipe, "scheduler", scheduler)
        timesteps, _ = pipe.get_timesteps(steps, strength, torch.device("cpu"))
        noise_alone = bool(timesteps[0] == scheduler.config.num_train_timesteps)
        assert noise_alone == (bool(found) or strength == 1.0)


def test_of_rows_the_largest_counts_and_other_models_begin_with_the_image() -> None:
    assert notices("StableDiffusion3", {"num_inference_steps": 4, "strength": 0.5}, largest=0.9)
    assert not notices("StableDiffusion", {"num_inference_steps": 4, "strength": 0.9}, scheduler="DDIMScheduler")
    assert not notices("StableDiffusion3", {"num_inference_steps": 4, "strength": 0.5})


def test_a_folder_of_photos_in_their_own_size_is_told(tmp_path: Path) -> None:
    """Each was drawn in 12 megapixels, or failed by itself, after the model was loaded."""
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    files = [SourceFile("a.jpg", str(tmp_path / "a.jpg"), 1, 1)]

    def said(**generation: Any) -> list[str]:
        job = Job.model_validate({**JOB, "generation": generation})
        return list(own_sizes(job, [model("StableDiffusion", "DDIMScheduler")], files))

    assert said() == [
        "images are drawn in their own size: a.jpg is 640×480, and m was made for 64×64; generation.fit: cover brings "
        "all to that size"
    ]
    assert not said(fit="cover") and not said(width=64)
    Image.new("RGB", (120, 100)).save(tmp_path / "a.jpg")
    assert not said()
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert not said()


def test_a_folder_of_photos_that_are_all_too_large_is_refused(tmp_path: Path) -> None:
    """240 of 240 images failed with that, after the model was loaded: found by a newcomer's trial."""
    files = []
    for number in range(12):
        Image.new("RGB", (160, 150)).save(tmp_path / f"{number:02d}.png")
        files.append(SourceFile(f"{number:02d}.png", str(tmp_path / f"{number:02d}.png"), 1, 1))
    own = replace(model("StableDiffusion", "DDIMScheduler"), max_size=128)

    def said(**generation: Any) -> list[str]:
        return [str(each) for each in too_large(Job.model_validate({**JOB, "generation": generation}), [own], files)]

    (refused,) = said()
    assert "generation.fit: expected cover, contain or stretch" in refused
    assert "00.png is 160×150, and 7 more" in refused
    assert not said(fit="contain") and not said(height=64)
    Image.new("RGB", (128, 64)).save(tmp_path / "00.png")  # one can be drawn: the others fail by themselves
    assert not said()
