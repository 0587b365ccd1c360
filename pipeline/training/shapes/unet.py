"""Stage "unet": a U-Net with cross-attention learns to predict v (Salimans & Ho 2022, appendix D) on cached latents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.render import render_batch
from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import SIZE_PX, Kind, Scene, sample_scene
from promptmill.pipeline.training.loop import Stage, StepRandom, autocast
from promptmill.pipeline.training.shapes.settings import TextSettings, UnetSettings, VaeSettings
from promptmill.pipeline.training.shapes.text import shared_tokenizer, tokenize
from promptmill.pipeline.training.shapes.vae import to_tensor


def build(settings: UnetSettings, vae: VaeSettings, text: TextSettings) -> UNet2DConditionModel:
    model = UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        in_channels=vae.latent_channels,
        out_channels=vae.latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention)),
        block_out_channels=settings.channels,
        layers_per_block=settings.layers,
        cross_attention_dim=text.hidden,
        attention_head_dim=settings.heads,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )
    # The fused attention's backward pass took a third of a step on a CPU; loading brings the fused one back.
    model.set_attn_processor(AttnProcessor())
    return model


def build_scheduler() -> DPMSolverMultistepScheduler:
    """DDPM's linear betas end at a signal share of 0.6 %, so that flat grounds need no rescaling to zero.

    Of 800 held-out prompts for one object the second-order solver got 98 % right in 20 steps, DDIM 97 %.
    """
    schedule = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "steps_offset": 1,  # without effect under trailing spacing; other values bring a warning
    }
    for_others = {"clip_sample": False, "set_alpha_to_one": True}  # read by those made from this one's configuration
    scheduler: DPMSolverMultistepScheduler = DPMSolverMultistepScheduler.from_config(schedule | for_others)
    return scheduler


def assemble(vae: AutoencoderKL, text: CLIPTextModel, unet: nn.Module) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=shared_tokenizer(),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Cache:
    """Scenes of the training split and the means of their latents, bfloat16 [n, channels, 8, 8]."""

    scenes: list[Scene]
    latents: Tensor


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, settings: UnetSettings, seed: int, folder: Path, device: torch.device) -> Cache:
    """Encoded once and kept in `folder`, under a name that changes with the VAE's weights and the settings."""
    rng = np.random.default_rng([seed, 99])
    pairs = rng.random(settings.cached) < settings.pair_share
    scenes = [sample_scene(rng, "train", 2 if pair else 1) for pair in pairs]
    weights = vae.quant_conv.weight.detach().cpu().numpy().tobytes()
    name = hashlib.blake2b(weights + repr((seed, settings.cached, settings.pair_share)).encode(), digest_size=6)
    path = folder / f"latents-{name.hexdigest()}.pt"
    if not path.exists():
        parts = []
        for start in range(0, len(scenes), 64):
            images = to_tensor(render_batch(scenes[start : start + 64])).to(device)
            with autocast(device):
                parts.append(vae.encode(images).latent_dist.mean.bfloat16().cpu())
        torch.save(torch.cat(parts) * vae.config.scaling_factor, path)
    return Cache(scenes, torch.load(path, map_location=device, weights_only=True))


class DenoisingLoss:
    """How far a prediction of v is from what turns noisy latents into clean ones, at random timesteps.

    `focus` is as in `sample_timesteps`; the text encoder stays as it is.
    """

    def __init__(self, text: CLIPTextModel, focus: tuple[float, int, int]) -> None:
        self._text, self._focus = text, focus
        self._alphas = build_scheduler().alphas_cumprod.to(text.device)

    def __call__(self, predict: Callable[..., Tensor], latents: Tensor, texts: list[str], now: StepRandom) -> Tensor:
        """`predict` gets noisy latents like `latents`, timesteps [n] and the states of the texts."""
        device = latents.device
        noise = torch.randn(latents.shape, generator=now.torch).to(device)
        steps = sample_timesteps(len(texts), self._focus, now.torch).to(device)
        alphas = self._alphas[steps]
        signal, spread = (a[:, None, None, None] for a in (alphas.sqrt(), (1 - alphas).sqrt()))
        with autocast(device):
            with torch.no_grad():
                states = self._text(input_ids=tokenize(texts).to(device)).last_hidden_state
            output = predict(signal * latents + spread * noise, steps, states)
        return functional.mse_loss(output.float(), signal * noise - spread * latents)


def train(
    stage: Stage,
    settings: UnetSettings,
    vae: AutoencoderKL,
    text: CLIPTextModel,
) -> UNet2DConditionModel:
    """VAE and text encoder stay as they are."""
    cache = cache_latents(vae, settings, stage.seed, stage.folder, stage.device)
    device, loss = stage.device, DenoisingLoss(text, settings.focus)

    def losses(now: StepRandom) -> dict[str, Tensor]:
        rng, n = now.numpy, stage.batch
        chosen = rng.integers(len(cache.scenes), size=n)
        said = [captions.write(captions.claims_at_random(cache.scenes[i], rng), rng) for i in chosen]
        texts = ["" if rng.random() < settings.caption_drop else t for t in said]
        latents = cache.latents[torch.from_numpy(chosen).to(cache.latents.device)].to(device).float()
        return {"loss": loss(lambda *given: stage.module(*given).sample, latents, texts, now)}

    model = stage.run(losses, lambda m: measure(assemble(vae, text, m), settings.guidance), measure_every=2500)
    assert isinstance(model, UNet2DConditionModel)
    return model


@torch.no_grad()
def redraw(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    settings: UnetSettings,
    latents: Tensor,
    scenes: list[Scene],
    now: StepRandom,
) -> Tensor:
    """Noise the scenes' latents to a timestep of `settings.redraw` each, and let the U-Net denoise them in four steps.

    [n, channels, 8, 8] in and out: the layout is mostly the scene's own, the errors are the U-Net's.
    """
    n, device, stages = len(scenes), latents.device, 4
    alphas = build_scheduler().alphas_cumprod.to(device)
    low, high = settings.redraw
    start = low + torch.rand(n, generator=now.torch) * (high - low)
    said = [captions.write(captions.claims_of_scene(scene), now.numpy) for scene in scenes]
    states = text(input_ids=tokenize([*[""] * n, *said]).to(device)).last_hidden_state
    noise = torch.randn(latents.shape, generator=now.torch).to(device)
    x = latents
    for stage in range(stages + 1):
        steps = (start * (stages - stage) / stages).long().to(device)
        kept = torch.where(steps > 0, alphas[steps], 1.0)[:, None, None, None]
        if stage == 0:
            x, before = kept.sqrt() * latents + (1 - kept).sqrt() * noise, (kept, steps)
            continue
        (was, at), before = before, (kept, steps)
        output = unet(torch.cat([x, x]), torch.cat([at, at]), states).sample.float()
        free, guided = output.chunk(2)
        v = free + settings.guidance * (guided - free)
        drawn, noise = was.sqrt() * x - (1 - was).sqrt() * v, was.sqrt() * v + (1 - was).sqrt() * x
        x = kept.sqrt() * drawn + (1 - kept).sqrt() * noise
    return x


def sample_timesteps(n: int, focus: tuple[float, int, int], generator: torch.Generator) -> Tensor:
    """int64 [n] in [0, 1000): one from each n-th of the distribution, which leaves less noise in the loss."""
    share, low, high = focus
    place = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    anywhere = (place - share) / max(1 - share, 1e-9) * 1000
    return torch.where(place < share, low + place / max(share, 1e-9) * (high - low), anywhere).long().clamp(0, 999)


def measure(pipeline: StableDiffusionPipeline, guidance: float, n: int = 64) -> dict[str, float]:
    """The share of held-out prompts that are right in every claim, 20 steps."""
    kinds: tuple[Kind, ...] = ("one", "placed", "two")
    return {f"verified_{kind}": round(verified_share(pipeline, kind, n, guidance), 4) for kind in kinds}


def verified_share(pipeline: StableDiffusionPipeline, kind: Kind, n: int, guidance: float) -> float:
    prompts = sample_prompts(n, 5, "held_out", kind)
    images = generate(pipeline, [p.caption for p in prompts], guidance)
    return float(np.mean([verify(i, p.truth).correct for i, p in zip(images, prompts, strict=True)]))


def generate(
    pipeline: StableDiffusionPipeline,
    texts: Sequence[str],
    guidance: float,
    steps: int = 20,
    seed: int = 0,
    batch: int = 32,
) -> list[np.ndarray]:
    """uint8 [64, 64, 3] for each text; each image's noise depends on `seed` and its index alone."""
    images: list[np.ndarray] = []
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(part))]
        with torch.no_grad():
            out = pipeline(
                part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
            )
        images += list((out.images * 255).round().astype(np.uint8))
    return images
