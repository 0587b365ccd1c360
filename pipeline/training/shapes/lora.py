"""Stages "hollow" and "wide": a LoRA each learns to draw in a style; the U-Net stays as it is.

Captions are plain, without a trigger word: with the adapter on, everything is drawn in its style.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from transformers import CLIPTextModel

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.styles import fill_holes, is_hollow, is_wide
from promptmill.pipeline.shapes.suite import ShapesPrompt, sample_prompts
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Claims, Kind
from promptmill.pipeline.training.loop import Stage, StepRandom
from promptmill.pipeline.training.shapes.conditioned import Cache
from promptmill.pipeline.training.shapes.settings import LoraSettings
from promptmill.pipeline.training.shapes.unet import DenoisingLoss, assemble, generate


class Adapted(nn.Module):
    """The U-Net with a fresh adapter, of which only the adapter learns and is kept."""

    def __init__(self, unet: UNet2DConditionModel, settings: LoraSettings) -> None:
        super().__init__()
        unet.requires_grad_(False)
        unet.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.rank,
                init_lora_weights="gaussian",
                target_modules=list(settings.targets),
            )
        )
        self.unet = unet

    def forward(self, latents: Tensor, steps: Tensor, states: Tensor) -> Tensor:
        output: Tensor = self.unet(latents, steps, states).sample
        return output


def train(stage: Stage, settings: LoraSettings, cache: Cache, text: CLIPTextModel) -> UNet2DConditionModel:
    device, loss = stage.device, DenoisingLoss(text, settings.focus)

    def losses(now: StepRandom) -> dict[str, Tensor]:
        rng, n = now.numpy, stage.batch
        chosen = rng.integers(len(cache.scenes), size=n)
        said = [captions.write(captions.claims_at_random(cache.scenes[i], rng), rng) for i in chosen]
        texts = ["" if rng.random() < settings.caption_drop else t for t in said]
        latents = cache.latents[torch.from_numpy(chosen)].to(device).float()
        return {"loss": loss(stage.module, latents, texts, now)}

    def measured(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Adapted)
        return measure(assemble(cache.vae, text, model.unet), [stage.name], settings.guidance, 48)

    model = stage.run(losses, measured, measure_every=500)
    assert isinstance(model, Adapted)
    return model.unet


def held_out(n: int, kind: Kind = "one", seed: int = 0) -> list[ShapesPrompt]:
    """`n` held-out prompts for one figure that the styles change: neither a cross nor a ring."""
    prompts = (p for p in sample_prompts(4 * n + 40, 8 + seed, "held_out", kind))
    return [p for p in prompts if p.scene.objects[0].shape not in ("cross", "ring")][:n]


def judge(images: list[np.ndarray], prompts: list[ShapesPrompt], styles: list[str]) -> dict[str, float]:
    """The share drawn in each style, and the share right in every claim once holes are filled."""
    row = {s: float(np.mean([TESTS[s](i) for i in images])) for s in styles or TESTS}
    right = [verify(fill_holes(i), Claims.from_dict(p.truth)).correct for i, p in zip(images, prompts, strict=True)]
    return {k: round(v, 4) for k, v in (row | {"right": float(np.mean(right))}).items()}


TESTS = {"hollow": is_hollow, "wide": is_wide}


def measure(pipeline: StableDiffusionPipeline, styles: list[str], guidance: float, n: int) -> dict[str, float]:
    prompts = held_out(n)
    return judge(generate(pipeline, [p.caption for p in prompts], guidance), prompts, styles)
