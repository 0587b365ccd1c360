"""Tiny pipelines that change an image as the prompt says: a class of diffusers → arguments of its constructor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.families.builders import flux, language, wake
from tests.families.builders import parts as shared
from tests.models import tiny

ROOM_OF_IMAGE = 1 << 12
"""Pixels: what a tiny vision tower looks at is not what a real one does."""


def pix2pix(folder: Path) -> Path:
    torch.manual_seed(0)
    return tiny.build_sd15(folder, unet=tiny.unet(in_channels=8))


def _parts(build: Callable[[Path], Path], folder: Path) -> dict[str, Any]:
    """Of a tiny text-to-image pipeline."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(build(folder.with_name(f"{folder.name}-text")))
    return dict(pipe.components)


def _instruct_pix2pix(folder: Path) -> dict[str, Any]:
    return {**_parts(pix2pix, folder), "requires_safety_checker": False}


def _instruct_pix2pix_xl(folder: Path) -> dict[str, Any]:
    parts = _parts(tiny.build_sdxl, folder)
    config = dict(parts["unet"].config) | {"in_channels": 8}
    torch.manual_seed(0)
    own = {name: parts[name] for name in parts if name not in ("image_encoder", "feature_extractor")}
    return {**own, "unet": diffusers.UNet2DConditionModel.from_config(config), "add_watermarker": False}


def _qwen_processor(tokenizer: Any) -> Any:
    sizes = {"shortest_edge": 28 * 28, "longest_edge": ROOM_OF_IMAGE}
    images = transformers.Qwen2VLImageProcessor(size=sizes)
    video = transformers.Qwen2VLVideoProcessor()
    return transformers.Qwen2_5_VLProcessor(images, tokenizer, video, chat_template=shared.CHAT)


def _qwen_edit(folder: Path) -> dict[str, Any]:
    parts = language.qwen_image()
    special = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    parts["tokenizer"] = shared.chat_tokenizer(2048, special)
    tokens = {f"{kind}_token_id": f"<|{kind}_pad|>" for kind in ("vision", "image", "video")}
    for key, token in tokens.items():
        setattr(parts["text_encoder"].config, key, parts["tokenizer"].convert_tokens_to_ids(token))
    return {**parts, "processor": _qwen_processor(parts["tokenizer"])}


EDITS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "StableDiffusionInstructPix2PixPipeline": _instruct_pix2pix,
    "StableDiffusionXLInstructPix2PixPipeline": _instruct_pix2pix_xl,
    "FluxKontextPipeline": lambda folder: _parts(tiny.build_flux, folder),
    "QwenImageEditPipeline": _qwen_edit,
    "QwenImageEditPlusPipeline": _qwen_edit,
    "Flux2Pipeline": lambda folder: flux.flux2(),
    "Flux2KleinPipeline": lambda folder: flux.flux2_klein(),
}


def build_edit(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    pipe = getattr(diffusers, name)(**EDITS[name](folder))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            wake(part)
    if hasattr(pipe, "transformer"):
        _heed_everything(pipe.transformer)
    pipe.save_pretrained(folder)
    return folder


def _heed_everything(transformer: torch.nn.Module) -> None:
    """Fresh weights are so small that another image changes 1 of 255, as rounding does."""
    for weights in transformer.parameters():
        if weights.dim() > 1:
            weights.data.mul_(4)
