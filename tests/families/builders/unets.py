"""Families with a U-Net, and what guides them by perturbed attention (PAG)."""

from __future__ import annotations

import atexit
import io
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import sentencepiece
import torch
import transformers
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

from tests.families.builders.parts import WIDTH, builds, parts_of, vae
from tests.models import tiny


def movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=[32, 32, 32, 32], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 3 + ["AttnUpDecoderBlock2D"], latent_channels=4, num_vq_embeddings=12,
        layers_per_block=1, norm_num_groups=4, vq_embed_dim=4, norm_type="spatial",
    )  # fmt: skip


@builds("Kandinsky3Pipeline")
def kandinsky3() -> dict[str, Any]:
    return {
        "tokenizer": tiny.tokenizer(128),
        "text_encoder": tiny.t5_encoder(32),
        "unet": diffusers.Kandinsky3UNet(
            in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
            block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=32,
        ),
        "scheduler": diffusers.DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="squaredcos_cap_v2", clip_sample=True
        ),
        "movq": movq(),
    }  # fmt: skip


@builds("IFPipeline")
def deepfloyd() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=64, layers_per_block=1, block_out_channels=[16, 32],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], in_channels=3, out_channels=6,
        cross_attention_dim=32, encoder_hid_dim=32, attention_head_dim=8, addition_embed_type="text",
        addition_embed_type_num_heads=2, cross_attention_norm="group_norm", resnet_time_scale_shift="scale_shift",
        act_fn="gelu", norm_num_groups=4,
    )  # fmt: skip
    return {
        "tokenizer": tiny.tokenizer(77),
        "text_encoder": tiny.t5_encoder(32),
        "unet": unet,
        "scheduler": diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.0,
            variance_type="learned_range",
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }  # fmt: skip


@builds("LDMTextToImagePipeline")
def ldm() -> dict[str, Any]:
    return {
        "vqvae": vae(),
        "bert": transformers.CLIPTextModel(tiny.text_config(max_position_embeddings=77)),
        "tokenizer": tiny.tokenizer(77),
        "unet": tiny.unet(),
        "scheduler": diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False),
    }


@builds("StableDiffusionPAGPipeline")
def sd_pag() -> dict[str, Any]:
    return parts_of(tiny.build_sd15, "StableDiffusionPipeline") | {"requires_safety_checker": False}


@builds("StableDiffusionXLPAGPipeline")
def sdxl_pag() -> dict[str, Any]:
    return parts_of(tiny.build_sdxl, "StableDiffusionXLPipeline") | {"add_watermarker": False}


@builds("KolorsPipeline", "KolorsPAGPipeline")
def kolors() -> dict[str, Any]:
    config = ChatGLMConfig(
        num_layers=2, padded_vocab_size=128, hidden_size=WIDTH, ffn_hidden_size=WIDTH, kv_channels=8,
        num_attention_heads=2, seq_length=256, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True,
        original_rope=True,
    )  # fmt: skip
    text_encoder = ChatGLMModel(config, empty_init=False).eval()
    for weights in text_encoder.parameters():  # its norms are left as memory was
        torch.nn.init.normal_(weights, std=0.2) if weights.dim() > 1 else torch.nn.init.ones_(weights)
    return {
        "vae": vae(),
        "text_encoder": text_encoder,
        "tokenizer": chatglm_tokenizer(),
        "unet": tiny.unet(
            cross_attention_dim=WIDTH, attention_head_dim=(2, 4), use_linear_projection=True,
            transformer_layers_per_block=(1, 1), addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        "scheduler": diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    }  # fmt: skip


@cache
def chatglm_tokenizer() -> Any:
    """Its words are pieces that sentencepiece finds in ours. It reads its file again whenever it is saved."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(tiny.WORDS)] * 4), model_writer=made, vocab_size=40, model_type="bpe",
        minloglevel=2,
    )  # fmt: skip
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "tokenizer.model"
    path.write_bytes(made.getvalue())
    return ChatGLMTokenizer(str(path))
