"""Image bytes that somebody else wrote, as pixels: one door for every place that opens them.

A picture of 13 kB can be 178 million pixels when it is opened, and some formats of Pillow run other programs.
"""

from __future__ import annotations

import contextlib
import io
import re
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
                raise ImageError(_too_many(f"{width}×{height}"))
            yield picture
    except ImageError:
        raise
    except Image.DecompressionBombError as bomb:  # of twice Pillow's own limit, before there is an image with a size
        raise ImageError(_too_many(_size_by_header(data) or _pixels_said(bomb))) from None
    except UnidentifiedImageError:
        raise UnknownImageError("no image that Pillow knows") from None
    except Exception as error:  # its readers raise SyntaxError, struct.error, KeyError, zlib.error, … of broken bytes
        raise ImageError(first_line(error)) from error


def _too_many(size: str) -> str:
    return f"{size}, more than {MAX_PIXELS:,} pixels"


def _size_by_header(data: bytes) -> str:
    """What Pillow's readers make of the header alone; empty where none of them finds a size that is too large."""
    for name in FORMATS:
        if name in Image.OPEN:
            with contextlib.suppress(Exception), Image.OPEN[name][0](io.BytesIO(data), b"") as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    return f"{picture.width}×{picture.height}"
    return ""


def _pixels_said(bomb: Image.DecompressionBombError) -> str:
    """The reader of WebP tells no more than a number."""
    found = re.search(r"\d+", str(bomb))
    return f"{int(found[0]):,} pixels" if found else "an image"


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3], sRGB. Raises ImageError."""
    with open_image(data) as picture:
        return np.asarray(picture.convert("RGB"))
