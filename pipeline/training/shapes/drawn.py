"""Images as the generator draws them for training captions, and what the verifier sees in each.

The CLIP learns from them beside rendered scenes: what a half-trained sampler gets wrong (a colour off the palette, an
object too many, a shape between two) is what a score has to tell, and no rule of ours spoils images quite that way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.verify import Seen, see
from promptmill.pipeline.shapes.world import Claims, Kind, relation_of
from promptmill.pipeline.training.loop import autocast
from promptmill.pipeline.training.shapes.settings import DrawnSettings
from promptmill.pipeline.training.shapes.text import ATTRIBUTES, labels
from promptmill.pipeline.training.shapes.unet import generate

UNCLEAR = -1  # the class of an attribute that no caption can name rightly


@dataclass(frozen=True)
class Drawn:
    """`images` uint8 [n, 64, 64, 3], the claims each was drawn for, `seen` int64 [n, attributes], `right` bool [n]."""

    images: NDArray[np.uint8]
    claims: list[Claims]
    seen: NDArray[np.int64]
    right: NDArray[np.bool_]

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Indices of `n` images, half of them wrong."""
        pools = [np.flatnonzero(self.right == verdict) for verdict in (False, True)]
        picked = [rng.choice(pool, (n + i) // 2) for i, pool in enumerate(pools) if len(pool)]
        return np.concatenate(picked) if picked else np.empty(0, np.intp)


def seen_labels(seen: Seen) -> list[int]:
    """The classes of what was seen, as `text.labels` gives them for a scene's claims; UNCLEAR where nothing fits."""
    names = list(ATTRIBUTES)
    if len(seen.objects) not in (1, 2):
        return [UNCLEAR] * len(names)
    objects = seen.objects
    if len(objects) == 2 and relation_of(*objects) in ("right of", "below"):
        objects = objects[::-1]
    said: dict[str, str] = {"ground": seen.ground or "", "layout": relation_of(*objects) if objects[1:] else "one"}
    for i, thing in enumerate(objects):
        said |= {f"colour {i}": thing.colour, f"shape {i}": thing.shape}
    if len(objects) == 1:
        said |= {"size 0": objects[0].size, "place 0": objects[0].place}
    return [
        0 if name not in said else 1 + options.index(said[name]) if said[name] in options else UNCLEAR
        for name, options in ATTRIBUTES.items()
    ]


def draw_set(pipeline: StableDiffusionPipeline, settings: DrawnSettings, seed: int, folder: Path) -> Drawn:
    """Drawn once and kept in `folder`, under a name that changes with the weights and the settings."""
    kinds: tuple[Kind, ...] = ("one", "placed", "two")
    prompts = [p for i, k in enumerate(kinds) for p in sample_prompts(settings.count // 3, seed + 7 + i, "train", k)]
    last = (pipeline.unet.conv_out, pipeline.vae.decoder.conv_out)
    weights = b"".join(layer.weight.detach().float().cpu().numpy().tobytes() for layer in last)
    name = hashlib.blake2b(weights + repr((seed, settings)).encode(), digest_size=6).hexdigest()
    path = folder / f"drawn-{name}.npz"
    if not path.exists():
        parts: list[NDArray[np.uint8]] = []
        rng = np.random.default_rng([seed, 98])
        order = rng.permutation(len(prompts))
        for start in range(0, len(prompts), settings.batch):
            chosen = order[start : start + settings.batch]
            guidance, steps = float(rng.uniform(*settings.guidance)), int(rng.integers(*settings.steps))
            texts = [prompts[i].caption for i in chosen]
            with autocast(pipeline.device):
                parts += generate(pipeline, texts, guidance, steps, seed + 1 + start)
        images = np.empty((len(prompts), *parts[0].shape), np.uint8)
        images[order] = np.stack(parts)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, images=images)
        partial.replace(path)
    images = np.load(path)["images"]
    claims = [Claims.from_dict(p.truth) for p in prompts]
    seen = np.array([seen_labels(see(i)) for i in images])
    right = np.array([matches(c, s) for c, s in zip(claims, seen, strict=True)])
    return Drawn(images, claims, seen, right)


def matches(claims: Claims, seen: Sequence[int]) -> bool:
    """Whether all that is claimed was seen."""
    return all(said in (0, found) for said, found in zip(labels(claims), seen, strict=True))
