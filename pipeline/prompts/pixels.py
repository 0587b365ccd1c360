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
from PIL import Image, UnidentifiedImageError

from promptmill.pipeline.display import first_line

MAX_PIXELS: Final = 100_000_000
"""Read from the header, before anything is decoded: a photo of 100 megapixels takes 300 MB."""
MAX_BYTES: Final = 256 << 20
"""Of a file that holds one image."""
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
"""Without those that need another program, as EPS needs Ghostscript, and those that nobody makes pictures in."""


class ImageError(ValueError):
    """Why bytes are no image that can be held."""


class UnknownImageError(ImageError):
    """Bytes of no format that is read."""


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Raises ImageError for what is no image, is broken, or has more than `MAX_PIXELS`; also while it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width}×{height}, more than {MAX_PIXELS:,} pixels")
            yield picture
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise UnknownImageError("no image that Pillow knows") from None
    except Exception as error:  # its readers raise SyntaxError, struct.error, KeyError, zlib.error, … of broken bytes
        raise ImageError(first_line(error)) from error


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3], sRGB. Raises ImageError."""
    with open_image(data) as picture:
        return np.asarray(picture.convert("RGB"))
