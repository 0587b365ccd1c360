"""Measure the weights: `python -m promptmill.pipeline.training.shapes.evaluate --samples 1000 --seed 0 [--json]`.

Prompts are of combinations that training never saw. Images come from `StableDiffusionPipeline.from_pretrained`, scores
from open_clip's `local-dir:`, verdicts from `verify`, which sees pixels alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.suite import ShapesPrompt, sample_prompts
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Claims, Kind
from promptmill.pipeline.training.shapes.settings import GUIDANCE, STEPS, WEIGHTS
from promptmill.pipeline.training.shapes.unet import generate

SCORED_KINDS: tuple[Kind, ...] = ("one", "placed", "two")
STEP_COUNTS = (1, 2, 5, 10, 20, 50)
GUIDANCES = (1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 7.5)
SCHEDULERS = (
    DPMSolverMultistepScheduler,
    DDIMScheduler,
    UniPCMultistepScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
)
Images = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Models:
    pipeline: StableDiffusionPipeline
    clip: Any
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    load_s: float


def load(weights: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> Models:
    """Both models through the public loaders; `dtype` is the generator's, the CLIP computes in float32."""
    started = time.monotonic()
    pipeline = StableDiffusionPipeline.from_pretrained(weights / "model", use_safetensors=True, dtype=dtype)
    load_s = time.monotonic() - started
    pipeline.set_progress_bar_config(disable=True)
    name = f"local-dir:{weights / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return Models(pipeline, model.eval(), preprocess, open_clip.get_tokenizer(name), load_s)


@torch.no_grad()
def clip_scores(models: Models, images: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> NDArray[np.float32]:
    """Cosine of each image with the text at the same index: float [n] in [-1, 1]."""
    parts = []
    for start in range(0, len(texts), 64):
        pixels = torch.stack([models.preprocess(Image.fromarray(i)) for i in images[start : start + 64]])
        ids = models.tokenizer(list(texts[start : start + 64]))
        seen, read = models.clip.encode_image(pixels, normalize=True), models.clip.encode_text(ids, normalize=True)
        parts.append((seen * read).sum(-1).numpy())
    return np.concatenate(parts)


def verified(images: Images, prompts: Sequence[ShapesPrompt]) -> NDArray[np.bool_]:
    return np.array([verify(i, p.truth).correct for i, p in zip(images, prompts, strict=True)])


def area_under_curve(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """The chance that a right image scores above a wrong one; NaN if all are one or the other."""
    good, bad = scores[right], scores[~right]
    if len(good) == 0 or len(bad) == 0:
        return float("nan")
    return float(np.mean((good[:, None] > bad[None]) + 0.5 * (good[:, None] == bad[None])))


def clip_pairs(models: Models, samples: int, seed: int) -> dict[str, float]:
    """By kind of claim, the share of held-out renders whose true caption scores above one changed in that claim."""
    images: Images = []
    true: list[str] = []
    changed: list[str] = []
    kinds: list[str] = []
    for kind in SCORED_KINDS:
        for index, prompt in enumerate(sample_prompts(samples, seed + 1, "held_out", kind)):
            claims = Claims.from_dict(prompt.truth)
            image = render(prompt.scene)
            for change in captions.changeable(claims):
                rng = np.random.default_rng([seed, index, len(kinds)])
                images.append(image)
                true.append(prompt.caption)
                changed.append(captions.write(captions.change_one(claims, change, rng), rng))
                kinds.append(change)
    above = clip_scores(models, images, true) > clip_scores(models, images, changed)
    return {k: share(above[np.array(kinds) == k]) for k in dict.fromkeys(kinds)}


def share(values: NDArray[np.bool_]) -> float:
    return round(float(np.mean(values)), 4)


def best_of(models: Models, count: int, samples: int, seed: int) -> dict[str, float]:
    """Verified share of one image a prompt and of the one that the CLIP scores highest among `count`."""
    prompts = [p for k in SCORED_KINDS for p in sample_prompts(samples // 3, seed + 2, "held_out", k)]
    texts = [p.caption for p in prompts]
    right, scores = [], []
    for draw in range(count):
        images = generate(models.pipeline, texts, GUIDANCE, seed=seed + 10 + draw)
        right.append(verified(images, prompts))
        scores.append(clip_scores(models, images, texts))
    table, chosen = np.stack(right), np.stack(scores).argmax(0)
    single, best = float(table.mean()), float(table[chosen, np.arange(len(prompts))].mean())
    closed = (best - single) / (1 - single) if single < 1 else 1.0
    any_right = round(float(table.any(0).mean()), 4)
    return {"single": round(single, 4), "best": round(best, 4), "closed": round(closed, 4), "any": any_right}


def sweep(models: Models, samples: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Verified shares by kind: over step counts, guidance scales and schedulers, the others at their defaults."""
    default = models.pipeline.scheduler

    def measure(steps: int = STEPS, guidance: float = GUIDANCE) -> dict[str, float]:
        rows: dict[str, float] = {}
        for kind in SCORED_KINDS:
            prompts = sample_prompts(samples, seed + 3, "held_out", kind)
            images = generate(models.pipeline, [p.caption for p in prompts], guidance, steps, seed)
            rows[kind] = share(verified(images, prompts))
        return rows

    by_scheduler = {}
    for scheduler in SCHEDULERS:
        models.pipeline.scheduler = scheduler.from_config(default.config)
        by_scheduler[scheduler.__name__.removesuffix("Scheduler")] = measure()
    models.pipeline.scheduler = default
    return {
        "steps": {str(s): measure(steps=s) for s in STEP_COUNTS},
        "guidance": {str(g): measure(guidance=g) for g in GUIDANCES},
        "scheduler": by_scheduler,
    }


def milliseconds_per_image(models: Models, batch: int = 16) -> float:
    """A guided batch with all steps: the fastest of four, so that other work on the machine counts little."""
    texts = [p.caption for p in sample_prompts(batch, 0, "held_out", "two")]
    runs = []
    for _ in range(4):
        started = time.perf_counter()
        generate(models.pipeline, texts, GUIDANCE, batch=batch)
        runs.append(time.perf_counter() - started)
    return round(min(runs) / batch * 1000, 1)


def evaluate(
    weights: Path, samples: int, seed: int, with_sweep: bool = True, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """All figures; `samples` prompts of each kind, a tenth of that for each cell of the sweep."""
    models = load(weights, dtype)
    result: dict[str, Any] = {}
    scores, right = [], []
    for kind in SCORED_KINDS:
        prompts = sample_prompts(samples, seed, "held_out", kind)
        texts = [p.caption for p in prompts]
        images = generate(models.pipeline, texts, GUIDANCE, seed=seed)
        right.append(verified(images, prompts))
        scores.append(clip_scores(models, images, texts))
        result[kind] = share(right[-1])
    result["clip_pairs"] = clip_pairs(models, max(1, samples // 2), seed)
    result["clip_auc"] = round(area_under_curve(np.concatenate(scores), np.concatenate(right)), 4)
    result["best_of_4"] = best_of(models, 4, max(3, samples // 2), seed)
    result["ms_per_image"] = milliseconds_per_image(models)
    if with_sweep:
        result |= {f"by_{k}": v for k, v in sweep(models, max(1, samples // 10), seed).items()}
    result["settings"] = {
        "samples": samples,
        "seed": seed,
        "steps": STEPS,
        "guidance": GUIDANCE,
        "scheduler": type(models.pipeline.scheduler).__name__,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "load_s": round(models.load_s, 2),
        "torch": torch.__version__,
    }
    return result


def tables(result: dict[str, Any]) -> list[Table]:
    """The result as tables for a terminal."""
    n = result["settings"]["samples"]
    main = Table("figure", "value", title=f"built-in model, {n} held-out prompts a kind")
    for kind, words in (("one", "one object"), ("placed", "with place or size"), ("two", "two objects, relation")):
        main.add_row(f"{words}: right in every claim", f"{result[kind]:.1%}")
    for kind, value in result["clip_pairs"].items():
        main.add_row(f"CLIP: true caption above one with another {kind}", f"{value:.1%}")
    main.add_row("CLIP: area under the curve of score against verified", f"{result['clip_auc']:.3f}")
    best = result["best_of_4"]
    main.add_row("best of 4 by CLIP", f"{best['single']:.1%} → {best['best']:.1%} (closes {best['closed']:.0%})")
    main.add_row("milliseconds an image, batch 16", str(result["ms_per_image"]))
    out = [main]
    for by in ("steps", "guidance", "scheduler"):
        if f"by_{by}" in result:
            table = Table(by, *SCORED_KINDS)
            for name, row in result[f"by_{by}"].items():
                table.add_row(name, *(f"{row[k]:.1%}" for k in SCORED_KINDS))
            out.append(table)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m promptmill.pipeline.training.shapes.evaluate", description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="prompts of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the generator")
    parser.add_argument("--no-sweep", action="store_true", help="leave out the tables by steps, guidance and scheduler")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    result = evaluate(options.weights, options.samples, options.seed, not options.no_sweep, dtype)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        Console().print(*tables(result))


if __name__ == "__main__":
    main()
