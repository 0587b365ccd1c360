"""What conditions the built-in model: `python -m promptmill.pipeline.training.shapes.train_conditions --out runs/c`.

Stages "controlnet" (an edge map says where the outlines are), "hollow" and "wide" (a LoRA of a style each); each can be
run alone, interrupted and continued by the same command, as those of `train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft.utils import get_peft_model_state_dict

from promptmill.pipeline.shapes.render import render_batch
from promptmill.pipeline.shapes.styles import render_styled
from promptmill.pipeline.training.loop import Stage
from promptmill.pipeline.training.schedule import Schedule
from promptmill.pipeline.training.shapes import control, lora
from promptmill.pipeline.training.shapes.conditioned import encode, sample_scenes, shipped_parts
from promptmill.pipeline.training.shapes.settings import ControlSettings, LoraSettings

ORDER = ("controlnet", "hollow", "wide")


def train_controlnet(settings: ControlSettings, out: Path, device: torch.device, stop_at: int | None = None) -> None:
    vae, text, unet = shipped_parts(device)
    cache = encode(vae, sample_scenes(settings.cached, settings.pair_share, settings.seed, 96), render_batch)
    torch.manual_seed(settings.seed)
    stage = Stage("controlnet", control.build(unet, settings), settings.plan, settings.seed, out, device, stop_at)
    stage.restore()
    model = control.train(stage, settings, cache, text, unet)
    if stage.finished:
        model.half().save_pretrained(out / "controlnet")


def train_style(
    style: str, settings: LoraSettings, out: Path, device: torch.device, stop_at: int | None = None
) -> None:
    vae, text, unet = shipped_parts(device)
    scenes = sample_scenes(settings.cached, settings.pair_share, settings.seed, 97)
    cache = encode(vae, scenes, lambda some: render_styled(some, [style]))
    torch.manual_seed(settings.seed)
    stage = Stage(style, lora.Adapted(unet, settings), settings.plan, settings.seed, out, device, stop_at)
    stage.restore()
    adapted = lora.train(stage, settings, cache, text)
    if stage.finished:
        state = {name: value.half() for name, value in get_peft_model_state_dict(adapted).items()}
        StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=state, weight_name=f"{style}.safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    module = "promptmill.pipeline.training.shapes.train_conditions"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=__doc__)
    parser.add_argument("--stage", choices=ORDER, help="only this stage (default: all, in order)")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log and weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, help="steps of the stage, instead of the number in settings.py")
    parser.add_argument("--cached", type=int, help="scenes to learn from, instead of the number there")
    parser.add_argument("--stop-at", type=int, help="stop at this step with a checkpoint, as an interruption would")
    parser.add_argument("--threads", type=int, help="torch threads; results are the same only for the same number")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    def plan(given: Schedule) -> Schedule:
        return replace(given, steps=options.steps or given.steps)

    for name in [options.stage] if options.stage else ORDER:
        if name == "controlnet":
            net = ControlSettings()
            net = replace(net, plan=plan(net.plan), cached=options.cached or net.cached)
            train_controlnet(net, options.out, device, options.stop_at)
        else:
            own = LoraSettings()
            own = replace(own, plan=plan(own.plan), cached=options.cached or own.cached)
            train_style(name, own, options.out, device, options.stop_at)


if __name__ == "__main__":
    main()
