"""Families that draw from a prompt, and take images beside it too."""

from __future__ import annotations

from typing import Any

import diffusers

from tests.families.builders.parts import (
    WIDTH,
    builds,
    chat_tokenizer,
    flow,
    flux2_vae,
    qwen2vl_processor,
    qwen3vl,
    vae,
)
from tests.models import tiny


@builds("OmniGenPipeline")
def omnigen() -> dict[str, Any]:
    return {
        "transformer": diffusers.OmniGenTransformer2DModel(
            hidden_size=16, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32, num_layers=2,
            in_channels=4, time_step_dim=4, rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
            vocab_size=64, pad_token_id=0,
        ),
        "scheduler": flow(invert_sigmas=True, num_train_timesteps=1),
        "vae": vae(),
        "tokenizer": tiny.tokenizer(512),
    }  # fmt: skip


def dreamlite_unet() -> Any:
    return diffusers.DreamLiteUNetModel(
        sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"), block_out_channels=(16, 32),
        cross_attention_dim=WIDTH, attention_head_dim=8, layers_per_block=1, norm_num_groups=8,
        transformer_layers_per_block=1,
    )  # fmt: skip


@builds("DreamLitePipeline", "DreamLiteMobilePipeline")
def dreamlite() -> dict[str, Any]:
    tokenizer = chat_tokenizer(2048)
    return {
        "text_encoder": qwen3vl("Qwen3VLForConditionalGeneration"),
        "tokenizer": tokenizer,
        "processor": qwen2vl_processor("Qwen3VLProcessor"),
        "vae": diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), latent_channels=4,
        ),
        "unet": dreamlite_unet(),
        "scheduler": flow(use_dynamic_shifting=True),
    }  # fmt: skip


@builds("BriaFibo2Pipeline")
def fibo2() -> dict[str, Any]:
    return {
        "transformer": diffusers.BriaFibo2Transformer2DModel(
            in_channels=1, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=3 * WIDTH,
            injection_layer_ids=(1,), perceiver_num_layers=1, min_num_gist_tokens=4, max_num_gist_tokens=8, gist_step=4,
            gist_min_text_len=4, gist_max_text_len=64, axes_dims=(8, 4, 4), axes_lens=(2048, 64, 64),
        ),
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": flux2_vae(),
        "text_encoder": qwen3vl("Qwen3VLForConditionalGeneration", layers=36),
        "processor": qwen2vl_processor("Qwen3VLProcessor"),
    }  # fmt: skip
