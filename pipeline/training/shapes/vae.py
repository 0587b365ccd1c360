"""Stage "vae": an AutoencoderKL that compresses by 8, trained on crops with edges and on whole images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from promptmill.pipeline.shapes.render import render_batch
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import SIZE_PX, Scene, sample_scene
from promptmill.pipeline.training.loop import Stage, StepRandom, autocast
from promptmill.pipeline.training.shapes.settings import VaeSettings


def build(settings: VaeSettings) -> AutoencoderKL:
    """Without attention in the middle, so that crops and larger images are coded as whole ones are."""
    levels = len(settings.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.groups,
        mid_block_add_attention=False,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
    )


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Float [n, 3, h, w] in [-1, 1] to uint8 [n, h, w, 3], rounded as diffusers' image processor does."""
    scaled = ((images.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def sample_images(rng: np.random.Generator, n: int, crop: bool) -> Tensor:
    """Half single objects, half pairs: [n, 3, 64, 64], or crops of 32 pixels with the outline of an object in them."""
    scenes = [sample_scene(rng, "train", 1 + i % 2) for i in range(n)]
    images = render_batch(scenes)
    if not crop:
        return to_tensor(images)
    side = SIZE_PX // 2
    out = np.empty((n, side, side, 3), np.uint8)
    for i, scene in enumerate(scenes):
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        angle, reach = rng.uniform(0, 2 * np.pi), thing.radius * rng.uniform(0, 1.1)
        x, y = (
            int(np.clip(c + reach * f(angle) - side / 2, 0, side)) for c, f in ((thing.x, np.cos), (thing.y, np.sin))
        )
        out[i] = images[i, y : y + side, x : x + side]
    return to_tensor(out)


def contrast(images: Tensor) -> Tensor:
    """[n, 1, h, w] in [0, 2]: how far a pixel's 3×3 neighbourhood spreads in the channel where it spreads most."""
    largest = functional.max_pool2d(images, 3, 1, 1)
    smallest = -functional.max_pool2d(-images, 3, 1, 1)
    return (largest - smallest).amax(1, keepdim=True)


def reconstruction_loss(output: Tensor, images: Tensor, edge_weight: float, even: bool = False) -> Tensor:
    """L1 plus squared error, outlines weighted by 1 + `edge_weight`; `even` weights faint outlines up to threefold.

    Without it purple on gray, the faintest pair, failed the verifier most often.
    """
    error, spread = output.float() - images, contrast(images)
    edges = (spread > 0.1).float()
    if even:
        edges = edges * (2 / spread.clamp(min=0.1)).clamp(1, 3)
    return ((error.abs() + error.square()) * (1 + edge_weight * edges)).mean()


def train(stage: Stage, settings: VaeSettings) -> AutoencoderKL:
    whole_from = int(settings.plan.steps * (1 - settings.full_share))

    def losses(now: StepRandom) -> dict[str, Tensor]:
        whole = now.step >= whole_from or now.step % settings.full_every == 0
        n = stage.batch // 4 if whole else stage.batch
        images = sample_images(now.numpy, n, crop=not whole).to(stage.device)
        with autocast(stage.device):
            posterior = stage.module.encode(images).latent_dist  # type: ignore[operator]
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=now.torch).to(stage.device)
            output = stage.module.decode(mean + noise * torch.exp(0.5 * logvar)).sample  # type: ignore[operator]
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        rebuilt = reconstruction_loss(output, images, settings.edge_weight)
        return {"loss": rebuilt + settings.kl_weight_at(now.step) * kl, "reconstruction": rebuilt, "kl": kl}

    model = stage.run(losses, lambda m: measure(m, stage.device))
    assert isinstance(model, AutoencoderKL)
    return model


@torch.no_grad()
def standardise(model: AutoencoderKL, device: torch.device, n: int = 256) -> None:
    """Centre the latents' channels and bring them to a common scale, inside the 1×1 convolutions around them.

    Each channel is divided by the root of its standard deviation, so that channels which carry more stay louder and
    are drawn first; over all channels the deviation becomes 1.
    """
    rng = np.random.default_rng(41)
    means = torch.cat([model.encode(sample_images(rng, 32, False).to(device)).latent_dist.mean for _ in range(n // 32)])
    channels = means.shape[1]
    centre, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    scale = (deviation * deviation.mean()).sqrt()
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:channels] /= scale[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - centre) / scale
    into.bias[channels:] -= 2 * scale.log()
    out.bias += out.weight[:, :, 0, 0] @ centre
    out.weight *= scale[None, :, None, None]


def train_decoder(
    stage: Stage,
    settings: VaeSettings,
    redraw: Callable[[Tensor, list[Scene], StepRandom], Tensor],
    measure_drawn: Callable[[nn.Module], dict[str, float]],
) -> AutoencoderKL:
    """Stage "decoder": the encoder stays, so that the U-Net's latents keep their meaning.

    Half of a batch are latents as the U-Net draws them (`redraw`): near the palette's colours and the shapes, not on
    them. The other half has up to `decoder_noise` posterior deviations of noise.
    """
    model = stage.module
    assert isinstance(model, AutoencoderKL)

    def losses(now: StepRandom) -> dict[str, Tensor]:
        scenes = [sample_scene(now.numpy, "train", 1 + i % 2) for i in range(stage.batch)]
        images = to_tensor(render_batch(scenes)).to(stage.device)
        half = stage.batch // 2
        with autocast(stage.device):
            with torch.no_grad():
                posterior = model.encode(images).latent_dist
                mean, deviation = posterior.mean.float(), posterior.std.float()
                noise = torch.randn(mean.shape, generator=now.torch)
                strength = torch.rand(len(mean), 1, 1, 1, generator=now.torch) * settings.decoder_noise
                noisy = mean + (noise * strength).to(stage.device) * deviation
                latents = torch.cat([redraw(mean[:half], scenes[:half], now), noisy[half:]])
            output = model.decode(latents).sample
        return {"loss": reconstruction_loss(output, images, settings.edge_weight, even=True)}

    def measure_both(decoder: nn.Module) -> dict[str, float]:
        drawn = {f"drawn_{name}": value for name, value in measure_drawn(decoder).items()}
        return measure(decoder, stage.device) | drawn

    stage.run(losses, measure_both, measure_every=300)
    assert isinstance(stage.average, AutoencoderKL)
    return stage.average


def freeze_encoder(model: AutoencoderKL) -> AutoencoderKL:
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    return model


def measure(model: nn.Module, device: torch.device, n: int = 200) -> dict[str, float]:
    """Round trip of `n` scenes that training never sees: mean error (range -1..1), share verified for one and two."""
    row: dict[str, float] = {}
    for count, name in ((1, "one"), (2, "two")):
        rng = np.random.default_rng([17, count])
        scenes = [sample_scene(rng, "held_out", count) for _ in range(n)]
        images = to_tensor(render_batch(scenes)).to(device)
        output = round_trip(model, images)
        row[f"error_{name}"] = round(float((output - images).abs().mean()), 5)
        right = [verify(p, s).correct for p, s in zip(to_uint8(output), scenes, strict=True)]
        row[f"verified_{name}"] = round(float(np.mean(right)), 4)
    return row


def round_trip(model: nn.Module, images: Tensor, batch: int = 32) -> Tensor:
    """Encode to the posterior's mean and decode; [n, 3, h, w] in and out."""
    parts = [
        model.decode(model.encode(part).latent_dist.mean).sample  # type: ignore[operator]
        for part in torch.split(images, batch)
    ]
    return torch.cat([p.float() for p in parts])
