"""Strengths that leave nothing of the image are said before a job begins: flows begin such a way with noise alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline

from promptmill.pipeline.planning.notices import from_noise
from promptmill.schemas.job import Job
from promptmill.schemas.plan import ResolvedModel


def model(name: str, scheduler: str) -> ResolvedModel:
    return ResolvedModel("m", "m", "r", "float32", f"{name}Pipeline", scheduler, 64, 64, 8, None, 1, True)


def notices(
    name: str,
    generation: dict[str, Any],
    largest: float | None = None,
    scheduler: str = "FlowMatchEulerDiscreteScheduler",
) -> list[str]:
    job = Job.model_validate(
        {
            "name": "x",
            "prompts": {"source": "x.jsonl", "columns": {"image": "image"}},
            "model": {"path": "m"},
            "generation": generation,
            "output": {"url": "out"},
        }
    )
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
