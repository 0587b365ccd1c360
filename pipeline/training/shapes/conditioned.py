"""Scenes and latents that what conditions the built-in model learns from; the model itself stays as it is shipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel

from promptmill.pipeline.shapes.world import Scene, sample_scene
from promptmill.pipeline.training.shapes.settings import WEIGHTS
from promptmill.pipeline.training.shapes.vae import to_tensor


@dataclass(frozen=True)
class Cache:
    """Scenes of the training split, their latents [n, channels, 8, 8], and the autoencoder that they are of."""

    scenes: list[Scene]
    latents: Tensor
    vae: AutoencoderKL


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: list[Scene], draw: Callable[[Sequence[Scene]], NDArray[np.uint8]]) -> Cache:
    parts = [
        vae.encode(to_tensor(draw(scenes[start : start + 64])).to(vae.device)).latent_dist.mean
        for start in range(0, len(scenes), 64)
    ]
    return Cache(scenes, torch.cat(parts) * vae.config.scaling_factor, vae)


def sample_scenes(n: int, pair_share: float, seed: int, kind: int) -> list[Scene]:
    rng = np.random.default_rng([seed, kind])
    return [sample_scene(rng, "train", 2 if rng.random() < pair_share else 1) for _ in range(n)]


def shipped_parts(device: torch.device) -> tuple[AutoencoderKL, CLIPTextModel, UNet2DConditionModel]:
    """The built-in model's, frozen. Fused attention's backward pass is slow on a CPU, so both have the plain one."""
    folder = WEIGHTS / "model"
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", attn_implementation="eager")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.set_attn_processor(AttnProcessor())
    frozen = [part.to(device).eval().requires_grad_(False) for part in (vae, text, unet)]
    return frozen[0], frozen[1], frozen[2]
