"""Small pictures for the page, as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

from promptmill.pipeline.prompts.pixels import ImageError, open_image

THUMB_PX = 192


def thumbnail(data: bytes, side: int = THUMB_PX) -> str | None:
    """A WebP data URI of at most `side` pixels; None where the bytes are no image.

    Pictures that are small already keep their size and more of their detail. Lossless they would take 6 kB at 64×64
    where there is noise, against 1 kB.
    """
    try:
        with open_image(data) as image:
            return small_picture(image, side)
    except ImageError:
        return None


def small_picture(image: Image.Image, side: int = THUMB_PX) -> str:
    """As `thumbnail`, upright."""
    sink = io.BytesIO()
    small = max(image.size) <= side
    image.draft("RGB", (2 * side, 2 * side))  # a whole photo of 12 megapixels takes 80 MB here
    picture = image.convert("RGB")
    if not small:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    ImageOps.exif_transpose(picture, in_place=True)
    picture.save(sink, "WEBP", quality=92 if small else 80, method=2)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
