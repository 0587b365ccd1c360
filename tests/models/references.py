"""IP-Adapters of random weights for the tiny pipelines, with an image encoder beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

WIDE = 64
VISION = {"hidden_size": WIDE, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
Tensors = Iterator[tuple[str, torch.Tensor]]


def build_ip_adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    """For the pipeline in `base`."""
    family = json.loads((base / "model_index.json").read_text())["_class_name"]
    torch.manual_seed(seed)
    (folder / "image_encoder").mkdir(parents=True)
    if family.startswith("StableDiffusion3"):
        tensors = dict(_sd3(SD3Transformer2DModel.from_pretrained(base / "transformer")))
        SiglipVisionModel(SiglipVisionConfig(**VISION, image_size=32, patch_size=8)).save_pretrained(
            folder / "image_encoder"
        )
        SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "image_encoder")
    else:
        flux = family.startswith("Flux")
        tensors = dict(
            _flux(FluxTransformer2DModel.from_pretrained(base / "transformer"))
            if flux
            else _unet(UNet2DConditionModel.from_pretrained(base / "unet"))
        )
        config = CLIPVisionConfig(**VISION, image_size=32, patch_size=8, projection_dim=16)
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "ip-adapter.safetensors")
    return folder


def build_redux(base: Path, folder: Path, seed: int = 0) -> Path:
    """For the Flux in `base`, laid out as black-forest-labs/FLUX.1-Redux-dev, whose original weights lie beside."""
    torch.manual_seed(seed)
    words = FluxTransformer2DModel.from_pretrained(base / "transformer").config.joint_attention_dim
    encoder = SiglipVisionModel(SiglipVisionConfig(**VISION, image_size=32, patch_size=8))
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "feature_extractor")
    embedder = ReduxImageEncoder(redux_dim=WIDE, txt_in_features=words)
    for weight in (*encoder.parameters(), *embedder.parameters()):
        if weight.ndim > 1:  # else every image is nearly the same to it
            torch.nn.init.normal_(weight, std=0.2)
    encoder.save_pretrained(folder / "image_encoder")
    embedder.save_pretrained(folder / "image_embedder")
    save_file({"redux_up.bias": torch.ones(1)}, folder / "flux1-redux-dev.safetensors")
    return folder


def build_heeding_flux(base: Path, folder: Path) -> Path:
    """The tiny Flux in `base` with louder weights: of the prompt's words the quiet ones show nothing (0 of 255)."""
    shutil.copytree(base, folder)
    torch.manual_seed(1)
    transformer = FluxTransformer2DModel.from_pretrained(base / "transformer")
    for weight in transformer.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    transformer.save_pretrained(folder / "transformer")
    return folder


def _projection(across: int) -> Tensors:
    yield "image_proj.proj.weight", torch.randn(4 * across, 16)
    yield "image_proj.proj.bias", torch.randn(4 * across)
    yield "image_proj.norm.weight", torch.ones(across)
    yield "image_proj.norm.bias", torch.zeros(across)


def _unet(unet: UNet2DConditionModel) -> Tensors:
    across = unet.config.cross_attention_dim
    yield from _projection(across)
    named = dict(unet.named_modules())
    places = [name for name in unet.attn_processors if "attn2" in name]
    for number, place in enumerate(places):
        hidden = named[place.removesuffix(".processor")].to_k.out_features
        for half in ("k", "v"):
            yield f"ip_adapter.{2 * number + 1}.to_{half}_ip.weight", torch.randn(hidden, across)


def _flux(transformer: FluxTransformer2DModel) -> Tensors:
    across = transformer.config.joint_attention_dim
    yield from _projection(across)
    for number in range(transformer.config.num_layers):
        for half in ("k", "v"):
            place = f"double_blocks.{number}.processor.ip_adapter_double_stream_{half}_proj"
            yield f"{place}.weight", torch.randn(transformer.inner_dim, across)
            yield f"{place}.bias", torch.randn(transformer.inner_dim)


def _sd3(transformer: SD3Transformer2DModel) -> Tensors:
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
    from diffusers.models.embeddings import IPAdapterTimeImageProjection

    hidden = transformer.config.attention_head_dim * transformer.config.num_attention_heads
    projection = IPAdapterTimeImageProjection(
        embed_dim=WIDE, output_dim=hidden, hidden_dim=WIDE, heads=1, num_queries=4, timestep_in_dim=32
    )
    yield from ((f"image_proj.{key}", value) for key, value in projection.state_dict().items())
    for number in range(len(transformer.transformer_blocks)):
        processor = SD3IPAdapterJointAttnProcessor2_0(hidden, hidden, transformer.config.attention_head_dim, WIDE)
        yield from ((f"ip_adapter.{number}.{key}", value) for key, value in processor.state_dict().items())
