"""Real pipelines of random weights, built from configuration in under a second and small enough for one busy core.

All make images of 16×16 to 64×64 pixels. Their tokenizers split words, know `WORDS` and hold 16 tokens (CLIP) or 32 (T5).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

WORDS = "a an red green blue yellow circle square triangle star left right of above below the on and blurry".split()
CLIP_TOKENS = 16
T5_TOKENS = 32
VAE_FACTOR = 8
SIZE = 64


def tokenizer(length: int, eos: str = "</s>") -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", eos, "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single=f"<s> $A {eos}", special_tokens=[("<s>", 1), (eos, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=length,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token=eos,
        unk_token="<unk>",
    )


def text_config(width: int = 32, **changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=64,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )


def autoencoder(latent_channels: int = 4, **changes: Any) -> AutoencoderKL:
    """Four levels, so that a latent is an eighth of the image as in the real ones."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        sample_size=SIZE,
        **changes,
    )


def build_sd15(folder: Path, **components: Any) -> Path:
    """StableDiffusionPipeline of 64×64 pixels; `components` replaces parts of it."""
    torch.manual_seed(0)
    parts = {
        "vae": autoencoder(),
        "text_encoder": CLIPTextModel(text_config()),
        "tokenizer": tokenizer(CLIP_TOKENS),
        "unet": UNet2DConditionModel(
            sample_size=SIZE // VAE_FACTOR,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
    } | components
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def build_clip(folder: Path, dtype: torch.dtype = torch.float16) -> Path:
    """open_clip `local-dir:` folder: a ViT of 32×32 pixels and a text tower with its own tokenizer."""
    import open_clip

    torch.manual_seed(1)
    model_cfg = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {
            "context_length": CLIP_TOKENS,
            "vocab_size": 64,
            "width": 32,
            "heads": 4,
            "layers": 2,
            "hf_tokenizer_name": "tokenizer",
            "tokenizer_kwargs": {"clean": "whitespace"},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    model = open_clip.CLIP(**{key: value for key, value in model_cfg.items()})
    state = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    tokenizer(CLIP_TOKENS).save_pretrained(folder)
    return folder
