"""Statistics of the pixels alone. Luma is ITU-R BT.601 of sRGB values, 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores
from promptmill.schemas.scores import METRIC_SCORES

NEAR_BLACK = 0.04
"""Luma of 10 of 255: what a blanked or failed image is made of."""

Floats = npt.NDArray[np.float32]


class ImageStatistics:
    name = "image"
    columns = METRIC_SCORES["image"]
    version = ""
    needs: tuple[str, ...] = ()
    scope: Scope = "image"

    def prepare(self, captions: Sequence[str]) -> None:
        """Captions play no part."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        functions = (sharpness, contrast, colourfulness, near_black)
        rows = [[function(pixels) for function in functions] for pixels in PixelsOf(pictures)]
        columns = np.array(rows, np.float32).reshape(-1, len(functions)).T
        return dict(zip(self.columns, columns, strict=True))


SCORER = ImageStatistics


def luma(pixels: Pixels) -> Floats:
    """float32 [height, width], 0 to 1."""
    weights = np.array([0.299, 0.587, 0.114], np.float32) / 255
    return np.asarray(pixels.astype(np.float32) @ weights, np.float32)


def sharpness(pixels: Pixels) -> float:
    """Variance of the Laplacian of luma (Pech-Pacheco et al. 2000). Compare images of one size only."""
    return float(ndimage.laplace(luma(pixels)).var())


def contrast(pixels: Pixels) -> float:
    """Standard deviation of luma (RMS contrast, Peli 1990); 0 to 0.5."""
    return float(luma(pixels).std())


def colourfulness(pixels: Pixels) -> float:
    """Hasler and Süsstrunk 2003, M(3); 0 is gray, over 100 is extreme."""
    red, green, blue = np.moveaxis(pixels.astype(np.float32), 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))


def near_black(pixels: Pixels) -> float:
    """Share of pixels with luma under 0.04; 0 to 1."""
    return float((luma(pixels) < NEAR_BLACK).mean())
