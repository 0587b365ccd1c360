"""Control maps that need no model: of pixels that have their size already."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

from promptmill.pipeline.models.interface import Pixels

CANNY_LIMITS = (100, 200)
"""Of the gradient, as in the scripts that published edge ControlNets were trained with."""
BLUR_SHARE = 1 / 64
"""Of the longer side: the radius of the blur."""


def control_map(pixels: Pixels, how: str) -> Pixels:
    """uint8 [height, width, 3] of [height, width, 3 or 4]."""
    return _MADE[how](pixels)


def _resize(pixels: Pixels) -> Pixels:
    return pixels[..., :3]


def _canny(pixels: Pixels) -> Pixels:
    import cv2

    grey = np.asarray(Image.fromarray(pixels[..., :3]).convert("L"))
    return np.repeat(np.asarray(cv2.Canny(grey, *CANNY_LIMITS), np.uint8)[..., None], 3, axis=2)


def _blur(pixels: Pixels) -> Pixels:
    radius = max(pixels.shape[:2]) * BLUR_SHARE
    return np.asarray(Image.fromarray(pixels[..., :3]).filter(ImageFilter.GaussianBlur(radius)))


def _mask_from_alpha(pixels: Pixels) -> Pixels:
    """White where the image is transparent, as a mask says what is drawn anew; black all over where nothing is."""
    alpha = pixels[..., 3:] if pixels.shape[2] == 4 else np.full_like(pixels[..., :1], 255)
    return np.repeat(255 - alpha, 3, axis=2)


_MADE: Mapping[str, Callable[[Pixels], Pixels]] = {
    "resize": _resize,
    "canny": _canny,
    "blur": _blur,
    "mask_from_alpha": _mask_from_alpha,
}
