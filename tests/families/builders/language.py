"""Families that read the prompt with a language model of the Qwen, Mistral or SmolLM kind."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers

from tests.families.builders.parts import (
    WIDTH,
    builds,
    chat_tokenizer,
    flow,
    flux2_vae,
    language,
    qwen2vl_processor,
    qwen3vl,
    qwen25vl,
    qwen_vae,
    vae,
)


@builds("QwenImagePipeline")
def qwen_image() -> dict[str, Any]:
    return {
        "tokenizer": chat_tokenizer(2048),
        "text_encoder": qwen25vl(),
        "vae": qwen_vae(),
        "transformer": diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=WIDTH, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
        ),
        "scheduler": flow(),
    }  # fmt: skip


@builds("ZImagePipeline")
def z_image(**changes: Any) -> dict[str, Any]:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, norm_eps=1e-5, qk_norm=True, cap_feat_dim=WIDTH, rope_theta=256.0, t_scale=1000.0,
        axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64], **changes,
    )  # fmt: skip
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.ones_(token.data)  # left as memory was, otherwise
    return {
        "tokenizer": chat_tokenizer(),
        "text_encoder": language("Qwen3", "Qwen3Model"),
        "vae": vae(16, scaling_factor=0.36, shift_factor=0.11),
        "transformer": transformer,
        "scheduler": flow(),
    }


@builds("ErnieImagePipeline plain")
def ernie_without_enhancer() -> dict[str, Any]:
    return ernie() | {"pe": None, "pe_tokenizer": None}


@builds("ErnieImagePipeline")
def ernie() -> dict[str, Any]:
    return {
        "transformer": diffusers.ErnieImageTransformer2DModel(
            hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=32, in_channels=4, out_channels=4,
            patch_size=1, text_in_dim=WIDTH, rope_axes_dim=(8, 4, 4),
        ),
        "vae": flux2_vae(),
        "text_encoder": language("Ministral3", "Ministral3Model"),
        "tokenizer": chat_tokenizer(),
        "scheduler": flow(),
        "pe": language("Ministral3", "Ministral3ForCausalLM"),
        "pe_tokenizer": chat_tokenizer(64),
    }  # fmt: skip


@builds("ZImageOmniPipeline")
def z_image_omni() -> dict[str, Any]:
    parts = z_image(siglip_feat_dim=WIDTH)
    torch.nn.init.ones_(parts["transformer"].siglip_pad_token.data)
    eyes = transformers.Siglip2VisionConfig(
        hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, num_patches=16
    )
    return parts | {
        "siglip": transformers.Siglip2VisionModel(eyes),
        "siglip_processor": transformers.Siglip2ImageProcessor(),
    }


@builds("QwenImage21Pipeline")
def qwen_image_21(sample_sigmas: list[float] | None = None) -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": diffusers.AutoencoderKLQwenImage21(
            base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1, 1], num_res_blocks=1,
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4, in_channels=3, out_channels=3,
        ),
        "text_encoder": qwen3vl("Qwen3VLForConditionalGeneration"),
        "processor": qwen2vl_processor("Qwen3VLProcessor"),
        "transformer": diffusers.QwenImage21Transformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            context_in_dim=WIDTH, axes_dims_rope=(4, 4, 8),
        ),
        "sample_sigmas": sample_sigmas,
    }  # fmt: skip


@builds("Krea2Pipeline")
def krea2() -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=6400),
        "vae": qwen_vae(),
        "text_encoder": qwen3vl("Qwen3VLModel"),
        "tokenizer": chat_tokenizer(2048),
        "transformer": diffusers.Krea2Transformer2DModel(
            in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=WIDTH, num_text_layers=3,
            text_num_attention_heads=2, text_num_key_value_heads=1, text_intermediate_size=WIDTH,
            num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2), rope_theta=1000.0,
        ),
        "text_encoder_select_layers": (0, 1, 2),
    }  # fmt: skip


@builds("NucleusMoEImagePipeline")
def nucleus() -> dict[str, Any]:
    return {
        "transformer": diffusers.NucleusMoEImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
            joint_attention_dim=WIDTH, axes_dims_rope=(8, 4, 4), moe_enabled=False, capacity_factors=[8.0, 8.0],
        ),
        "scheduler": flow(),
        "vae": qwen_vae(),
        "text_encoder": qwen3vl("Qwen3VLForConditionalGeneration", layers=8),
        "processor": qwen2vl_processor("Qwen3VLProcessor"),
    }  # fmt: skip


@builds("Ideogram4Pipeline")
def ideogram4() -> dict[str, Any]:
    def transformer() -> Any:
        return diffusers.Ideogram4Transformer2DModel(
            in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, intermediate_size=32,
            adaln_dim=16, llm_features_dim=13 * WIDTH, rope_theta=10_000, mrope_section=(2, 1, 1),
        )  # fmt: skip

    return {
        "scheduler": flow(),
        "vae": flux2_vae(),
        "text_encoder": qwen3vl("Qwen3VLModel", layers=36),
        "tokenizer": chat_tokenizer(2048),
        "transformer": transformer(),
        "unconditional_transformer": transformer(),
    }
