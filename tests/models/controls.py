"""ControlNets of random weights for the tiny pipelines, which change an image as trained ones do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    FluxControlNetModel,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    T2IAdapter,
    UNet2DConditionModel,
)


def build_control(base: Path, folder: Path, seed: int = 0, kinds: int | None = None) -> Path:
    """For the pipeline in `base`, made of copies of its layers; those that lead out are not left at zero.

    With `kinds` of maps it is a union.
    """
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
        if kinds:
            torch.manual_seed(seed)
            net = FluxControlNetModel.from_config({**_config(net), "num_mode": kinds})
    else:
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
        if kinds:
            own = {"num_control_type": kinds, "num_trans_channel": 16, "num_trans_head": 2, "num_trans_layer": 1}
            asked = {**own, "num_proj_channel": 16, "addition_time_embed_dim": 8}
            net = ControlNetUnionModel.from_config(
                {**_config(net), **asked, "projection_class_embeddings_input_dim": 80}
            )
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder)
    return folder


def _config(net: torch.nn.Module) -> dict[str, Any]:
    """Without the names of those that have their default, which would not be changed."""
    return {name: value for name, value in net.config.items() if name != "_use_default_values"}


def build_t2i(base: Path, folder: Path, seed: int = 0, in_channels: int = 3) -> Path:
    """A T2I-Adapter for the U-Net in `base`."""
    family = json.loads((base / "model_index.json").read_text())["_class_name"]
    large = "XL" in family
    torch.manual_seed(seed)
    adapter = T2IAdapter(
        in_channels=in_channels,
        channels=[16, 32, 32, 32] if large else [16, 32],
        num_res_blocks=1,
        downscale_factor=16 if large else 8,
        adapter_type="full_adapter_xl" if large else "full_adapter",
    )
    adapter.save_pretrained(folder)
    return folder
