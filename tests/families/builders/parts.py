"""Parts that several families share: tokenizers, text encoders, autoencoders, schedulers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

from tests.models import tiny

Build = Callable[[], dict[str, Any]]

BUILDERS: dict[str, Build] = {}
"""Row → arguments of its constructor."""
FINISHED: dict[str, Callable[[Path], Any]] = {}
"""Row → what makes of a folder that diffusers saved one as it is published."""


CHAT = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %} {% endfor %}"
)


WIDTH = 16


def builds(*names: str) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        BUILDERS.update(dict.fromkeys(names, build))
        return build

    return keep


def chat_tokenizer(length: int = 512, more: tuple[str, ...] = ()) -> transformers.PreTrainedTokenizerFast:
    made = tiny.tokenizer(length)
    made.add_tokens(list(more), special_tokens=True)
    made.chat_template = CHAT
    return made


def vae(channels: int = 4, **changes: Any) -> AutoencoderKL:
    return tiny.autoencoder(channels, **changes)


def flow(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**changes)


def language(kind: str, model: str, layers: int = 2, width: int = WIDTH, **changes: Any) -> Any:
    """A decoder-only text encoder."""
    config = getattr(transformers, f"{kind}Config")(
        **{
            "hidden_size": width,
            "intermediate_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": 64,
            "max_position_embeddings": 2048,
            "pad_token_id": 0,
        }
        | changes
    )
    return getattr(transformers, model)(config).eval()


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


VISION = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}


TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}


def qwen25vl(width: int = WIDTH) -> Any:
    rope = {"mrope_section": [1, 1, 2] if width == WIDTH else [2, 2, 4], "rope_type": "default", "type": "default"}
    sides = {"hidden_size": width, "intermediate_size": width}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, **sides, "rope_scaling": rope, "rope_theta": 1e6},
        vision_config={**VISION, **sides, "out_hidden_size": width},
        vision_start_token_id=60, vision_end_token_id=61, vision_token_id=62, image_token_id=63,
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen2vl_processor(kind: str = "Qwen2_5_VLProcessor") -> Any:
    tokenizer = chat_tokenizer(2048, ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"))
    images = transformers.Qwen2VLImageProcessor()
    videos = getattr(transformers, "Qwen3VLVideoProcessor" if "3" in kind else "Qwen2VLVideoProcessor")()
    return getattr(transformers, kind)(images, tokenizer, videos, chat_template=CHAT)


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=32, block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=1, norm_num_groups=1,
    )  # fmt: skip


def qwen3vl(model: str, layers: int = 2) -> Any:
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    text = {**TEXT, "num_hidden_layers": layers, "head_dim": 8, "rope_scaling": rope, "rope_theta": 1e6}
    vision = {**VISION, "deepstack_visual_indexes": [0]}
    return getattr(transformers, model)(transformers.Qwen3VLConfig(text_config=text, vision_config=vision)).eval()


def t5(width: int = 32, words: int = 64, **changes: Any) -> Any:
    config = transformers.T5Config(
        d_model=width, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=words, **changes
    )
    return transformers.T5EncoderModel(config).eval()


def parts_of(save: Callable[[Path], Path], pipeline: str) -> dict[str, Any]:
    """Of a pipeline that tests/models/tiny.py builds, for another class of the same parts."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = getattr(diffusers, pipeline).from_pretrained(save(Path(folder)), use_safetensors=True)
        return dict(pipe.components)
