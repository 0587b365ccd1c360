"""A tiny pipeline of random weights for each text-to-image class of the installed diffusers that has a row below.

Sizes follow what the classes accept, found in their own signatures; those of tests/models/tiny.py are used too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.guiders import AdaptiveProjectedMixGuidance

from tests.models import tiny

Build = Callable[[], dict[str, Any]]
BUILDERS: dict[str, Build] = {}
"""Class → arguments of its constructor."""

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


def build(name: str, folder: Path) -> Path:
    """Saves the pipeline; sd15, sdxl and their kin come from tests/models/tiny.py."""
    if name in OLDER:
        return OLDER[name](folder)
    torch.manual_seed(0)
    pipe = getattr(diffusers, name)(**BUILDERS[name]())
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            wake(part)
    pipe.save_pretrained(folder)
    return folder


def wake(module: torch.nn.Module) -> None:
    """Gates that training would open are zero at first: nothing of the prompt would pass them."""
    for _, weights in module.named_parameters():
        if weights.dim() > 1 and not weights.any():
            torch.nn.init.normal_(weights, std=0.2)


OLDER: dict[str, Callable[[Path], Path]] = {
    "StableDiffusionPipeline": tiny.build_sd15,
    "StableDiffusionXLPipeline": tiny.build_sdxl,
    "StableDiffusion3Pipeline": tiny.build_sd3,
    "FluxPipeline": tiny.build_flux,
    "PixArtSigmaPipeline": tiny.build_pixart,
    "SanaPipeline": tiny.build_sana,
    "LatentConsistencyModelPipeline": tiny.build_lcm,
}


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


def qwen_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True],
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
def z_image() -> dict[str, Any]:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, norm_eps=1e-5, qk_norm=True, cap_feat_dim=WIDTH, rope_theta=256.0, t_scale=1000.0,
        axes_dims=[8, 4, 4], axes_lens=[1024, 64, 64],
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


def flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        sample_size=32, block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=1, norm_num_groups=1,
    )  # fmt: skip


def flux2_transformer(**changes: Any) -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), **changes,
    )  # fmt: skip


@builds("Flux2KleinPipeline")
def flux2_klein() -> dict[str, Any]:
    return {
        "tokenizer": chat_tokenizer(),
        "text_encoder": language("Qwen3", "Qwen3ForCausalLM", layers=28),
        "vae": flux2_vae(),
        "transformer": flux2_transformer(joint_attention_dim=3 * WIDTH, guidance_embeds=False),
        "scheduler": flow(use_dynamic_shifting=True),
        "is_distilled": False,
    }


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


def qwen2vl_processor(kind: str = "Qwen2_5_VLProcessor") -> Any:
    tokenizer = chat_tokenizer(2048, ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"))
    images = transformers.Qwen2VLImageProcessor()
    videos = getattr(transformers, "Qwen3VLVideoProcessor" if "3" in kind else "Qwen2VLVideoProcessor")()
    return getattr(transformers, kind)(images, tokenizer, videos, chat_template=CHAT)


@builds("HunyuanImagePipeline")
def hunyuan_image() -> dict[str, Any]:
    t5 = transformers.T5Config(
        d_model=32, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=384, is_encoder_decoder=False
    )
    return {
        "scheduler": flow(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanImage(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32, 32), layers_per_block=1,
            scaling_factor=0.47, spatial_compression_ratio=8, sample_size=64,
        ),
        "text_encoder": qwen25vl(32),
        "tokenizer": chat_tokenizer(2048),
        "text_encoder_2": transformers.T5EncoderModel(t5),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "transformer": diffusers.HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, patch_size=(1, 1), guidance_embeds=False, text_embed_dim=32,
            text_embed_2_dim=32, rope_axes_dim=(4, 4),
        ),
        "guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
        "ocr_guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3),
    }  # fmt: skip


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
