"""Every number that training depends on, as it was last; weights/README.md says what was changed on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from promptmill.pipeline.training.schedule import Schedule

WEIGHTS = Path(__file__).parents[2] / "shapes" / "weights"
MAX_TOKENS = 32  # the longest caption of the grammar has 17 words; the padding that is left serves as registers

STEPS = 20  # of the default sampler, and its guidance: what the figures in weights/README.md were measured with
GUIDANCE = 2.5


@dataclass(frozen=True)
class VaeSettings:
    """`full_every`: each n-th step sees whole images (a quarter of the batch), the others crops of half the side."""

    channels: tuple[int, ...] = (16, 32, 64, 96)
    latent_channels: int = 16
    groups: int = 8
    kl_weight: tuple[float, float] = (2e-4, 3e-3)  # rises between these steps; from the start it would blur outlines
    kl_rise: tuple[int, int] = (1750, 2500)
    edge_weight: float = 2.0
    full_every: int = 4
    full_share: float = 0.25  # the last share of the steps sees whole images only
    plan: Schedule = field(default=Schedule(steps=3800, batch=32, rate=2e-3, weight_decay=0.0, ema=0.995))
    decoder_noise: float = 1.5
    decoder_plan: Schedule = field(
        default=Schedule(steps=1800, batch=16, rate=1e-3, decay=0.6, weight_decay=0.0, ema=0.995)
    )

    def kl_weight_at(self, step: int) -> float:
        (low, high), (start, end) = self.kl_weight, self.kl_rise
        share = min(1.0, max(0.0, (step - start) / (end - start)))
        return low * float((high / low) ** share)


@dataclass(frozen=True)
class TextSettings:
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    plan: Schedule = field(default=Schedule(steps=2700, batch=64, rate=1e-3))


@dataclass(frozen=True)
class UnetSettings:
    """`cached` scenes are encoded once; `pair_share` of them hold two objects.

    `focus`, a share and a range: that share of a batch's timesteps is drawn from the range alone. After 8,600 uniform
    steps, images denoised from the true latents at timestep 649 were right for 77 %, from 449 for 87 %, from 249 for
    95 %, while the whole way cost only 7 points more: what is hard lies between.

    `redraw` is the range of timesteps from which scenes are drawn again for the decoder to learn from.
    """

    channels: tuple[int, ...] = (96, 144)
    attention: tuple[bool, ...] = (False, True)  # at 4×4 only: at 8×8 it took two fifths of a step
    layers: int = 1
    heads: int = 4
    cached: int = 36_000
    pair_share: float = 0.4
    caption_drop: float = 0.1
    focus: tuple[float, int, int] = (0.7, 100, 650)
    redraw: tuple[int, int] = (150, 600)
    guidance: float = GUIDANCE
    plan: Schedule = field(default=Schedule(steps=30_000, batch=48, rate=1e-3, warmup=300, decay=0.5, ema=0.999))


@dataclass(frozen=True)
class DrawnSettings:
    """`count` images; each batch's guidance and steps come from these ranges, low ones, so that many are wrong."""

    count: int = 18_000
    batch: int = 32
    guidance: tuple[float, float] = (1.0, 2.5)
    steps: tuple[int, int] = (3, 9)


@dataclass(frozen=True)
class ClipSettings:
    """`context` positions are enough for the longest caption; `negatives` captions changed in one claim a scene.

    A batch has half as many spoiled scenes as true ones, and `drawn_share` as many drawn images.

    The image tower is CLIP's residual network: at a ninth of the cost it knew shapes after a tenth of the steps that
    a transformer of 8-pixel patches took.
    """

    width: int = 128
    image_width: int = 16
    image_layers: tuple[int, ...] = (2, 2, 2, 2)
    text_layers: int = 2
    context: int = 24
    negatives: int = 3
    drawn: DrawnSettings = field(default_factory=DrawnSettings)
    drawn_share: float = 0.5
    plan: Schedule = field(default=Schedule(steps=4800, batch=48, rate=1e-3, warmup=200, weight_decay=0.02, ema=0.998))


@dataclass(frozen=True)
class ControlSettings:
    """Most captions name colours alone (`anything` of them say more, `caption_drop` nothing), so that shape, size and
    place can only come from the map, whose lines are `width_px` wide.
    """

    seed: int = 0
    embedding: tuple[int, ...] = (8, 16, 32, 64)  # half of diffusers' own; 2.8 million parameters in all
    cached: int = 5000
    pair_share: float = 0.15
    caption_drop: float = 0.2
    anything: float = 0.2
    width_px: tuple[float, float] = (1.0, 2.0)
    focus: tuple[float, int, int] = (0.6, 250, 900)
    plan: Schedule = field(default=Schedule(steps=4000, batch=16, rate=1e-3, decay=0.5, ema=0.998))


@dataclass(frozen=True)
class LoraSettings:
    seed: int = 0
    rank: int = 8
    targets: tuple[str, ...] = (
        *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out"),
        *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
    )
    cached: int = 1200
    pair_share: float = 0.2
    caption_drop: float = 0.1
    focus: tuple[float, int, int] = (0.6, 150, 850)
    guidance: float = GUIDANCE
    plan: Schedule = field(
        default=Schedule(steps=2400, batch=16, rate=1e-3, warmup=50, decay=0.5, weight_decay=0.0, ema=0.995)
    )


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    vae: VaeSettings = field(default_factory=VaeSettings)
    text: TextSettings = field(default_factory=TextSettings)
    unet: UnetSettings = field(default_factory=UnetSettings)
    clip: ClipSettings = field(default_factory=ClipSettings)
