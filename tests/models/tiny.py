"""Real pipelines of random weights, built from configuration in under a second and small enough for one busy core.

All make images of 64×64 pixels. Their tokenizers split words, know `WORDS` and hold 16 tokens (CLIP) or 32 (T5).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = (
    *("a", "an", "the", "of", "on", "and", "left", "right", "above", "below", "red", "green", "blue", "yellow"),
    *("circle", "square", "triangle", "star", "blurry"),
)
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
        **{
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 64,
            "max_position_embeddings": CLIP_TOKENS,
            "projection_dim": width,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        | changes
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


def unet(**changes: Any) -> UNet2DConditionModel:
    usual: dict[str, Any] = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(
        sample_size=SIZE // VAE_FACTOR,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        **usual | changes,
    )


def build_sd15(folder: Path, **components: Any) -> Path:
    """StableDiffusionPipeline of 64×64 pixels; `components` replaces parts of it."""
    torch.manual_seed(0)
    parts = {
        "vae": autoencoder(),
        "text_encoder": CLIPTextModel(text_config()),
        "tokenizer": tokenizer(CLIP_TOKENS),
        "unet": unet(),
        "scheduler": DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
    } | components
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def build_sd15_crossing(folder: Path) -> Path:
    """With attention in its first block and not in its last, as Stable Diffusion has it and T2I-Adapters expect."""
    crossing = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    return build_sd15(folder, unet=unet(**crossing, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")))


def build_sd15_masked(folder: Path) -> Path:
    """With a U-Net of 9 channels, which is given the mask and the image beside it; saved as its own class."""
    return saved_as("StableDiffusionInpaintPipeline", build_sd15(folder, unet=unet(in_channels=9)))


def build_sdxl_masked(folder: Path) -> Path:
    return saved_as("StableDiffusionXLInpaintPipeline", build_sdxl(folder, in_channels=9))


def saved_as(name: str, folder: Path) -> Path:
    """The classes have the same parts."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": name}))
    return folder


def build_sdxl(folder: Path, in_channels: int = 4) -> Path:
    """StableDiffusionXLPipeline of 64×64 pixels: two text encoders, and zeros where there is no negative prompt."""
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(CLIP_TOKENS),
        tokenizer_2=tokenizer(CLIP_TOKENS),
        unet=unet(
            in_channels=in_channels,
            cross_attention_dim=64,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def build_sd3(folder: Path, channels: int = 4) -> Path:
    """StableDiffusion3Pipeline of 64×64 pixels with its three text encoders."""
    torch.manual_seed(0)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIZE // VAE_FACTOR,
            patch_size=2,
            in_channels=channels,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            out_channels=channels,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            channels, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(CLIP_TOKENS),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer_2=tokenizer(CLIP_TOKENS),
        text_encoder_3=t5_encoder(width=64),
        tokenizer_3=tokenizer(T5_TOKENS),
    ).save_pretrained(folder)
    return folder


def build_flux(folder: Path, distilled: bool = True) -> Path:
    """FluxPipeline; its own size is 1024×1024 whatever the configuration says, so ask for 64×64."""
    torch.manual_seed(0)
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=distilled,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.11, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(CLIP_TOKENS),
        text_encoder_2=t5_encoder(width=32),
        tokenizer_2=tokenizer(T5_TOKENS),
    ).save_pretrained(folder)
    return folder


def build_pixart(folder: Path) -> Path:
    """PixArtSigmaPipeline of 64×64 pixels, with a T5 encoder and attention masks."""
    torch.manual_seed(0)
    PixArtSigmaPipeline(
        tokenizer=tokenizer(T5_TOKENS),
        text_encoder=t5_encoder(width=32),
        vae=autoencoder(),
        transformer=PixArtTransformer2DModel(
            sample_size=SIZE // VAE_FACTOR,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=32,
            out_channels=8,
            norm_type="ada_norm_single",
        ),
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    ).save_pretrained(folder)
    return folder


def build_flux_undistilled(folder: Path) -> Path:
    return build_flux(folder, distilled=False)


def build_lcm(folder: Path) -> Path:
    """LatentConsistencyModelPipeline: guidance is an input of its U-Net, and its call takes no negative prompt."""
    torch.manual_seed(0)
    LatentConsistencyModelPipeline(
        vae=autoencoder(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(CLIP_TOKENS),
        unet=unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def build_sana(folder: Path) -> Path:
    """SanaPipeline of 64×64 pixels: another autoencoder, a language model for text, DPM-Solver along a flow."""
    torch.manual_seed(0)
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    language = Gemma2Config(
        head_dim=16,
        hidden_size=32,
        intermediate_size=32,
        max_position_embeddings=512,
        num_attention_heads=2,
        num_hidden_layers=1,
        num_key_value_heads=1,
        vocab_size=64,
    )
    SanaPipeline(
        tokenizer=tokenizer(512),
        text_encoder=Gemma2Model(language),
        vae=vae,
        transformer=SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=32,
            sample_size=32,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
        ),
    ).save_pretrained(folder)
    return folder


def safety_parts() -> dict[str, Any]:
    """A safety checker for `build_sd15` that finds every image unsafe: its thresholds are as low as they go."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=16, vision_config={**vision, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2.0)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {"safety_checker": checker, "feature_extractor": processor}


def t5_encoder(width: int) -> T5EncoderModel:
    return T5EncoderModel(T5Config(d_model=width, d_ff=64, d_kv=8, num_layers=2, num_heads=4, vocab_size=64))


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
    model = open_clip.CLIP(**dict(model_cfg.items()))
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
