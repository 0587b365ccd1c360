"""Bytes of an input image as pixels: upright, sRGB, without alpha, and of exactly the size that is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from promptmill.pipeline.prompts.pixels import ImageError, UnknownImageError, open_image
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Fit
from promptmill.schemas.inputs import Role, is_control

MIN_SIDE = 8
ROOM_BYTES: Final = 64 << 20
"""Of decoded originals that are alive at once in a process: one photo of 12 megapixels takes 48 MB while it is made
smaller, and two threads that each had one, with copies, peaked 800 MB above what the model needs (measured)."""
_BYTES_A_PIXEL: Final = 4  # Pillow's, of RGB too
_DRAFT_SHARE: Final = 2
"""A JPEG may be decoded at a half, a quarter or an eighth of its size, where twice the sides that are asked for remain
to be made smaller with care."""
_TURNED: Final = (5, 6, 7, 8)
"""EXIF orientations that change the sides of an image."""
_ORIENTATION: Final = 0x0112

Pixels = npt.NDArray[np.uint8]


class Target(NamedTuple):
    """What pixels are brought to: a size, and how."""

    width: int
    height: int
    how: Fit


class Decoded(NamedTuple):
    """Pixels upright: uint8 [h, w, 3] in sRGB, for a mask [h, w]. `size` is width and height of the whole image."""

    pixels: Pixels
    flags: tuple[str, ...]
    size: tuple[int, int]


class Room:
    """Memory for what is alive for a moment, shared by threads; what is larger than all of it has it for itself."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._taken = size_bytes, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size_bytes <= self._size)
            self._taken += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size_bytes
                self._changed.notify_all()


_ROOM: Final = Room(ROOM_BYTES)


def decode(data: bytes, role: Role, to: Target | None = None) -> Decoded:
    """Raises SampleError. Of the size of `to`, where it is given: what is larger is let go of at once.

    A control image that has transparent parts keeps its alpha, as a fourth channel over white.
    """
    try:
        with open_image(data) as image:
            flags = ("animated_input",) if getattr(image, "is_animated", False) else ()
            whole = _draft(image, to) if to is not None and role != "mask" else None
            with _ROOM.taken(image.width * image.height * _BYTES_A_PIXEL):
                upright = _upright(image, role)
                whole = whole or upright.size
                pixels = np.array(upright, np.uint8) if to is None else fit(upright, *to)
    except UnknownImageError as error:
        page = data[:200].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
        raise SampleError("input", f"{role}: {'a web page' if page else error}") from None
    except ImageError as error:
        raise SampleError("input", f"{role}: {error}") from None
    return Decoded(pixels, flags, whole)


def _draft(image: Image.Image, to: Target) -> tuple[int, int] | None:
    """Lets a JPEG be decoded at a part of its size. The whole size, upright; None of other formats, which have none."""
    if image.format not in ("JPEG", "MPO"):
        return None
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION) in _TURNED
    upright = (height, width) if turned else (width, height)
    share = max(to.width / upright[0], to.height / upright[1]) * _DRAFT_SHARE
    if share < 1:
        image.draft(None, (int(width * share) + 1, int(height * share) + 1))
    return upright


def _upright(image: Image.Image, role: Role) -> Image.Image:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{width}×{height}; the least side is {MIN_SIDE} pixels")
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # else another copy of 48 MB for a photo of 12 megapixels
        flat = _flat(image, "black" if role == "mask" else "white")
        if is_control(role) and _is_transparent(image):
            flat.putalpha(image.convert("RGBA").getchannel("A"))
        return flat.convert("L") if role == "mask" else flat
    except Exception as error:
        raise ImageError(f"broken or cut off ({error})") from error


def _flat(image: Image.Image, ground: str) -> Image.Image:
    """Eight bits a channel, RGB, transparency laid over a plain ground."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if _is_transparent(image):
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, ground), layers)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _eight_bits(values: npt.NDArray[np.generic]) -> Pixels:
    """16 bits by division, where Pillow would clip them; floats from 0 to 1."""
    numbers = np.nan_to_num(values.astype(np.float64))
    top = 1.0 if numbers.max(initial=0) <= 1 and values.dtype.kind == "f" else 255.0
    top = 65535.0 if numbers.max(initial=0) > 255 or values.dtype == np.uint16 else top
    return np.rint(np.clip(numbers / top, 0, 1) * 255).astype(np.uint8)


def fit(given: Pixels | Image.Image, width: int, height: int, how: Fit) -> Pixels:
    """To exactly this size: `cover` cuts what is over, `contain` adds black, `stretch` changes the shape."""
    image = given if isinstance(given, Image.Image) else Image.fromarray(given)
    size, method = (width, height), Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.LANCZOS
    if image.size == size:
        return np.asarray(image)
    if how == "stretch":
        return np.asarray(image.resize(size, method))
    if how == "contain":
        return np.asarray(ImageOps.pad(image, size, method))
    return np.asarray(ImageOps.fit(image, size, method))
