"""Writes `jobs/examples/inputs/`: images to draw from, for the examples: `python jobs/examples/make_inputs.py`.

`figures.parquet` has one figure an image, of which the prompt wants another colour and shape; `pairs.parquet` two, and
a mask over the one that is to change; `maps.parquet` outlines, of which the prompt says the colour and the caption all.
`real/` has a folder of four images for each shape, as somebody has who begins with few.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from promptmill.pipeline.shapes.edits import ControlCase, Edit, sample_cases, sample_edits
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.world import SHAPES, sample_scene
from promptmill.schemas.columns import IMAGE

FOLDER: Final = Path(__file__).with_name("inputs")
COUNT: Final = 24
SEED: Final = 3
REAL: Final = 4
"""Images of a class."""


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, figures in (("figures", 1), ("pairs", 2)):
        rows = [_row(edit, f"{name}-{i}", figures == 2) for i, edit in enumerate(sample_edits(COUNT, SEED, figures))]
        images = [("image", IMAGE), *([("mask", IMAGE)] if figures == 2 else [])]
        texts = [("id", pa.string()), ("prompt", pa.string())]
        table = pa.Table.from_pylist(rows, schema=pa.schema([*texts, *images]))
        pq.write_table(table, FOLDER / f"{name}.parquet", compression="zstd")
    maps = [_map_row(case, f"map-{i}") for i, case in enumerate(sample_cases(COUNT, SEED))]
    columns = [*((name, pa.string()) for name in ("id", "prompt", "caption")), ("edges", IMAGE)]
    pq.write_table(pa.Table.from_pylist(maps, schema=pa.schema(columns)), FOLDER / "maps.parquet", compression="zstd")
    _write_real()


def _write_real() -> None:
    chance, left = np.random.default_rng(SEED), dict.fromkeys(SHAPES, REAL)
    while any(left.values()):
        scene = sample_scene(chance)
        shape = scene.objects[0].shape
        if left[shape]:
            left[shape] -= 1
            folder = FOLDER / "real" / shape
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(scene)).save(folder / f"{REAL - left[shape]}.png", optimize=True)


def _row(edit: Edit, name: str, with_mask: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"id": name, "prompt": edit.caption, "image": _png(Image.fromarray(edit.image), name)}
    return {**row, "mask": _png(Image.fromarray(edit.mask), f"{name}-mask")} if with_mask else row


def _map_row(case: ControlCase, name: str) -> dict[str, Any]:
    edges = _png(Image.fromarray(case.edges), name)
    return {"id": name, "prompt": case.prompt, "caption": case.caption, "edges": edges}


def _png(image: Image.Image, name: str) -> dict[str, Any]:
    sink = io.BytesIO()
    image.save(sink, "PNG", optimize=True)
    return {"bytes": sink.getvalue(), "path": f"{name}.png"}


if __name__ == "__main__":
    main()
