"""Settings that a model leaves without effect, or that it has of its own, are refused before anything is loaded."""

from __future__ import annotations

import inspect

import diffusers
import pytest

from promptmill.pipeline.models.catalog.guidance import check_guidance, scale_acts
from promptmill.pipeline.models.catalog.sizes import check_size
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.pipeline.models.diffusion.calls import told
from promptmill.schemas.errors import JobError
from tests.families.conftest import Posing


def test_a_scale_without_effect_is_refused(posing: Posing) -> None:
    schnell = posing("FluxPipeline")
    with pytest.raises(JobError, match="or give a negative prompt"):
        check_guidance(schnell, negative=False, where="sweep.guidance_scale")
    check_guidance(schnell, negative=True, where="sweep.guidance_scale")
    assert not scale_acts(posing("Flux2KleinPipeline", is_distilled=True), negative=True)
    assert scale_acts(posing("Flux2KleinPipeline", is_distilled=False), negative=False)


def test_steps_of_a_models_own_are_the_only_ones(posing: Posing) -> None:
    model = posing("QwenImagePipeline", sample_sigmas=[1.0, 0.8, 0.5, 0.2])
    check_steps(None, 4, model, "generation.num_inference_steps")
    with pytest.raises(JobError, match="4 steps"):
        check_steps(None, 20, model, "generation.num_inference_steps")


def test_sizes_that_would_become_others_are_refused(posing: Posing) -> None:
    hidream = posing("HiDreamImagePipeline")
    check_size(None, None, hidream, "generation")
    check_size(1024, 1024, hidream, "generation")
    with pytest.raises(JobError, match="It would draw 1024 × 1024"):
        check_size(64, 64, hidream, "generation")
    kandinsky = posing("Kandinsky5T2IPipeline")
    check_size(1408, 640, kandinsky, "generation")
    with pytest.raises(JobError, match="640 × 1408"):
        check_size(640, 640, kandinsky, "generation")


def test_no_prompt_is_rewritten_in_any_class() -> None:
    """ERNIE-Image and LongCat-Image do so by default, and record neither text."""
    switched = {
        name: {key: value for key, value in told(pipe, 20).items() if key not in ("output_type", "clean_caption")}
        for name in ("ErnieImagePipeline", "LongCatImagePipeline", "Ideogram4Pipeline", "SanaSprintPipeline")
        if (pipe := object.__new__(getattr(diffusers, name)))
    }
    assert switched["ErnieImagePipeline"] == {"use_pe": False}
    assert switched["LongCatImagePipeline"] == {"enable_prompt_rewrite": False}
    assert switched["Ideogram4Pipeline"] == {"guidance_schedule": None}
    assert switched["SanaSprintPipeline"]["intermediate_timesteps"] is None
    assert "guidance_schedule" in inspect.signature(diffusers.Ideogram4Pipeline.__call__).parameters
