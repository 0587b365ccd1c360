"""Stage "clip": a two-tower model for scoring, trained apart from the generator, in open_clip's own classes.

Each batch holds true scenes, spoiled ones that no caption describes (an object missing, added, or mixed of two shapes
or colours), images as the generator draws them (half of them wrong), one caption of each scene or drawn image and
several changed in one claim. In this world it is known exactly which caption holds for which image, so in-batch
captions that happen to be true are no negatives. The loss adds a contrast in both directions (InfoNCE over exact
labels) to a binary one (as in SigLIP) that makes scores comparable across captions, and ranks the drawn images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import CLIP
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.render import render_batch
from promptmill.pipeline.shapes.world import COLOURS, SHAPES, SIZE_PX, Claims, Scene, sample_scene
from promptmill.pipeline.training.loop import Stage, StepRandom, autocast
from promptmill.pipeline.training.shapes.drawn import Drawn
from promptmill.pipeline.training.shapes.settings import ClipSettings
from promptmill.pipeline.training.shapes.text import ATTRIBUTES, labels, shared_tokenizer, tokenize
from promptmill.pipeline.training.shapes.vae import to_tensor


def config(settings: ClipSettings) -> dict[str, Any]:
    """`model_cfg` of open_clip_config.json. A tokenizer beside the weights is used as soon as its name is set."""
    return {
        "embed_dim": settings.width,
        "vision_cfg": {
            "image_size": SIZE_PX,
            "width": settings.image_width,
            "layers": list(settings.image_layers),
        },
        "text_cfg": {
            "context_length": settings.context,
            "vocab_size": len(shared_tokenizer()),
            "hf_tokenizer_name": "tokenizer",
            "width": settings.width,
            "layers": settings.text_layers,
            "heads": settings.width // 32,
        },
    }


Floats = NDArray[np.float32]


class Towers(nn.Module):
    """The CLIP, and heads that say a scene's attributes from each embedding: they speed up the start of training."""

    def __init__(self, settings: ClipSettings) -> None:
        super().__init__()
        cfg = config(settings)
        text = {k: v for k, v in cfg["text_cfg"].items() if k != "hf_tokenizer_name"}
        self.clip = CLIP(cfg["embed_dim"], cfg["vision_cfg"], text)
        self.bias = nn.Parameter(torch.tensor(-5.0))
        classes = [1 + len(v) for v in ATTRIBUTES.values()]
        self.image_head = nn.Linear(settings.width, sum(classes))
        self.text_head = nn.Linear(settings.width, sum(classes))
        self.classes = classes

    def attribute_loss(self, logits: Tensor, truth: Tensor) -> Tensor:
        parts = torch.split(logits.float(), self.classes, dim=-1)
        return torch.stack([functional.cross_entropy(p, truth[:, i]) for i, p in enumerate(parts)]).sum()


def spoil(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """Scenes whose average is an image that no caption fits: of a missing, an added or a half-changed object."""
    index = int(rng.integers(len(scene.objects)))
    thing = scene.objects[index]
    kind = int(rng.integers(4))
    if kind == 0 and len(scene.objects) == 2:
        return [replace(scene, objects=(thing,))]
    if kind == 1:
        corner = rng.choice([14.0, 50.0], 2)
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        extra = replace(
            thing, colour=colour, shape=shape, x=float(corner[0]), y=float(corner[1]), radius=rng.uniform(6, 11)
        )
        return [replace(scene, objects=(extra, *scene.objects))]
    if kind == 2:
        changed = replace(thing, colour=str(rng.choice([c for c in COLOURS if c != thing.colour])))
    else:
        changed = replace(thing, shape=str(rng.choice([s for s in SHAPES if s != thing.shape])))
    return [scene, replace(scene, objects=tuple(changed if i == index else o for i, o in enumerate(scene.objects)))]


def render_groups(groups: list[list[Scene]]) -> Floats:
    """The mean of each group's renders, float32 [groups, 64, 64, 3] in [0, 255]."""
    flat = render_batch([s for group in groups for s in group]).astype(np.float32)
    ends = np.cumsum([len(g) for g in groups])
    return np.stack([flat[end - len(g) : end].mean(0) for g, end in zip(groups, ends, strict=True)])


def soften(images: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Some blurred, shifted in colour or with noise, as generated ones are; changes `images`."""
    for image in images:
        if rng.random() < 0.4:
            sigma = rng.uniform(0.2, 1.2)
            image[:] = ndimage.gaussian_filter(image, (sigma, sigma, 0))
        if rng.random() < 0.4:
            image += rng.normal(0, 8, 3) + rng.normal(0, rng.uniform(0, 8), image.shape)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def holds(said: NDArray[np.int64], scenes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which caption is true of which scene, from `text.labels` of both: bool [scenes, captions]."""

    def matches(s: NDArray[np.int64]) -> NDArray[np.bool_]:
        loose = (said[None] == 0) | (said[None] == s[:, None])
        # Of a pair without relation ("two", class 4) any layout of two objects will do.
        loose[..., 0] |= (said[None, :, 0] == 4) & (s[:, None, 0] > 1)
        every: NDArray[np.bool_] = np.all(loose, axis=-1)
        return every

    swapped = scenes.copy()
    swapped[:, [2, 3, 6, 7]] = scenes[:, [6, 7, 2, 3]]
    either: NDArray[np.bool_] = matches(scenes) | (matches(swapped) & (said[None, :, 0] == 4))
    return either


def hardest(claims: Claims, rng: np.random.Generator) -> list[str]:
    """The kinds of change to a caption in the order to use them: who stands where comes last to a model by itself."""
    kinds = captions.changeable(claims)
    first = [k for k in ("swap", "relation") if k in kinds]
    return first + [str(k) for k in rng.permutation([k for k in kinds if k not in first])]


@dataclass(frozen=True)
class ClipBatch:
    """`images` [i, 3, 64, 64]: true scenes, spoiled, drawn; `true` bool [i, texts]; labels int64 [n, attributes].

    `own` int64 [drawn, 2]: image and text of each drawn image with the caption it was drawn for.
    """

    images: Tensor
    texts: list[str]
    true: Tensor
    scene_labels: Tensor
    text_labels: Tensor
    own: Tensor


def sample_batch(now: StepRandom, n: int, settings: ClipSettings, drawn: Drawn) -> ClipBatch:
    rng = now.numpy
    scenes = [sample_scene(rng, "train", 1 if rng.random() < 0.4 else 2) for _ in range(n)]
    broken = [spoil(s, rng) for s in scenes[: n // 2]]
    chosen = drawn.sample(int(n * settings.drawn_share), rng)
    renders = render_groups([[s] for s in scenes] + broken)
    moved = [np.roll(image, tuple(rng.integers(-1, 2, 2)), (0, 1)) for image in drawn.images[chosen]]
    images = soften(np.concatenate([renders, np.array(moved, np.float32)]), rng)
    said: list[Claims] = []
    first: list[int] = []  # the caption of each image; those changed in one claim follow it
    for claims in [captions.claims_at_random(s, rng) for s in scenes] + [drawn.claims[i] for i in chosen]:
        first.append(len(said))
        said.append(claims)
        said += [captions.change_one(claims, k, rng) for k in hardest(claims, rng)[: settings.negatives]]
    text_labels = np.array([labels(c) for c in said])
    scene_labels = np.array([labels(captions.claims_of_scene(s)) for s in scenes])
    true = np.zeros((len(images), len(said)), bool)
    true[:n] = holds(text_labels, scene_labels)
    true[len(renders) :] = holds(text_labels, drawn.seen[chosen])
    texts = [captions.write(c, rng) for c in said]
    own = np.stack([len(renders) + np.arange(len(chosen)), np.array(first[n:], np.int64)], axis=1)
    parts = (torch.from_numpy(a) for a in (true, scene_labels, text_labels, own))
    return ClipBatch(to_tensor(images), texts, *parts)


def contrast(logits: Tensor, true: Tensor) -> Tensor:
    """InfoNCE along rows: each true pair against all false pairs of its row."""
    negatives = logits.masked_fill(true, float("-inf")).logsumexp(1, keepdim=True)
    return functional.softplus(negatives - logits)[true].mean()


def losses(stage: Stage, now: StepRandom, settings: ClipSettings, drawn: Drawn) -> dict[str, Tensor]:
    batch = sample_batch(now, stage.batch, settings, drawn)
    towers, device = stage.module, stage.device
    assert isinstance(towers, Towers)
    images, true, scene_labels = (t.to(device) for t in (batch.images, batch.true, batch.scene_labels))
    ids = tokenize(batch.texts)[:, : settings.context].to(device)
    with autocast(device):
        seen, read = towers.clip.encode_image(images), towers.clip.encode_text(ids)
        seen_logits, read_logits = towers.image_head(seen[: len(scene_labels)]), towers.text_head(read)
    seen, read = functional.normalize(seen.float(), dim=-1), functional.normalize(read.float(), dim=-1)
    logits = towers.clip.logit_scale.exp().clamp(max=100) * seen @ read.T
    both = contrast(logits, true) + contrast(logits.T, true.T)
    shifted = logits + towers.bias
    # Half of the weight on true pairs; of the false ones only those that are near count much.
    binary = functional.softplus(-shifted)[true].mean() + functional.softplus(shifted)[~true].sum() / true.sum()
    shown = towers.attribute_loss(seen_logits, scene_labels)
    said = towers.attribute_loss(read_logits, batch.text_labels.to(device))
    own = batch.own.to(device)
    drawn_logits, right = logits[own[:, 0], own[:, 1]], true[own[:, 0], own[:, 1]]
    # Any right image above any wrong one, whatever their captions: what choosing by a score's threshold rests on.
    ranked = functional.softplus(drawn_logits[~right][None] - drawn_logits[right][:, None]).sum()
    ranked = ranked / max(1, int(right.sum() * (~right).sum()))
    # With 0.2 the text tower had not learned whose colour is whose after 2,400 steps; by itself it needs 500.
    loss = both + binary + ranked + 0.2 * shown + said
    parts = {"contrast": both, "binary": binary, "ranked": ranked, "image_attributes": shown, "text_attributes": said}
    return {"loss": loss, **parts}


def train(stage: Stage, settings: ClipSettings, drawn: Drawn) -> CLIP:
    # The fused attention's backward pass is slow on a CPU.
    with sdpa_kernel(SDPBackend.MATH):
        model = stage.run(lambda now: losses(stage, now, settings, drawn), lambda m: measure(m, settings, stage.device))
    assert isinstance(model, Towers)
    return model.clip


def measure(towers: nn.Module, settings: ClipSettings, device: torch.device, n: int = 150) -> dict[str, float]:
    """By kind of claim, the share of never-trained scenes whose true caption scores above one changed in that claim."""
    rng = np.random.default_rng(31)
    rows: dict[str, list[bool]] = {}
    scenes = [sample_scene(rng, "held_out", 1 + i % 2) for i in range(n)]
    seen = towers.clip.encode_image(to_tensor(render_batch(scenes)).to(device), normalize=True)  # type: ignore[union-attr, operator]
    for scene, image in zip(scenes, seen, strict=True):
        claims = captions.claims_of_scene(scene)
        kinds = captions.changeable(claims)
        said = [claims, *(captions.change_one(claims, k, rng) for k in kinds)]
        ids = tokenize([captions.write(c, rng) for c in said])[:, : settings.context].to(device)
        scores = towers.clip.encode_text(ids, normalize=True) @ image  # type: ignore[union-attr, operator]
        for kind, score in zip(kinds, scores[1:], strict=True):
            rows.setdefault(kind, []).append(bool(scores[0] > score))
    return {f"pairs_{k}": round(float(np.mean(v)), 4) for k, v in rows.items()}
