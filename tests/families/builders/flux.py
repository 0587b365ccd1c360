"""Flux, and the families that follow it: latents packed into tokens, joint blocks and single ones."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers

from tests.families.builders.parts import (
    CHAT,
    TEXT,
    WIDTH,
    builds,
    chat_tokenizer,
    flow,
    flux2_vae,
    language,
    qwen2vl_processor,
    qwen25vl,
    t5,
    vae,
)
from tests.models import tiny


def flux2_transformer(**changes: Any) -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), **changes,
    )  # fmt: skip


@builds("Flux2KleinPipeline")
def flux2_klein(is_distilled: bool = False) -> dict[str, Any]:
    return {
        "tokenizer": chat_tokenizer(),
        "text_encoder": language("Qwen3", "Qwen3ForCausalLM", layers=28),
        "vae": flux2_vae(),
        "transformer": flux2_transformer(joint_attention_dim=3 * WIDTH, guidance_embeds=False),
        "scheduler": flow(use_dynamic_shifting=True),
        "is_distilled": is_distilled,
    }


@builds("Flux2KleinPipeline distilled")
def flux2_klein_distilled() -> dict[str, Any]:
    return flux2_klein(is_distilled=True)


@builds("Flux2KleinKVPipeline")
def flux2_klein_kv() -> dict[str, Any]:
    parts = flux2_klein()
    del parts["is_distilled"]
    return parts


@builds("Flux2Pipeline")
def flux2() -> dict[str, Any]:
    text = {**TEXT, "model_type": "mistral", "num_hidden_layers": 31, "max_position_embeddings": 2048, "head_dim": 8}
    vision = {
        "model_type": "pixtral", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": WIDTH, "image_size": 30, "patch_size": 6,
    }  # fmt: skip
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=63, vision_feature_layer=-1
    )
    tokenizer = chat_tokenizer(2048, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    processor = transformers.PixtralProcessor(transformers.PixtralImageProcessor(), tokenizer, chat_template=CHAT)
    return {
        "tokenizer": processor,
        "text_encoder": transformers.Mistral3ForConditionalGeneration(config).eval(),
        "vae": flux2_vae(),
        "transformer": flux2_transformer(joint_attention_dim=3 * WIDTH),
        "scheduler": flow(use_dynamic_shifting=True),
    }


@builds("LongCatImagePipeline")
def longcat() -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": vae(16, scaling_factor=0.36, shift_factor=0.11),
        "text_encoder": qwen25vl(),
        "tokenizer": chat_tokenizer(2048),
        "text_processor": qwen2vl_processor(),
        "transformer": diffusers.LongCatImageTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=[4, 4, 8],
        ),
    }  # fmt: skip


def flux_vae() -> Any:
    return vae(shift_factor=0.11, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False)


@builds("ChromaPipeline")
def chroma() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": flux_vae(),
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(512),
        "transformer": diffusers.ChromaTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32,
            approximator_layers=1, approximator_num_channels=16,
        ),
    }  # fmt: skip


@builds("BriaPipeline")
def bria() -> dict[str, Any]:
    return {
        "transformer": diffusers.BriaTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=None, axes_dims_rope=[0, 4, 4],
        ),
        "scheduler": flow(),
        "vae": vae(shift_factor=0.0),
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(128),
    }  # fmt: skip


@builds("BriaFiboPipeline")
def bria_fibo() -> dict[str, Any]:
    text = language("SmolLM3", "SmolLM3ForCausalLM", vocab_size=128_001)  # an empty prompt is token 128,000
    return {
        "transformer": diffusers.BriaFiboTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=2 * WIDTH, text_encoder_dim=WIDTH, axes_dims_rope=[0, 4, 4],
        ),
        "scheduler": flow(),
        "vae": diffusers.AutoencoderKLWan(
            base_dim=8, decoder_base_dim=8, num_res_blocks=1, out_channels=12, in_channels=12, patch_size=2,
            scale_factor_spatial=16, temperal_downsample=[False, True, True], z_dim=16, is_residual=True,
        ),
        "text_encoder": text,
        "tokenizer": chat_tokenizer(2048),
    }  # fmt: skip


@builds("OvisImagePipeline")
def ovis() -> dict[str, Any]:
    tokenizer = chat_tokenizer(2048)
    tokenizer.chat_template = "a a " + CHAT  # the prompt begins at the 28th word, as the pipeline takes for granted
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": flux_vae(),
        "text_encoder": language("Qwen3", "Qwen3Model", width=32, num_attention_heads=4),
        "tokenizer": tokenizer,
        "transformer": diffusers.OvisImageTransformer2DModel(
            patch_size=1, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8),
        ),
    }  # fmt: skip
