"""Sixteen held-out prompts and what came, as one image.

`python -m promptmill.pipeline.training.shapes.picture samples.png`
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Kind
from promptmill.pipeline.training.shapes.evaluate import load
from promptmill.pipeline.training.shapes.settings import GUIDANCE, WEIGHTS
from promptmill.pipeline.training.shapes.unet import generate

ROWS: tuple[Kind, ...] = ("one", "placed", "two", "two")
COLUMNS = 4
SIDE, MARGIN, TEXT = 128, 8, 40


def draw_picture(weights: Path, seed: int) -> Image.Image:
    """Four prompts a row, drawn by the seed, not chosen; a caption that failed the verifier stands in red."""
    pipeline = load(weights).pipeline
    prompts = [p for i, kind in enumerate(ROWS) for p in sample_prompts(COLUMNS, seed + i, "held_out", kind)]
    images = generate(pipeline, [p.caption for p in prompts], GUIDANCE, seed=seed)
    cell = SIDE + MARGIN
    sheet = Image.new("RGB", (COLUMNS * cell + MARGIN, len(ROWS) * (cell + TEXT) + MARGIN), (245, 245, 245))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        x, y = MARGIN + index % COLUMNS * cell, MARGIN + index // COLUMNS * (cell + TEXT)
        sheet.paste(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        fill = (40, 40, 40) if verify(image, prompt.truth).correct else (200, 0, 0)
        lines = "\n".join(textwrap.wrap(prompt.caption, 25)[:3])
        pen.multiline_text((x, y + SIDE + 2), lines, fill=fill, font=font, spacing=1)
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m promptmill.pipeline.training.shapes.picture", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw_picture(options.weights, options.seed).save(options.path, optimize=True)


if __name__ == "__main__":
    main()
