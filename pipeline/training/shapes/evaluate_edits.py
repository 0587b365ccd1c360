"""Measure drawing from images: `python -m promptmill.pipeline.training.shapes.evaluate_edits --cases 300`.

The built-in model is asked, through the worker's own generator, to give figures of held-out scenes another colour and
another shape; the verifier, which sees pixels alone, says what became of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.shapes.edits import Edit, keeps_place, sample_edits
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.training.shapes.settings import GUIDANCE, STEPS
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import Sample

STRENGTHS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.45, 0.6, 0.75, 1.0)
BATCH = 16
Images = list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Drawer:
    generator: DiffusersGenerator
    generation: Generation

    def draw(self, edits: Sequence[Edit], strength: float, with_mask: bool = False) -> Images:
        return self.draw_samples([_sample(i, edit, strength, with_mask) for i, edit in enumerate(edits)])

    def draw_samples(self, samples: list[Sample]) -> Images:
        return [image for start in range(0, len(samples), BATCH) for image in self._batch(samples[start:][:BATCH])]

    def _batch(self, samples: list[Sample]) -> Iterator[NDArray[np.uint8]]:
        for made in self.generator.generate(samples, self.generation, lambda: None):
            assert made.pixels is not None, made.error
            yield made.pixels


def _sample(number: int, edit: Edit, strength: float, with_mask: bool) -> Sample:
    inputs: dict[Role, Input] = {"image": Input("", pixels=edit.image)}
    if with_mask:
        inputs["mask"] = Input("", pixels=edit.mask)
    return Sample(f"s{number}", "", number, 0, number, edit.caption, "", edit.caption, inputs, strength)


def by_strength(drawer: Drawer, cases: int, seed: int) -> dict[str, dict[str, float]]:
    """For each strength the share changed as asked, and the share whose figure has the size and place it had."""
    edits = list(sample_edits(cases, seed))
    rows = {}
    for strength in STRENGTHS:
        images = drawer.draw(edits, strength)
        asked = [verify(i, e.claims).correct for i, e in zip(images, edits, strict=True)]
        kept = [verify(i, keeps_place(e.scene)).correct for i, e in zip(images, edits, strict=True)]
        rows[f"{strength:g}"] = {"changed_as_asked": share(asked), "place_kept": share(kept)}
    return rows


def inpainting(drawer: Drawer, cases: int, seed: int) -> dict[str, float]:
    """The share right in every claim, and of all pixels outside the masks the share that changed."""
    edits = list(sample_edits(cases, seed, figures=2))
    images = drawer.draw(edits, 1.0, with_mask=True)
    right = [verify(i, e.claims).correct for i, e in zip(images, edits, strict=True)]
    outside = [(i != e.image).any(2)[e.mask == 0] for i, e in zip(images, edits, strict=True)]
    return {"right": share(right), "changed_outside": float(np.concatenate(outside).mean())}


def share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 4)


def main(arguments: Sequence[str] | None = None) -> None:
    module = "promptmill.pipeline.training.shapes.evaluate_edits"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    generation = Generation(num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    drawer = Drawer(DiffusersGenerator(resolve_model(Model(), "model"), "cpu"), generation)
    strengths = by_strength(drawer, options.cases, options.seed)
    masked = inpainting(drawer, options.cases, options.seed)
    if options.json:
        print(json.dumps({"strength": strengths, "inpainting": masked}, indent=2))
        return
    table = Table("strength", "changed as asked", "place and size kept", title=f"{options.cases} held-out cases each")
    for name, row in strengths.items():
        table.add_row(name, f"{row['changed_as_asked']:.1%}", f"{row['place_kept']:.1%}")
    words = f"inpainting: {masked['right']:.1%} right, {masked['changed_outside']:.2%} of the pixels outside changed"
    Console().print(table, words)


if __name__ == "__main__":
    main()
