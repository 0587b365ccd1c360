"""Image bytes that somebody else wrote, as pixels: one door for every place that opens them.

A picture of 13 kB can be 178 million pixels when it is opened, and some formats of Pillow run other programs.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_PIXELS: Final = 64 << 20
"""8192×8192: four times the largest that a model of today makes; 200 MB as pixels."""
FORMATS: Final = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF")


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Raises ValueError for what is no image, is broken, or has more than `MAX_PIXELS`; also while it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}×{height} pixels, more than {MAX_PIXELS >> 20} million")
            yield picture
    except (ValueError, OSError):
        raise
    except Exception as error:  # its readers raise SyntaxError, struct.error, KeyError, zlib.error, … of broken bytes
        raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3], sRGB. Raises OSError or ValueError where the bytes are no image that can be held."""
    with open_image(data) as picture:
        return np.asarray(picture.convert("RGB"))
