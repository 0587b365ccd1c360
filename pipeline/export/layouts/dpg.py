"""<item_id>.png, four images as a 2×2 grid, for dpg_bench of github.com/TencentQQGYLab/ELLA."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from promptmill.pipeline.dataset.samples import Samples, as_texts
from promptmill.pipeline.export.names import distinct_names
from promptmill.pipeline.export.trees import Folders, Group, Place, Places, Tree
from promptmill.pipeline.prompts.pixels import MAX_PIXELS, ImageError, decode_image, open_image
from promptmill.schemas.errors import JobError, Problem

GRID = 4
OPTIONAL = ("item_id",)


def fill(samples: Samples, places: Places, folders: Folders) -> Tree:
    short = [prompt for (_, prompt), rows in places.items() if len(rows) < GRID]
    if short:
        hint = "Set `images_per_prompt: 4` and leave `select` out, or give --rejected where their images are stored"
        got = f"fewer for {len(short)}, such as {short[0]!r}"
        raise JobError(Problem("layout dpg", f"{GRID} images of each prompt", got, hint))
    named = as_texts(samples.source("item_id")) if "item_id" in samples.source_columns else samples.texts("prompt_id")
    # A folder of text files, one prompt each, is how DPG-Bench comes.
    labels = {prompt: re.sub(r"\.txt:\d+$", "", named[rows[0]]) for (_, prompt), rows in places.items()}
    stems = distinct_names(labels, "prompt")

    def filled(key: str) -> Callable[[int], list[str]]:
        return lambda images: [key]

    def make(place: Place, group: Group) -> Iterator[bytes]:
        yield grid_png([data for _, data in group[:GRID]])

    return Tree({(v, p): filled(f"{folders[v]}{stems[p]}.png") for v, p in places}, make)


def grid_png(images: Sequence[bytes]) -> bytes:
    """Four images of one size as a 2×2 grid, row by row."""
    with open_image(images[0]) as first:
        width, height = first.size
    if 4 * width * height > MAX_PIXELS:
        raise ImageError(f"four of {width}×{height}, more than {MAX_PIXELS:,} pixels")
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for i, data in enumerate(images):
        picture = Image.fromarray(decode_image(data))
        sheet.paste(
            picture.resize((width, height)) if picture.size != (width, height) else picture,
            (i % 2 * width, i // 2 * height),
        )
    sink = io.BytesIO()
    sheet.save(sink, "PNG", compress_level=1)
    return sink.getvalue()
