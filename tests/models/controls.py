"""ControlNets of random weights for the tiny pipelines, which change an image as trained ones do."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)


def build_control(base: Path, folder: Path, seed: int = 0) -> Path:
    """For the pipeline in `base`, made of copies of its layers; those that lead out are not left at zero."""
    family = json.loads((base / "model_index.json").read_text())["_class_name"]
    torch.manual_seed(seed)
    if family.startswith("StableDiffusion3"):
        transformer = SD3Transformer2DModel.from_pretrained(base / "transformer")
        net = SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0)
    elif family.startswith("Flux"):
        transformer = FluxTransformer2DModel.from_pretrained(base / "transformer")
        net = FluxControlNetModel.from_transformer(
            transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2
        )
    else:
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder)
    return folder
