"""Bytes of an input image as pixels: upright, sRGB, without alpha, and of exactly the size that is drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from promptmill.pipeline.prompts.pixels import ImageError, UnknownImageError, open_image
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Fit
from promptmill.schemas.inputs import Role, is_control

MIN_SIDE = 8

Pixels = npt.NDArray[np.uint8]


def decode(data: bytes, role: Role) -> tuple[Pixels, tuple[str, ...]]:
    """Pixels upright: uint8 [h, w, 3] in sRGB, for a mask [h, w]; and flags. Raises SampleError.

    A control image that has transparent parts keeps its alpha, as a fourth channel over white.
    """
    try:
        with open_image(data) as image:
            flags = ("animated_input",) if getattr(image, "is_animated", False) else ()
            pixels = _upright(image, role)
    except UnknownImageError as error:
        page = data[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
        raise SampleError("input", f"{role}: {'a web page' if page else error}") from None
    except ImageError as error:
        raise SampleError("input", f"{role}: {error}") from None
    return (np.asarray(Image.fromarray(pixels).convert("L")) if role == "mask" else pixels), flags


def _upright(image: Image.Image, role: Role) -> Pixels:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}×{height}; the least side is {MIN_SIDE} pixels")
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # else another copy of 48 MB for a photo of 12 megapixels
        pixels = _flat(image, "black" if role == "mask" else "white")
        if is_control(role) and _is_transparent(image):
            pixels = np.dstack([pixels, np.asarray(image.convert("RGBA"))[..., 3]])
    except Exception as error:
        raise ImageError(f"broken or cut off ({error})") from error
    return pixels


def _flat(image: Image.Image, ground: str) -> Pixels:
    """Eight bits a channel, RGB, transparency laid over a plain ground."""
    if image.mode.startswith(("I", "F")):
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=2)
    if _is_transparent(image):
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, ground), layers)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _eight_bits(values: npt.NDArray[np.generic]) -> Pixels:
    """16 bits by division, where Pillow would clip them; floats from 0 to 1."""
    numbers = np.nan_to_num(values.astype(np.float64))
    top = 1.0 if numbers.max(initial=0) <= 1 and values.dtype.kind == "f" else 255.0
    top = 65535.0 if numbers.max(initial=0) > 255 or values.dtype == np.uint16 else top
    return np.rint(np.clip(numbers / top, 0, 1) * 255).astype(np.uint8)


def fit(pixels: Pixels, width: int, height: int, how: Fit) -> Pixels:
    """To exactly this size: `cover` cuts what is over, `contain` adds black, `stretch` changes the shape."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image, size = Image.fromarray(pixels), (width, height)
    method = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.LANCZOS
    if how == "stretch":
        return np.asarray(image.resize(size, method))
    if how == "contain":
        return np.asarray(ImageOps.pad(image, size, method))
    return np.asarray(ImageOps.fit(image, size, method))
