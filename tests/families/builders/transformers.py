"""Diffusion transformers along a flow or with noise, with text encoders of the T5, BERT, Gemma and GLM kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import transformers

from tests.families.builders.parts import FINISHED, WIDTH, builds, chat_tokenizer, flow, language, parts_of, t5, vae
from tests.models import tiny


@builds("CogView4Pipeline")
def cogview4() -> dict[str, Any]:
    return {
        "tokenizer": chat_tokenizer(),
        "text_encoder": language("Glm", "GlmModel", width=32, num_attention_heads=4),
        "vae": vae(),
        "transformer": diffusers.CogView4Transformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=4,
            text_embed_dim=32, time_embed_dim=8, condition_dim=4, sample_size=8,
        ),
        "scheduler": flow(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    }  # fmt: skip


@builds("CogView3PlusPipeline")
def cogview3() -> dict[str, Any]:
    return {
        "tokenizer": tiny.tokenizer(224),
        "text_encoder": t5(),
        "vae": vae(),
        "transformer": diffusers.CogView3PlusTransformer2DModel(
            patch_size=2, in_channels=4, num_layers=1, attention_head_dim=4, num_attention_heads=2, out_channels=4,
            text_embed_dim=32, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8, sample_size=8,
        ),
        "scheduler": diffusers.CogVideoXDDIMScheduler(),
    }  # fmt: skip


@builds("PixArtAlphaPipeline", "PixArtSigmaPAGPipeline")
def pixart() -> dict[str, Any]:
    return parts_of(tiny.build_pixart, "PixArtSigmaPipeline")


@builds("StableDiffusion3PAGPipeline")
def sd3_pag() -> dict[str, Any]:
    parts = parts_of(tiny.build_sd3, "StableDiffusion3Pipeline")
    return {name: part for name, part in parts.items() if part is not None} | {"pag_applied_layers": "blocks.1"}


@builds("SanaPAGPipeline")
def sana_pag() -> dict[str, Any]:
    return parts_of(tiny.build_sana, "SanaPipeline") | {"pag_applied_layers": "transformer_blocks.0"}


@builds("SanaSprintPipeline")
def sana_sprint() -> dict[str, Any]:
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=32,
        sample_size=32, qk_norm="rms_norm_across_heads", guidance_embeds=True,
    )  # fmt: skip
    changed = {"transformer": transformer, "scheduler": diffusers.SCMScheduler()}
    return parts_of(tiny.build_sana, "SanaPipeline") | changed


@builds("HunyuanDiTPipeline")
def hunyuan_dit() -> dict[str, Any]:
    bert = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return {
        "vae": vae(),
        "text_encoder": transformers.BertModel(bert).eval(),
        "tokenizer": tiny.tokenizer(77),
        "transformer": diffusers.HunyuanDiT2DModel(
            sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
            cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
        ),
        "scheduler": diffusers.DDPMScheduler(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        "text_encoder_2": t5(),
        "tokenizer_2": tiny.tokenizer(256),
    }  # fmt: skip


@builds("HunyuanDiTPAGPipeline")
def hunyuan_dit_pag() -> dict[str, Any]:
    return hunyuan_dit() | {"pag_applied_layers": "blocks.1"}


@builds("LuminaPipeline")
def lumina() -> dict[str, Any]:
    return {
        "transformer": diffusers.LuminaNextDiT2DModel(
            sample_size=8, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1,
            num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, cross_attention_dim=WIDTH,
        ),
        "scheduler": flow(),
        "vae": vae(),
        "text_encoder": language("Gemma", "GemmaForCausalLM"),
        "tokenizer": tiny.tokenizer(512),
    }  # fmt: skip


@builds("Lumina2Pipeline")
def lumina2() -> dict[str, Any]:
    return {
        "transformer": diffusers.Lumina2Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, hidden_size=8, num_layers=2, num_attention_heads=1,
            num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), cap_feat_dim=WIDTH,
        ),
        "scheduler": flow(),
        "vae": vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": language("Gemma2", "Gemma2Model"),
        "tokenizer": tiny.tokenizer(512),
    }  # fmt: skip


@builds("AuraFlowPipeline")
def aura_flow() -> dict[str, Any]:
    umt5 = transformers.UMT5Config(d_model=32, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=64)
    return {
        "tokenizer": tiny.tokenizer(256),
        "text_encoder": transformers.UMT5EncoderModel(umt5).eval(),
        "vae": vae(),
        "transformer": diffusers.AuraFlowTransformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
            attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32,
            out_channels=4, pos_embed_max_size=256,
        ),
        "scheduler": flow(),
    }  # fmt: skip


@builds("PRXPipeline")
def prx() -> dict[str, Any]:
    from diffusers.pipelines.prx import T5GemmaEncoder

    text = transformers.T5GemmaModuleConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, layer_types=["full_attention"], pad_token_id=0,
    )  # fmt: skip
    config = transformers.T5GemmaConfig(encoder=text, decoder=text, is_encoder_decoder=False)
    return {
        "transformer": diffusers.PRXTransformer2DModel(
            patch_size=1, in_channels=4, context_in_dim=WIDTH, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1,
            axes_dim=[2, 2],
        ),
        "scheduler": flow(),
        "text_encoder": T5GemmaEncoder(config.encoder),
        "tokenizer": tiny.tokenizer(64),
        "vae": vae(shift_factor=0.0),
        "default_sample_size": 256,
    }  # fmt: skip


def as_published(folder: Path) -> None:
    """PRX' text encoder is of `transformers` there, and its settings lie in those of a whole T5Gemma."""
    index, settings = folder / "model_index.json", folder / "text_encoder" / "config.json"
    parts, text = json.loads(index.read_text()), json.loads(settings.read_text())
    index.write_text(json.dumps(parts | {"text_encoder": ["transformers", "T5GemmaEncoder"]}))
    whole = {"model_type": "t5gemma", "is_encoder_decoder": False, "encoder": text, "decoder": text, "vocab_size": 64}
    settings.write_text(json.dumps(whole | {"architectures": ["T5GemmaEncoder"]}))


FINISHED["PRXPipeline"] = as_published


@builds("PRXPixelPipeline")
def prx_pixel() -> dict[str, Any]:
    return {
        "transformer": diffusers.PRXTransformer2DModel(
            patch_size=8, in_channels=3, context_in_dim=WIDTH, hidden_size=8, mlp_ratio=2.0, num_heads=2, depth=1,
            axes_dim=[2, 2], bottleneck_size=8, resolution_embeds=True,
        ),
        "scheduler": flow(),
        "text_encoder": language("Qwen3", "Qwen3Model"),
        "tokenizer": chat_tokenizer(512),
        "prompt_max_tokens": 16,
    }  # fmt: skip
