"""`python -m tests.benchmarks.gpu`: what scoring, encoding and writing cost beside a GPU, in one process.

The pipeline has the architecture of Stable Diffusion XL and the scorer that of CLIP ViT-L/14, both with random weights:
speed does not depend on them. `--small` builds the same of a few channels, to see on a CPU that this runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.compare import VARIANTS, Comparison, Goal, compare, comparison_table, goals_table
from tests.benchmarks.measure import end_children_when_ended
from tests.benchmarks.setting import Setting
from tests.benchmarks.task import machine, write_prompts

IN_PROCESS: Final = ("bare", "script", "in-process")
COST_GOAL: Final = 0.01


def main() -> int:
    end_children_when_ended()
    options = parse()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        setting = prepare(options, Path(name))
        comparison = compare(setting, IN_PROCESS, options.rounds, console.print)
    caption = (
        f"{options.images} images of {options.side}×{options.side}, {options.steps} steps, batches of {options.batch}, "
        f"{setting.dtype} on {device_name(setting.device)}; medians of {options.rounds}"
    )
    console.print(comparison_table(comparison, caption))
    console.print(stages_table(comparison))
    goals = cost_goals(comparison)
    console.print(goals_table(goals))
    if options.json:
        found = {"device": device_name(setting.device), "options": vars(options), "variants": comparison.as_json()}
        found["goals"] = [{**asdict(goal), "state": goal.state} for goal in goals]
        Path(options.json).write_text(json.dumps(found, indent=2))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="images for each variant (128)")
    parser.add_argument("--side", type=int, default=1024, help="pixels (1024)")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    parser.add_argument("--batch", type=int, default=8, help="images in one batch (8)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant, of which the median counts (3)")
    parser.add_argument("--small", action="store_true", help="a few channels only")
    parser.add_argument("--json", metavar="FILE", help="write every measurement there")
    return parser.parse_args()


def prepare(options: argparse.Namespace, folder: Path) -> Setting:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    build_sdxl(folder / "model", options.small, device)
    build_clip(folder / "clip", options.small)
    return Setting(
        folder="",
        source=write_prompts(folder / "prompts.parquet", options.images),
        model=str(folder / "model"),
        clip=str(folder / "clip"),
        images=options.images,
        steps=options.steps,
        batch=options.batch,
        images_per_file=4 * options.batch,
        side=options.side,
        dtype="bfloat16" if device == "cuda" else "float32",
        device=device,
    )


def build_sdxl(folder: Path, small: bool, device: str) -> None:
    """Saved in bfloat16, as the published weights are in half precision."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from tests.models import tiny

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            pipe = StableDiffusionXLPipeline(
                unet=UNet2DConditionModel(**unet_config(small)),
                vae=AutoencoderKL(**vae_config(small)),
                text_encoder=CLIPTextModel(text_config(768, 12, 12, "quick_gelu", small)),
                text_encoder_2=CLIPTextModelWithProjection(text_config(1280, 32, 20, "gelu", small)),
                tokenizer=tiny.tokenizer(77),
                tokenizer_2=tiny.tokenizer(77),
                scheduler=EulerDiscreteScheduler(
                    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
                ),
                add_watermarker=False,
            )
        pipe.to(dtype=torch.bfloat16).save_pretrained(folder)
    finally:
        torch.set_default_dtype(torch.float32)


def unet_config(small: bool) -> dict[str, Any]:
    """2.6 billion parameters, as in `stabilityai/stable-diffusion-xl-base-1.0`."""
    return {
        "sample_size": 128,
        "block_out_channels": (32, 64, 128) if small else (320, 640, 1280),
        "layers_per_block": 1 if small else 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 1, 1) if small else (1, 2, 10),
        "attention_head_dim": (2, 4, 8) if small else (5, 10, 20),
        "cross_attention_dim": 128 if small else 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + (64 if small else 1280),
    }


def vae_config(small: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (32, 32, 32, 32) if small else (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1 if small else 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
        "sample_size": 1024,
    }


def text_config(width: int, layers: int, heads: int, activation: str, small: bool) -> Any:
    from transformers import CLIPTextConfig

    width, layers, heads = (64, 2, 4) if small else (width, layers, heads)
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=activation,
    )


def build_clip(folder: Path, small: bool) -> None:
    """As an open_clip `local-dir:` folder; its tokenizer is the one that open_clip brings along."""
    import open_clip
    from safetensors.torch import save_file

    config = open_clip.get_model_config("ViT-B-32" if small else "ViT-L-14")
    folder.mkdir()
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else machine()


def stages_table(comparison: Comparison) -> Table:
    """Seconds of the last run of Promptmill; encode and write are what generation could not hide."""
    table = Table(title="Promptmill's shards, seconds by stage", title_justify="left")
    stages = list(comparison.rounds["in-process"].values())[-1].more["stages"]
    for stage in stages:
        table.add_column(stage, justify="right")
    table.add_row(*(f"{seconds:.2f}" for seconds in stages.values()))
    return table


def cost_goals(comparison: Comparison) -> list[Goal]:
    kept = comparison.ratio("in-process", "warm_rate", "bare")
    cost = None if kept is None else 1 - kept
    text = "scoring, encoding and writing, as a share of the bare loop's rate: under 0.01"
    return [Goal(text, cost, cost is not None and cost < COST_GOAL)]


assert set(IN_PROCESS) <= VARIANTS.keys()

if __name__ == "__main__":
    raise SystemExit(main())
