"""Drawing over photos: as fast as the pipeline alone with the same batch, and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.table import Table

from tests.benchmarks.compare import Comparison, Goal, compare
from tests.benchmarks.setting import Setting

SIDE: Final = 64
SMALL: Final = (512, 384)
LARGE: Final = (4000, 3000)
"""12 megapixels, 2 MB as JPEG: what a phone makes."""
LEAST_RATE: Final = 0.95
MOST_GB: Final = 1.0


@dataclass(frozen=True)
class Photos:
    """`rates` compares over small images, `memory` what as many large ones take beside them."""

    rates: Comparison
    memory: Comparison
    most: Comparison

    def goals(self) -> list[Goal]:
        rate = self.rates.ratio("in-process", "warm_rate", "bare-over")
        own = self.most.median("in-process", "private_bytes") / 1e9 if self.most.rounds else None
        least = f"over images, images/s warm ÷ the pipeline alone: at least {LEAST_RATE}"
        return [
            Goal(least, rate, (rate or 0) >= LEAST_RATE),
            Goal("over photos of 12 megapixels, memory without files in GB: below 1", own, (own or MOST_GB) < MOST_GB),
        ]


def measure_photos(setting: Setting, folder: Path, photos: int, rounds: int, say: Callable[[str], None]) -> Photos:
    small = with_photos(setting, folder / "small", setting.images, SMALL)
    few = with_photos(setting, folder / "few", photos, SMALL)
    large = with_photos(setting, folder / "large", photos, LARGE)
    rates = compare(small, ["bare-over", "in-process"], rounds, say)
    return Photos(rates, compare(few, ["in-process"], 1, say), compare(large, ["in-process"], 1, say))


def photos_table(found: Photos, photos: int) -> Table:
    table = Table(title="Drawing over images, half of the steps", title_justify="left")
    for name in ("", "images/s, warm", "÷ alone", "peak memory, MB", "without files, MB"):
        table.add_column(name, justify="left" if not name else "right")
    rows = (
        (f"the pipeline alone, {SMALL[0]}×{SMALL[1]}", found.rates, "bare-over"),
        (f"promptmill, {SMALL[0]}×{SMALL[1]}", found.rates, "in-process"),
        (f"promptmill, {photos} images of {SMALL[0]}×{SMALL[1]}", found.memory, "in-process"),
        (f"promptmill, {photos} photos of {LARGE[0]}×{LARGE[1]}", found.most, "in-process"),
    )
    for title, measured, variant in rows:
        if variant in measured.rounds:
            ratio = measured.ratio(variant, "warm_rate", "bare-over")
            peak = measured.median(variant, "peak_bytes") / 1e6
            shown = "–" if ratio is None else f"{ratio:.2f}"
            own = measured.median(variant, "private_bytes") / 1e6
            rate = f"{measured.median(variant, 'warm_rate'):.2f}"
            table.add_row(title, rate, shown, f"{peak:,.0f}", f"{own:,.0f}")
    return table


def with_photos(setting: Setting, folder: Path, count: int, size: tuple[int, int]) -> Setting:
    """The setting over so many images of a size: a few that differ, over and over."""
    folder.mkdir()
    distinct = min(count, 8)
    for number in range(distinct):
        photo(number, size).save(folder / f"{number}.jpg", quality=90)
    prompts = pq.read_table(setting.source).column("prompt").to_pylist()
    rows = {
        "prompt": [prompts[i % len(prompts)] for i in range(count)],
        "image": [f"{i % distinct}.jpg" for i in range(count)],
    }
    pq.write_table(pa.table(rows), folder / "prompts.parquet")
    return replace(setting, source=str(folder / "prompts.parquet"), images=count, side=SIDE, strength=0.5)


def photo(number: int, size: tuple[int, int]) -> Image.Image:
    """Smooth colours under grain, which a JPEG takes about as many bytes for as for a photo."""
    width, height = size
    rng = np.random.default_rng(number)
    smooth = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
