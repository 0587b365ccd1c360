"""Small pictures for the page, as data URIs."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator

from PIL import Image

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import Samples
from promptmill.pipeline.prompts.pixels import ImageError, open_image
from promptmill.pipeline.storage.store import Store

THUMB_PX = 192


def thumbnail(data: bytes, side: int = THUMB_PX) -> str | None:
    """A WebP data URI of at most `side` pixels; None where the bytes are no image.

    Pictures that are small already keep their size and more of their detail. Lossless they would take 6 kB at 64×64
    where there is noise, against 1 kB.
    """
    sink = io.BytesIO()
    try:
        with open_image(data) as image:
            small = max(image.size) <= side
            picture = image.convert("RGB")
            if not small:
                picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            picture.save(sink, "WEBP", quality=92 if small else 80, method=2)
    except ImageError:
        return None
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def thumbnails(store: Store, samples: Samples, rows: Iterable[int], side: int = THUMB_PX) -> Iterator[tuple[int, str]]:
    """(row of the table, data URI) for those that have an image, object by object."""
    by_object: dict[str, dict[int, int]] = defaultdict(dict)
    objects, places = samples.table.column("object"), samples.table.column("row")
    for row in rows:
        by_object[objects[row].as_py()][places[row].as_py()] = row
    for key, wanted in by_object.items():
        for place, data in read_images(store, key, list(wanted)):
            picture = thumbnail(data, side)
            if picture is not None:
                yield wanted[place], picture
