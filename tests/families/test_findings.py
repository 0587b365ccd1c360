"""What tiny pipelines of every class brought to light: what did not run, load or fit, each as it was found."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from promptmill.pipeline.models.catalog.resolve import memory_needed_bytes, resolve_model
from promptmill.pipeline.models.catalog.schedulers import fitting_schedulers
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.pipeline.models.diffusion.prompt_encoder import token_limits
from promptmill.pipeline.models.diffusion.scheduler import build_scheduler
from promptmill.pipeline.models.load import load_generator
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from tests.families.builders import BUILDERS, build, wake
from tests.families.conftest import Posing
from tests.families.promises import (
    Family,
    guidance_acts_or_is_refused,
    mates_do_not_show,
    negative_prompt_acts_or_is_flagged,
    sample,
    truncation_is_flagged,
)

Families = Callable[[str], Family]


@pytest.mark.parametrize(
    "name", ["Flux2Pipeline", "Kandinsky5T2IPipeline", "HunyuanImagePipeline", "Ideogram4Pipeline", "KolorsPipeline"]
)
def test_families_that_did_not_run_do(name: str, family: Families) -> None:
    """A processor in a tokenizer's place, or a tokenizer that has one; an answer without `.sample`, or in `image`; a
    guider's settings; two settings of guidance at once."""
    assert family(name).pixels(sample(1)).shape[0] == 1


def test_a_distilled_models_own_scale_is_set_and_its_negative_prompt_flagged(family: Families) -> None:
    """HunyuanImage calls it `distilled_guidance_scale`: it stayed 3.25 whatever the job said."""
    guidance_acts_or_is_refused(family("HunyuanImagePipeline distilled"))
    negative_prompt_acts_or_is_flagged(family("HunyuanImagePipeline distilled"))


@pytest.mark.parametrize("name", ["LDMTextToImagePipeline", "NucleusMoEImagePipeline", "PRXPixelPipeline"])
def test_cut_prompts_are_flagged_where_no_tokenizer_says_so(name: str, family: Families) -> None:
    """An encoder called `bert`, a processor alone, a length in model_index.json."""
    truncation_is_flagged(family(name))


@pytest.mark.parametrize("name", ["CogView4Pipeline", "QwenImage21Pipeline"])
def test_prompts_of_other_lengths_do_not_show(name: str, family: Families) -> None:
    """They pad to the longest prompt of a batch without a mask: 19 of 255."""
    mates_do_not_show(family(name))


def test_memory_is_that_of_the_jobs_own_size(posing: Posing) -> None:
    """Qwen-Image 2.1 asked for 24.9 GiB to draw 64 × 64."""
    model = posing("QwenImage21Pipeline")
    assert memory_needed_bytes(model, 64 * 64) < memory_needed_bytes(model) - 2**30


def test_a_text_encoder_that_diffusers_adds_to_transformers_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PRX adds it when it is imported; transformers then puts a copy of itself in its place, which lacks it."""
    folder = build("PRXPipeline", tmp_path / "prx")
    assert json.loads((folder / "model_index.json").read_text())["text_encoder"][0] == "transformers"
    monkeypatch.delattr(importlib.import_module("transformers"), "T5GemmaEncoder", raising=False)
    load_generator(resolve_model(Model(path=str(folder)), "model"), threads=1)


def test_a_part_saved_under_a_name_that_diffusers_does_not_find_again_is_refused(tmp_path: Path) -> None:
    """PRX saved again by diffusers: planned, and refused by each worker."""
    folder = tmp_path / "prx"
    diffusers.PRXPipeline(**BUILDERS["PRXPipeline"]()).save_pretrained(folder)
    with pytest.raises(JobError, match=r"text_encoder from the installed diffusers, got diffusers\.T5GemmaEncoder"):
        resolve_model(Model(path=str(folder)), "model")


def test_a_guided_batch_is_drawn_in_one_call(family: Families) -> None:
    """PRX gives its transformer two times whatever the batch: a batch of two raised."""
    made_by, sizes = family("PRXPipeline"), list[int]()
    handle = made_by.denoiser.register_forward_hook(
        lambda module, args, given, made: sizes.append(len(given["hidden_states"])), with_kwargs=True
    )
    try:
        made_by.pixels(sample(1), sample(2))
    finally:
        handle.remove()
    assert sizes == [4, 4]
    mates_do_not_show(made_by)


def test_what_a_pipeline_needs_and_is_not_installed_is_said_at_once(posing: Posing) -> None:
    """Cosmos 2 said so when the run had begun."""
    with pytest.raises(JobError, match=r"cosmos_guardrail.*\n?.*pip install cosmos_guardrail"):
        posing("Cosmos2TextToImagePipeline")


def test_one_step_needs_a_scheduler_that_estimates_the_image(posing: Posing) -> None:
    """PixArt-α takes the estimate of a single step: `tuple index out of range` for every sample."""
    model = replace(posing("PixArtAlphaPipeline"), scheduler="DPMSolverMultistepScheduler")
    with pytest.raises(JobError, match="at least 2 steps with DPMSolverMultistepScheduler"):
        check_steps(None, 1, model, "generation.num_inference_steps")
    check_steps("ddim", 1, model, "generation.num_inference_steps")
    check_steps(None, 2, model, "generation.num_inference_steps")


def test_a_scheduler_that_stops_at_mu_is_refused(posing: Posing) -> None:
    """HiDream gives it to all but UniPC."""
    offered = fitting_schedulers(posing("HiDreamImagePipeline"))
    assert "UniPCMultistepScheduler" in offered and "FlowMatchEulerDiscreteScheduler" in offered
    assert not offered & {"DPMSolverMultistepScheduler", "FlowMatchHeunDiscreteScheduler", "SASolverScheduler"}


def test_a_learned_variance_stays_with_schedulers_that_draw_it() -> None:
    """SA-Solver drew its noise in the shape of noise and variance: 3 channels against 6."""
    own = diffusers.DDPMScheduler(variance_type="learned_range")
    assert build_scheduler(own, "sa", lambda: None).config.variance_type is None
    assert build_scheduler(own, "DDPMParallelScheduler", lambda: None).config.variance_type == "learned_range"


def test_a_tokenizer_that_has_one_is_asked_itself() -> None:
    """ChatGLM's, of Kolors, keeps what splits words for it under `tokenizer`: no model of it loaded."""
    tokenizer = SimpleNamespace(tokenizer=object(), model_max_length=12)
    encoder = SimpleNamespace(config=SimpleNamespace(model_type="chatglm"))
    parts: dict[str, Any] = {"tokenizer": tokenizer, "text_encoder": encoder}

    class Pipe(SimpleNamespace):
        def __call__(self) -> None: ...

    assert token_limits(Pipe(components=parts, config={}, **parts)) == [("text_encoder", tokenizer, 12)]


def test_gates_are_opened_in_tiny_models() -> None:
    """Otherwise nothing of a prompt would pass them, and no promise could be broken."""
    gate = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(gate.weight)
    wake(gate)
    assert gate.weight.any()
