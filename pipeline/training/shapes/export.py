"""Writing trained stages in the field's formats: a diffusers folder and an open_clip folder, both float16."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from open_clip import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextModel

from promptmill.pipeline.training.shapes import clip as clip_stage
from promptmill.pipeline.training.shapes.settings import ClipSettings
from promptmill.pipeline.training.shapes.text import shared_tokenizer
from promptmill.pipeline.training.shapes.unet import assemble

# The name that transformers 4 and 5 both know; 5 would write its own new one.
TOKENIZER_CLASS = "PreTrainedTokenizerFast"


def export_model(folder: Path, vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """What `StableDiffusionPipeline.from_pretrained(folder)` loads."""
    unet = deepcopy(unet)
    unet.set_attn_processor(AttnProcessor2_0())
    assemble(deepcopy(vae).half(), deepcopy(text).half(), unet.half()).save_pretrained(folder)
    # transformers would load the text encoder in the type it was saved in, diffusers loads its parts in float32.
    edit(folder / "text_encoder" / "config.json", dtype="float32")
    edit(folder / "vae" / "config.json", _name_or_path=None)
    edit(folder / "scheduler" / "scheduler_config.json", lambda_min_clipped=None)  # -Infinity, its default: no JSON
    edit(folder / "model_index.json", tokenizer=["transformers", TOKENIZER_CLASS])
    edit(folder / "tokenizer" / "tokenizer_config.json", tokenizer_class=TOKENIZER_CLASS)
    make_readable(folder)


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON object file; None removes the key."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {k: v for k, v in value.items() if k not in changes or v is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def make_readable(folder: Path) -> None:
    """safetensors writes files that only their owner can read; an installed package is read by others."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)


def export_clip(folder: Path, model: CLIP, settings: ClipSettings) -> None:
    """What `open_clip.create_model_and_transforms("local-dir:<folder>")` and its `get_tokenizer` load."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": clip_stage.config(settings), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    shared_tokenizer().save_pretrained(folder)
    edit(folder / "tokenizer_config.json", tokenizer_class=TOKENIZER_CLASS)
    make_readable(folder)
