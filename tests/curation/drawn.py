"""Datasets whose images are given: made by the real worker, with a generator that hands them out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.models.interface import Generated
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.world import Scene, sample_scene
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel
from tests.heart.mill import Tint, TintContext, job, write_prompts

Picture = npt.NDArray[np.uint8]
_MISSES = 10_000
"""Draws in a row that gave no new words: there are no more of one object."""


class _Given(Tint):
    def __init__(self, images: Sequence[Picture | None]) -> None:
        super().__init__(str(number) for number, image in enumerate(images) if image is None)
        self._images = images

    def generate(
        self, samples: Sequence[Sample], settings: Generation, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Generated]:
        return [
            super(_Given, self).generate([s], settings, on_step)[0]
            if (image := self._of(s)) is None
            else Generated(image)
            for s in samples
        ]

    def _of(self, sample: Sample) -> Picture | None:
        return self._images[int(sample.prompt.split()[-1])]


class _GivenContext(TintContext):
    images: Sequence[Picture | None] = ()

    def _load(self, model: ResolvedModel) -> Tint:
        return _Given(self.images)


def make_dataset(
    folder: Path,
    images: Sequence[Picture | None],
    per_shard: int = 64,
    select: Any = None,
    mapped: dict[str, str] | None = None,
    image_format: str = "png",
    **columns: Sequence[Any],
) -> Plan:
    """At `folder`/made: an image a prompt, `image 0` and so on; None is one that fails.

    `mapped` are `prompts.columns`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = write_prompts(folder / "prompts.parquet", [f"image {i}" for i in range(len(images))], **columns)
    url = str(folder / "made")
    wanted = job(
        prompts,
        generation={"images_per_prompt": 1},
        output={"url": url, "images_per_shard": per_shard, "image_format": image_format},
        select=select,
        prompts={"source": str(prompts), "columns": mapped or {}},
    )
    store = Store(url)
    plan = claim_output(plan_job(wanted), store)
    context = _GivenContext(plan, store)
    context.images = images
    try:
        for shard in missing_shards(plan, store):
            process_shard(shard, context)
    finally:
        context.close()
    return plan


def scenes(count: int, seed: int = 0) -> list[Picture]:
    """All different in their words."""
    chance, seen, found = np.random.default_rng(seed), set[Any](), list[Picture]()
    misses = 0
    while len(found) < count:
        scene = sample_scene(chance, "train", 1 + len(found) % 2 if misses < _MISSES else 2)
        if (words := words_of(scene)) in seen:
            misses += 1
            continue
        misses = 0 if misses < _MISSES else misses
        seen.add(words)
        found.append(render(scene))
    return found


def words_of(scene: Scene) -> Any:
    things = [(o.colour, o.shape, *((o.size, o.place) if len(scene.objects) == 1 else ())) for o in scene.objects]
    return scene.ground, scene.relation, *things


def as_jpeg(image: Picture, quality: int = 80) -> Picture:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=quality)
    return np.asarray(Image.open(sink))


def write_images(folder: Path, images: Sequence[Picture], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:04d}.{suffix}")
    return folder
