"""Writing trained stages in the field's formats: a diffusers folder and an open_clip folder, both float16."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from open_clip import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextModel

from pipeline.shapes import clip as clip_stage
from pipeline.shapes.settings import ClipSettings
from pipeline.shapes.text import shared_tokenizer
from pipeline.shapes.unet import assemble


def export_model(folder: Path, vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """What `StableDiffusionPipeline.from_pretrained(folder)` loads."""
    unet = deepcopy(unet)
    unet.set_attn_processor(AttnProcessor2_0())
    parts = assemble(deepcopy(vae), deepcopy(text), unet).to(dtype=torch.float16)
    parts.save_pretrained(folder, safe_serialization=True)


def export_clip(folder: Path, model: CLIP, settings: ClipSettings) -> None:
    """What `open_clip.create_model_and_transforms("local-dir:<folder>")` and its `get_tokenizer` load."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": clip_stage.config(settings), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    shared_tokenizer().save_pretrained(folder)
