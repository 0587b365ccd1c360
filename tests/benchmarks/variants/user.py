"""What a user of diffusers and open_clip would write, plain and fair; shared by the variants without Promptmill."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import diffusers
import open_clip
import torch
from PIL import Image

from tests.benchmarks.setting import Setting

if not torch.cuda.is_available():
    torch.set_num_threads(1)


def load_pipeline(setting: Setting) -> Any:
    auto = diffusers.AutoPipelineForText2Image if setting.strength is None else diffusers.AutoPipelineForImage2Image
    pipe = auto.from_pretrained(setting.model, torch_dtype=getattr(torch, setting.dtype), use_safetensors=True).to(
        setting.device
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], setting: Setting) -> list[Image.Image]:
    """One batch, each image with noise of its own, so that it could be made again."""
    images: list[Image.Image] = pipe(
        list(prompts),
        num_inference_steps=setting.steps,
        guidance_scale=setting.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds[: len(prompts)]],
        width=setting.side,
        height=setting.side,
    ).images
    return images


def draw_over(
    pipe: Any, prompts: Sequence[str], photos: Sequence[str], seeds: Sequence[int], setting: Setting
) -> list[Image.Image]:
    """One batch from files of images, each opened and brought to the model's size."""
    side = setting.side
    images: list[Image.Image] = pipe(
        list(prompts),
        image=[Image.open(photo).convert("RGB").resize((side, side), Image.Resampling.LANCZOS) for photo in photos],
        strength=setting.strength,
        num_inference_steps=setting.steps,
        guidance_scale=setting.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds[: len(prompts)]],
    ).images
    return images


class Clip:
    def __init__(self, setting: Setting) -> None:
        location = f"local-dir:{setting.clip}"
        self._model, self._transform = open_clip.create_model_from_pretrained(location, device=setting.device)
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(location)
        self._device = setting.device

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        with torch.inference_mode():
            pixels = torch.stack([self._transform(image) for image in images]).to(self._device)
            image = self._model.encode_image(pixels, normalize=True)
            text = self._model.encode_text(self._tokenize(list(prompts)).to(self._device), normalize=True)
            scores: list[float] = (image * text).sum(dim=1).float().cpu().tolist()
        return scores


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def rows(
    images: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int], scores: Sequence[float]
) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": png(image), "path": f"{seed}.png"}, "prompt": prompt, "seed": seed, "clip_score": score}
        for image, prompt, seed, score in zip(images, prompts, seeds, scores, strict=False)
    ]
