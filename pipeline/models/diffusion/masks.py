"""What a mask means for pixels: the region that is drawn alone, and what of a drawing comes onto the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from promptmill.pipeline.models.interface import Pixels
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import MASK_LIMIT, REFERENCE
from promptmill.schemas.plan import Sample

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; the last two are outside."""


def closer(sample: Sample, generation: Generation, size: tuple[int, int]) -> Sample:
    """With `mask_crop` the sample as it is drawn: of its images the region around the mask, at `size`.

    `size` is width and height, the same for every sample of a batch: a sample's own crop never meets another's. A pixel
    of the mask is white where any of those that it is made of is.
    """
    if generation.mask_crop is None or "mask" not in sample.inputs:
        return sample
    hard = _hard(sample)
    box = region(hard, generation.mask_crop, size)
    found = dict(sample.inputs)
    for role, each in sample.inputs.items():
        if role == "mask":
            # As floats: in eight bits one white pixel of a region 22 times as large rounds to none.
            white = Image.fromarray((hard > 0).astype(np.float32)).crop(box)
            shown = np.asarray(white.resize(size, Image.Resampling.BILINEAR))
            found[role] = replace(each, pixels=np.where(shown > 0, 255, 0).astype(np.uint8))
        elif role != REFERENCE:
            found[role] = replace(each, pixels=_scaled(each.pixels, size, box))
    return replace(sample, inputs=found)


def paste(sample: Sample, generation: Generation, drawn: Pixels) -> Pixels:
    """The image's own pixels wherever the mask, or the blurred mask, is black: the decoder alone changes them by up to
    108 of 255. Within the blur they are mixtures of both.

    `drawn` is uint8 [height, width, 3] of what `closer` gave; the answer has the size of the image.
    """
    if "mask" not in sample.inputs:
        return drawn
    hard, image = _hard(sample), sample.inputs["image"].pixels
    if generation.mask_crop is not None:
        left, top, right, bottom = region(hard, generation.mask_crop, (drawn.shape[1], drawn.shape[0]))
        part = _scaled(drawn, (right - left, bottom - top))
        drawn = image.copy()
        drawn[top:bottom, left:right] = part
    share = _blurred(hard, generation.mask_blur)[..., None].astype(np.uint16)
    mixed = (share * drawn + (255 - share) * image.astype(np.uint16) + 127) // 255
    pixels: Pixels = mixed.astype(np.uint8)
    return pixels


def region(hard: Pixels, padding: int, size: tuple[int, int]) -> Box:
    """What is white with `padding` pixels around it, grown to the shape of `size` where the image has room."""
    height, width = hard.shape
    columns, rows = np.flatnonzero(hard.any(axis=0)), np.flatnonzero(hard.any(axis=1))
    left, right = max(0, int(columns[0]) - padding), min(width, int(columns[-1]) + 1 + padding)
    top, bottom = max(0, int(rows[0]) - padding), min(height, int(rows[-1]) + 1 + padding)
    wide = max(right - left, -(-(bottom - top) * size[0] // size[1]))
    high = max(bottom - top, -(-(right - left) * size[1] // size[0]))
    left, right = _grown(left, right, min(wide, width), width)
    top, bottom = _grown(top, bottom, min(high, height), height)
    return left, top, right, bottom


def _grown(start: int, stop: int, length: int, whole: int) -> tuple[int, int]:
    """To both sides alike, as far as there is room."""
    start = min(max(0, start - (length - (stop - start)) // 2), whole - length)
    return start, start + length


def _hard(sample: Sample) -> Any:
    return np.where(sample.inputs["mask"].pixels >= MASK_LIMIT, 255, 0).astype(np.uint8)


def _blurred(hard: Pixels, radius: float | None) -> Any:
    """As `VaeImageProcessor.blur` of diffusers."""
    return np.asarray(Image.fromarray(hard).filter(ImageFilter.GaussianBlur(radius))) if radius else hard


def _scaled(pixels: Pixels, size: tuple[int, int], box: Box | None = None) -> Any:
    image = Image.fromarray(pixels) if box is None else Image.fromarray(pixels).crop(box)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))  # given the box, it would look beyond it
