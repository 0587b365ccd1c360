"""Families with several text encoders, or a language model that draws a part of the image."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
import transformers
from diffusers.guiders import AdaptiveProjectedMixGuidance

from tests.families.builders.parts import (
    CHAT,
    WIDTH,
    builds,
    chat_tokenizer,
    flow,
    language,
    qwen2vl_processor,
    qwen25vl,
    t5,
    vae,
)
from tests.models import tiny


@builds("HunyuanImagePipeline")
def hunyuan_image(is_distilled: bool = False) -> dict[str, Any]:
    glyphs = transformers.T5Config(
        d_model=32, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=384, is_encoder_decoder=False
    )

    def guider(start: int) -> Any:
        return AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=start)

    return {
        "scheduler": flow(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanImage(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32, 32), layers_per_block=1,
            scaling_factor=0.47, spatial_compression_ratio=8, sample_size=64,
        ),
        "text_encoder": qwen25vl(32),
        "tokenizer": chat_tokenizer(2048),
        "text_encoder_2": transformers.T5EncoderModel(glyphs),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "transformer": diffusers.HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=is_distilled,
            text_embed_dim=32, text_embed_2_dim=32, rope_axes_dim=(4, 4),
        ),
        "guider": guider(2) if not is_distilled else None,
        "ocr_guider": guider(3) if not is_distilled else None,
    }  # fmt: skip


@builds("HunyuanImagePipeline distilled")
def hunyuan_image_distilled() -> dict[str, Any]:
    return hunyuan_image(is_distilled=True)


@builds("Kandinsky5T2IPipeline")
def kandinsky5() -> dict[str, Any]:
    return {
        "transformer": diffusers.Kandinsky5Transformer3DModel(
            in_visual_dim=16, in_text_dim=32, in_text_dim2=32, time_dim=16, out_visual_dim=16, patch_size=(1, 2, 2),
            model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 2, 2), visual_cond=False,
            attention_type="regular",
        ),
        "vae": vae(16, scaling_factor=0.36),
        "text_encoder": qwen25vl(32),
        "tokenizer": qwen2vl_processor(),
        "text_encoder_2": transformers.CLIPTextModel(tiny.text_config(max_position_embeddings=77)),
        "tokenizer_2": tiny.tokenizer(77),
        "scheduler": flow(shift=7.0),
    }  # fmt: skip


@builds("HiDreamImagePipeline")
def hidream() -> dict[str, Any]:
    clip = tiny.text_config(max_position_embeddings=248)
    return {
        "scheduler": flow(),
        "vae": vae(scaling_factor=0.36, shift_factor=0.11),
        "text_encoder": transformers.CLIPTextModelWithProjection(clip),
        "tokenizer": tiny.tokenizer(218),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(clip),
        "tokenizer_2": tiny.tokenizer(218),
        "text_encoder_3": t5(),
        "tokenizer_3": tiny.tokenizer(512),
        "text_encoder_4": language("Llama", "LlamaForCausalLM", attn_implementation="eager"),
        "tokenizer_4": tiny.tokenizer(512),
        "transformer": diffusers.HiDreamImageTransformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=4, caption_channels=[32, WIDTH], text_emb_dim=64, num_routed_experts=4,
            num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=(0, 1),
        ),
    }  # fmt: skip


@builds("GlmImagePipeline")
def glm_image() -> dict[str, Any]:
    text = {
        "vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "vision_vocab_size": 48,
        "rope_parameters": {"mrope_section": (2, 1, 1), "rope_type": "default", "rope_theta": 1e4},
        "pad_token_id": 0, "eos_token_id": 63,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": WIDTH, "num_heads": 2, "image_size": 32, "patch_size": 8,
        "intermediate_size": WIDTH,
    }  # fmt: skip
    config = transformers.GlmImageConfig(
        text_config=text, vision_config=vision, image_token_id=60, image_start_token_id=61, image_end_token_id=62,
        vq_config={"embed_dim": WIDTH, "num_embeddings": 48, "latent_channels": WIDTH},
    )  # fmt: skip
    reader = transformers.GlmImageForConditionalGeneration(config).eval()
    for weights in reader.parameters():  # so that what it draws depends on what it read
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=1.0)
    return {
        "tokenizer": transformers.ByT5Tokenizer(),
        "processor": glm_processor(),
        "text_encoder": t5(words=384),
        "vision_language_encoder": reader,
        "vae": vae(latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        "transformer": diffusers.GlmImageTransformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            text_embed_dim=32, time_embed_dim=16, condition_dim=8, prior_vq_quantizer_codebook_size=48,
        ),
        "scheduler": flow(),
    }  # fmt: skip


def glm_processor() -> Any:
    named = {"image_token": "<image>", "grid_bos_token": "<grid>", "grid_eos_token": "</grid>"}
    plain = chat_tokenizer(2048, tuple(named.values()))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, model_max_length=2048, pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", unk_token="<unk>", extra_special_tokens=named, padding_side="left",
    )  # fmt: skip
    return transformers.GlmImageProcessor(transformers.GlmImageImageProcessor(), tokenizer, chat_template=CHAT)
