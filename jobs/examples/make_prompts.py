"""Writes `jobs/examples/prompts/shapes-*.parquet`, the prompts of the demo: `python jobs/examples/make_prompts.py`.

64 prompts in the grammar of the built-in model, of every kind that `pipeline/shapes/world.py` knows. A quarter of
those that name colour and shape combine them in a way that the model never saw in training (`split` is `held_out`).
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.world import Kind, Split

FOLDER: Final = Path(__file__).with_name("prompts")
SEED: Final = 7
FILES: Final = 2
COUNTS: Final[dict[Kind, int]] = {
    "one": 8,
    "two": 12,
    "place": 8,
    "relation": 12,
    "size": 8,
    "colour": 4,
    "placed": 8,
    "shape": 4,
}


def example_prompts() -> list[dict[str, str]]:
    """Rows of `prompt`, `category` and `split`; neighbours differ in category as long as they can."""
    columns = [_rows_of(kind, count) for kind, count in COUNTS.items()]
    return [row for rows in zip_longest(*columns) for row in rows if row is not None]


def _rows_of(kind: Kind, count: int) -> list[dict[str, str]]:
    # "a red shape" names no combination that could be held out.
    held_out = 0 if kind in ("colour", "shape") else count // 4
    shares: dict[Split, int] = {"train": count - held_out, "held_out": held_out}
    rows: dict[str, dict[str, str]] = {}
    for split, share in shares.items():
        distinct = dict.fromkeys(prompt.caption for prompt in sample_prompts(8 * share, SEED, split, kind))
        new = [caption for caption in distinct if caption not in rows][:share]
        rows |= {caption: {"prompt": caption, "category": kind, "split": split} for caption in new}
    return list(rows.values())


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = example_prompts()
    per_file = len(rows) // FILES
    for number in range(FILES):
        table = pa.Table.from_pylist(rows[number * per_file : (number + 1) * per_file])
        pq.write_table(table, folder / f"shapes-{number:03d}.parquet")


if __name__ == "__main__":
    write()
