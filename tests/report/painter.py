"""A generator that paints instead of denoising: real scenes of the shapes world, right more often at higher guidance.

It runs inside the real engine, so that datasets of thousands of images with a known truth take seconds and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from promptmill.pipeline.models.interface import Generated, Pixels
from promptmill.pipeline.scores.interface import Picture, Scope, Scorer, Scores
from promptmill.pipeline.shapes.captions import change_one, changeable, parse
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import COLOURS, GROUNDS, SHAPES, Claims, Object, Scene
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel

PLACES = {"left": (18, 32), "right": (46, 32), "top": (32, 18), "bottom": (32, 46), "center": (32, 32), None: (32, 32)}
PAIRS = {
    "left of": (16, 32, 48, 32),
    "right of": (48, 32, 16, 32),
    "above": (32, 16, 32, 48),
    "below": (32, 48, 32, 16),
}


def scene_of(claims: Claims, rng: np.random.Generator) -> Scene:
    """A scene in which the claims hold; what they leave open is drawn."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    ground = claims.ground or pick(list(GROUNDS))
    x, y, u, v = PAIRS[claims.relation or "left of"]
    places = [(x, y), (u, v)] if len(claims.objects) == 2 else [PLACES[claims.objects[0].place]]
    radius = {"small": 9.0, "large": 14.0, None: 11.0}
    things = [
        Object(o.colour or pick(list(COLOURS)), o.shape or pick(SHAPES), *place, radius[o.size])
        for o, place in zip(claims.objects, places, strict=True)
    ]
    return Scene(ground, tuple(things))


def chance_of_right(settings: Generation) -> float:
    """The truth that a report has to find: 0.55 to 0.95, from guidance and steps."""
    return min(0.95, 0.45 + 0.06 * min(settings.guidance_scale, 5) + 0.01 * min(settings.num_inference_steps, 20))


class Painter:
    pipeline_class, dtype, device = "Painter", "float32", "cpu"

    def scheduler_name(self, settings: Generation) -> str:
        return settings.scheduler or "DDIMScheduler"

    def prepare(self, samples: Sequence[Sample], settings: Generation) -> None:
        pass

    def generate(
        self, samples: Sequence[Sample], settings: Generation, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Generated]:
        return [Generated(self._paint(sample, settings)) for sample in samples]

    def _paint(self, sample: Sample, settings: Generation) -> Pixels:
        rng = np.random.default_rng(sample.seed)
        luck = rng.random()
        try:
            claims = parse(sample.prompt)
        except ValueError:
            return rng.integers(0, 255, (64, 64, 3), np.uint8)
        if luck > chance_of_right(settings):
            kinds = changeable(claims)
            claims = change_one(claims, kinds[int(rng.integers(len(kinds)))], rng)
        pixels = render(scene_of(claims, rng)).astype(np.int16) + rng.integers(-6, 7, (64, 64, 3))
        return pixels.clip(0, 255).astype(np.uint8)


class PainterScorer:
    """Agrees with the verifier, and is unsure as a CLIP is."""

    needs: tuple[str, ...] = ()
    version = ""
    scope: Scope = "image"

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns = (name,)

    def prepare(self, captions: Sequence[str]) -> None:
        pass

    def score(self, pictures: Sequence[Picture]) -> Scores:
        return {self.name: np.array([self._one(each.pixels, each.caption) for each in pictures], np.float32)}

    def _one(self, image: Pixels, caption: str) -> float:
        blur = (int(image.astype(np.int64).sum()) * 2654435761 % 1000) / 1000 - 0.5
        try:
            held = verify(image, caption).claims
        except ValueError:
            return float("nan") if "NaN" in caption else 0.1 + 0.05 * blur
        return 0.1 + 0.2 * sum(held.values()) / len(held) + 0.1 * blur


class PainterBench(WorkerContext):
    def _load(self, model: ResolvedModel) -> Painter:
        return Painter()

    def scorers(self) -> list[Scorer]:
        return [PainterScorer(*score.names) for score in self.plan.job.score if score.model]
