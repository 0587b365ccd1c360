"""What few-shot.yaml made, as one image: `python jobs/examples/make_picture.py` after it ran."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

import promptmill

HERE = Path(__file__).parent
SIDE, GAP, REAL, MADE = 48, 4, 4, 8


def main() -> None:
    """Of each class a row: its real images, then the first that stayed."""
    classes = sorted(path for path in (HERE / "inputs/real").iterdir() if path.is_dir())
    made: dict[str, list[Image.Image]] = {path.name: [] for path in classes}
    for record in promptmill.open_dataset("out/few-shot-clean"):
        made[str(record["label_name"])].append(Image.open(io.BytesIO(record.image_bytes)))
    step = SIDE + GAP
    sheet = Image.new("RGB", ((REAL + MADE) * step + 4 * GAP, len(classes) * step + GAP), "white")
    for row, folder in enumerate(classes):
        real = [Image.open(path) for path in sorted(folder.iterdir())[:REAL]]
        for column, image in enumerate([*real, *made[folder.name][:MADE]]):
            left = GAP + column * step + (3 * GAP if column >= REAL else 0)
            sheet.paste(image.convert("RGB").resize((SIDE, SIDE)), (left, GAP + row * step))
    sheet.quantize(128).save(HERE / "few-shot.png", optimize=True)


if __name__ == "__main__":
    main()
