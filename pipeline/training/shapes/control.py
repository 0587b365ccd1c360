"""Stage "controlnet": a ControlNet learns to draw figures along the lines of an edge map; the U-Net stays as it is.

Scenes and latents are those of the stage "unet". Most captions name colours alone, so that shape, size and place can
only be read from the map.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.styles import edge_maps, overlap
from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Claims, ObjectClaim, Scene
from promptmill.pipeline.training.loop import Stage, StepRandom
from promptmill.pipeline.training.shapes.conditioned import Cache
from promptmill.pipeline.training.shapes.settings import GUIDANCE, STEPS, ControlSettings
from promptmill.pipeline.training.shapes.text import shared_tokenizer
from promptmill.pipeline.training.shapes.unet import DenoisingLoss, build_scheduler


def build(unet: UNet2DConditionModel, settings: ControlSettings) -> ControlNetModel:
    """A copy of the U-Net's first half. The embedding's last layer starts as any other does, not at zero.

    The outputs' own zero convolutions keep the first image unchanged; with two layers of zeros in a row nothing was
    learned for a thousand steps.
    """
    model: ControlNetModel = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=settings.embedding)
    model.controlnet_cond_embedding.conv_out.reset_parameters()
    return model.requires_grad_(True)


def write_caption(scene: Scene, settings: ControlSettings, rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < settings.caption_drop:
        return ""
    if kind < settings.caption_drop + settings.anything:
        return captions.write(captions.claims_at_random(scene, rng), rng)
    said = captions.claims_of_scene(scene)
    objects = tuple(ObjectClaim(colour=o.colour) for o in said.objects)
    ground = scene.ground if rng.random() < 0.3 else None
    return captions.write(Claims(objects, said.relation, ground), rng)


def train(
    stage: Stage, settings: ControlSettings, cache: Cache, text: CLIPTextModel, unet: UNet2DConditionModel
) -> ControlNetModel:
    device, loss = stage.device, DenoisingLoss(text, settings.focus)

    def losses(now: StepRandom) -> dict[str, Tensor]:
        rng, n = now.numpy, stage.batch
        chosen = rng.integers(len(cache.scenes), size=n)
        scenes = [cache.scenes[i] for i in chosen]
        maps = to_map(edge_maps(scenes, rng.uniform(*settings.width_px, n))).to(device)
        texts = [write_caption(scene, settings, rng) for scene in scenes]
        latents = cache.latents[torch.from_numpy(chosen)].to(device).float()

        def predict(*given: Tensor) -> Tensor:
            down, mid = stage.module(*given, controlnet_cond=maps, return_dict=False)
            steered: Tensor = unet(
                *given, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
            return steered

        return {"loss": loss(predict, latents, texts, now)}

    def measured(model: nn.Module) -> dict[str, float]:
        return measure(assemble(cache.vae, text, unet, model), 48)

    model = stage.run(losses, measured, measure_every=1000)
    assert isinstance(model, ControlNetModel)
    return model


def to_map(maps: np.ndarray) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [0, 1]."""
    return torch.from_numpy(maps).permute(0, 3, 1, 2).contiguous().float() / 255


def assemble(
    vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel, net: nn.Module
) -> StableDiffusionControlNetPipeline:
    pipeline = StableDiffusionControlNetPipeline(
        vae=vae, text_encoder=text, tokenizer=shared_tokenizer(), unet=unet, controlnet=net,
        scheduler=build_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def measure(pipeline: StableDiffusionControlNetPipeline, n: int, seed: int = 0, batch: int = 24) -> dict[str, float]:
    """Held-out prompts that name a colour alone, each with the edge map of another held-out scene.

    `overlap` is the median intersection over union with the map's figure; `right`: colour as the prompt says, and
    shape, size and place as in the map.
    """
    prompts = sample_prompts(n, 5 + seed, "held_out", "colour")
    scenes = [p.scene for p in sample_prompts(n, 6 + seed, "held_out", "one")]
    overlaps, right, colours = [], [], []
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        texts = [p.caption for p in prompts[part]]
        images = pipeline(
            texts,
            image=[Image.fromarray(m) for m in edge_maps(scenes[part])],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(texts))],
            output_type="np",
        ).images
        for image, prompt, scene in zip(
            (images * 255).round().astype(np.uint8), prompts[part], scenes[part], strict=True
        ):
            thing, colour = scene.objects[0], prompt.truth["objects"][0]["colour"]
            overlaps.append(overlap(image, scene))
            found = verify(image, Claims((ObjectClaim(colour, thing.shape, thing.size, thing.place),)))
            right.append(found.correct)
            colours.append(found.claims["colour"])
    return {
        "overlap": round(float(np.median(overlaps)), 4),
        "right": round(float(np.mean(right)), 4),
        "colour": round(float(np.mean(colours)), 4),
    }
