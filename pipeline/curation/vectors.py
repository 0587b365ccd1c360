"""Images as whole numbers, so that how alike two are is exact: on every machine, with any number of threads.

A float32 sum of products of integers is exact as long as all partial sums stay below 2^24, whatever the order in which
it is added up. Both vectors of an image keep to that by their length (Cauchy–Schwarz).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.models.interface import Pixels

SCALE: Final = 4000
"""Of an embedding of length 1: its square and what rounding adds stay below 2^24; cosines are right to 1e-4."""
LUMA, CHROMA = 16, 8
"""Sides of the thumbnail that is a picture's look; JPEG halves the colours too."""
LOOK_BYTES: Final = LUMA * LUMA + 2 * CHROMA * CHROMA
LOOK_UNIT: Final = 3 * LUMA * LUMA * 255.0**2
"""Squared distance of two looks whose difference is 1: as if all three channels had the size of luma."""
MEANING_SHARE: Final = 3e-4
"""Of an embedding's squared distance in that of two looks. Without it other scenes of the shapes world lie as near as
a JPEG of quality 80 does (0.0074 and 0.0071); with it they are half as far again (0.0113 and 0.0071)."""

MIRRORED: Final = 4.0
"""So many times as different an image counts from a mirrored one: a mirrored copy differs by up to 0.0009, scenes whose
words are each other's mirror image by 0.0030 and more, and twice as different lost two of 2,000 scenes."""

Whole = npt.NDArray[Any]
"""int8 or int16 [images, width]."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Vectors:
    """Of the same images: `looks` int8 [n, 384] and `meanings` int16 [n, width], of width 0 without a model."""

    looks: Whole
    meanings: Whole

    def __len__(self) -> int:
        return len(self.looks)

    def take(self, rows: npt.NDArray[np.int64]) -> Vectors:
        return Vectors(self.looks[rows], self.meanings[rows])


def look_of(pixels: Pixels) -> npt.NDArray[np.int8]:
    """int8 [384]: luma as 16×16 and both colours as 8×8, each minus 128."""
    luma, *colours = Image.fromarray(pixels).convert("YCbCr").split()
    parts = [(luma, LUMA), *((colour, CHROMA) for colour in colours)]
    small = [np.asarray(part.resize((side, side), Image.Resampling.BOX), np.int16).ravel() for part, side in parts]
    return (np.concatenate(small) - 128).astype(np.int8)


def pixel_hash(pixels: Pixels) -> bytes:
    """16 bytes, the same for the same pixels in whatever file."""
    return hashlib.sha256(np.array(pixels.shape, "<i8").tobytes() + pixels.tobytes()).digest()[:16]


def meanings_of(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """int16 of the same shape, from rows of length 1; not finite ones become 0, which is like nothing."""
    rows = np.where(np.isfinite(embeddings).all(axis=1, keepdims=True), embeddings, 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.rint(rows / np.maximum(lengths, 1e-12) * SCALE), np.int16)


def products(one: Whole, other: Whole) -> Floats:
    """float64 [len(one), len(other)], whole numbers."""
    return np.asarray(one.astype(np.float32) @ other.astype(np.float32).T, np.float64)


def cosines(one: Vectors, other: Vectors) -> Floats:
    """Of the meanings, −1 to 1."""
    return products(one.meanings, other.meanings) / SCALE**2


def differences(one: Vectors, other: Vectors) -> Floats:
    """How different two pictures look, 0 to about 1: the root of the mean squared difference of their thumbnails, and a
    little of that of their meanings."""
    lengths = [np.square(each.looks.astype(np.int64)).sum(axis=1).astype(np.float64) for each in (one, other)]
    apart = lengths[0][:, None] + lengths[1][None] - 2 * products(one.looks, other.looks)
    turned = 2 - 2 * cosines(one, other) if one.meanings.shape[1] else 0.0
    return np.asarray(np.sqrt(np.maximum(apart / LOOK_UNIT + MEANING_SHARE * turned, 0)))
