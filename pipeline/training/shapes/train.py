"""Train the built-in model: `python -m promptmill.pipeline.training.shapes.train --out runs/shapes`, on a CPU or a GPU.

Stages, each of which can be run alone, interrupted (also by a power cut) and continued by the same command: "vae",
"text", "unet", "decoder", "clip" (both after "unet"), "export". Losses and verified shares go to `log.jsonl` in the
output folder, checkpoints beside it. Several processes share each batch when started with
`torchrun --nproc-per-node 2 -m promptmill.pipeline.training.shapes.train ...`.
`--start-from pipeline/shapes/weights` trains the shipped weights further.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

from promptmill.pipeline.training.loop import Stage
from promptmill.pipeline.training.schedule import Schedule
from promptmill.pipeline.training.shapes import clip, export, text, unet, vae
from promptmill.pipeline.training.shapes.clip import Towers
from promptmill.pipeline.training.shapes.drawn import draw_set
from promptmill.pipeline.training.shapes.settings import WEIGHTS, ClipSettings, Settings, TextSettings
from promptmill.pipeline.training.shapes.text import Parser


class Training:
    """One output folder: each stage reads what earlier ones left there, or what came with the weights `start`."""

    def __init__(
        self,
        settings: Settings,
        out: Path,
        device: torch.device,
        steps: int | None = None,
        rate: float | None = None,
        stop_at: int | None = None,
        start: Path | None = None,
    ) -> None:
        self.settings, self.out, self.device = settings, out, device
        self.steps, self.rate, self.stop_at, self.start = steps, rate, stop_at, start
        for name in ("vae", "text_encoder", "unet"):
            if start and not (out / name).exists():
                shutil.copytree(start / "model" / name, out / name)

    def plan(self, plan: Schedule) -> Schedule:
        return replace(plan, steps=self.steps or plan.steps, rate=self.rate or plan.rate)

    def stage(self, name: str, build: Callable[[], torch.nn.Module], plan: Schedule) -> Stage:
        """The stage as its checkpoint left it, or with fresh weights that depend on the seed alone."""
        torch.manual_seed(self.settings.seed)
        stage = Stage(name, build(), plan, self.settings.seed, self.out, self.device, self.stop_at)
        stage.restore()
        return stage

    def vae(self) -> None:
        settings = replace(self.settings.vae, plan=self.plan(self.settings.vae.plan))
        stage = self.stage("vae", lambda: self.load_vae("vae") if self.start else vae.build(settings), settings.plan)
        model = vae.train(stage, settings)
        if stage.finished:
            vae.standardise(model, self.device)
            model.save_pretrained(self.out / "vae")

    def text(self) -> None:
        settings = replace(self.settings.text, plan=self.plan(self.settings.text.plan))
        stage = self.stage("text", lambda: self.build_parser(settings), settings.plan)
        encoder = text.train(stage, settings)
        if stage.finished:
            encoder.save_pretrained(self.out / "text_encoder")

    def decoder(self) -> None:
        settings = replace(self.settings.vae, decoder_plan=self.plan(self.settings.vae.decoder_plan))
        stage = self.stage("decoder", lambda: vae.freeze_encoder(self.load_vae("vae")), settings.decoder_plan)
        encoder, drawer = self.load_text(), self.load_unet()
        model = vae.train_decoder(
            stage,
            settings,
            lambda latents, scenes, now: unet.redraw(drawer, encoder, self.settings.unet, latents, scenes, now),
            lambda decoder: unet.measure(unet.assemble(decoder, encoder, drawer), self.settings.unet.guidance),
        )
        if stage.finished:
            model.save_pretrained(self.out / "vae_decoder")

    def unet(self) -> None:
        settings = replace(self.settings.unet, plan=self.plan(self.settings.unet.plan))
        stage = self.stage("unet", self.build_unet, settings.plan)
        encoder = self.load_text()
        model = unet.train(stage, settings, self.load_vae("vae"), encoder)
        if stage.finished:
            model.save_pretrained(self.out / "unet")

    def clip(self) -> None:
        settings = replace(self.settings.clip, plan=self.plan(self.settings.clip.plan))
        stage = self.stage("clip", lambda: self.build_clip(settings), settings.plan)
        pipeline = unet.assemble(self.newest_vae(), self.load_text(), self.load_unet())
        clip.train(stage, settings, draw_set(pipeline, settings.drawn, self.settings.seed, self.out))

    def export(self) -> None:
        """Everything at hand, also of stages that have not ended yet, to `weights/` in the output folder."""
        if (self.out / "vae").exists():
            stage = self.stage("unet", self.build_unet, self.settings.unet.plan)
            assert isinstance(stage.average, UNet2DConditionModel)
            export.export_model(self.out / "weights" / "model", self.newest_vae(), self.load_text(), stage.average)
        stage = self.stage("clip", lambda: self.build_clip(self.settings.clip), self.settings.clip.plan)
        assert isinstance(stage.average, Towers)
        export.export_clip(self.out / "weights" / "clip", stage.average.clip, self.settings.clip)

    def build_unet(self) -> UNet2DConditionModel:
        model = unet.build(self.settings.unet, self.settings.vae, self.settings.text)
        if self.start:
            model.load_state_dict(load_file(self.start / "model" / "unet" / "diffusion_pytorch_model.safetensors"))
        return model

    def build_parser(self, settings: TextSettings) -> Parser:
        return Parser(settings, self.load_text().train().requires_grad_(True) if self.start else None)

    def build_clip(self, settings: ClipSettings) -> Towers:
        towers = Towers(settings)
        if self.start:
            towers.clip.load_state_dict(load_file(self.start / "clip" / "open_clip_model.safetensors"))
        return towers

    def load_vae(self, name: str) -> AutoencoderKL:
        model: AutoencoderKL = AutoencoderKL.from_pretrained(self.out / name)
        return model.to(self.device)

    def newest_vae(self) -> AutoencoderKL:
        """The VAE with the decoder as far as its own stage has come, in this process or another."""
        if not (self.out / "decoder.checkpoint.pt").exists():
            return self.load_vae("vae")
        plan = self.settings.vae.decoder_plan
        stage = Stage("decoder", self.load_vae("vae"), plan, self.settings.seed, self.out, self.device)
        state = torch.load(stage.checkpoint, map_location=self.device, weights_only=True)
        model = self.load_vae("vae")
        model.load_state_dict(state["average"])
        return model.eval()

    def load_unet(self) -> UNet2DConditionModel:
        model: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(self.out / "unet")
        return model.to(self.device).eval().requires_grad_(False)

    def load_text(self) -> CLIPTextModel:
        encoder: Any = CLIPTextModel.from_pretrained(self.out / "text_encoder", attn_implementation="eager")
        frozen: CLIPTextModel = encoder.to(self.device).eval().requires_grad_(False)
        return frozen


ORDER = ("vae", "text", "unet", "decoder", "clip", "export")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m promptmill.pipeline.training.shapes.train", description=__doc__)
    parser.add_argument("--stage", choices=ORDER, help="only this stage (default: all, in order)")
    parser.add_argument(
        "--out", type=Path, required=True, help=f"folder for checkpoints, log and weights; copy to {WEIGHTS.name}/"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; both compute in bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="steps of the stage, instead of the number in settings.py")
    parser.add_argument("--rate", type=float, help="highest learning rate of the stage, instead of the one there")
    parser.add_argument("--start-from", type=Path, metavar="WEIGHTS", help="train these weights further")
    parser.add_argument("--stop-at", type=int, help="stop at this step with a checkpoint, as an interruption would")
    parser.add_argument("--threads", type=int, help="torch threads; results are the same only for the same number")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("nccl" if options.device == "cuda" else "gloo")
    settings = replace(Settings(), seed=options.seed)
    device = torch.device(options.device)
    training = Training(settings, options.out, device, options.steps, options.rate, options.stop_at, options.start_from)
    for name in [options.stage] if options.stage else ORDER:
        getattr(training, name)()


if __name__ == "__main__":
    main()
