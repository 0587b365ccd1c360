"""An image made again from its row, on a real pipeline of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from promptmill.jobs.reproduce import reproduce
from promptmill.pipeline.dataset.encode import encode_image
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.reproduce import compare_images, reproduce_sample
from promptmill.schemas.errors import JobError
from promptmill.schemas.output import Output
from tests.report.conftest import Dataset


def rows(dataset: Dataset, folder: str, number: int = 0) -> list[dict[str, object]]:
    path = sorted((dataset.folder / folder).iterdir())[number]
    return list(pq.read_table(path, columns=["sample_id", "prompt"]).to_pylist())


def test_kept_and_rejected_images_are_byte_identical(swept: Dataset, tmp_path: Path) -> None:
    kept, rejected = rows(swept, "data", 3)[-1], rows(swept, "rejects", 5)[0]
    found = reproduce(str(swept.folder), str(kept["sample_id"]), str(tmp_path / "again.png"), trust_dataset=True)
    assert found.verdict == "byte-identical" and found.with_mates
    assert (tmp_path / "again.png").read_bytes()[:4] == b"\x89PNG"
    short = str(rejected["sample_id"])[:10]
    assert reproduce_sample(swept.plan, swept.store, short).identical


def test_without_the_prompts_the_row_is_enough(swept: Dataset, tmp_path: Path) -> None:
    alone = swept.copy(tmp_path / "alone")
    source = swept.plan.segments[0].files[0]
    gone = replace(source, path=str(tmp_path / "gone.parquet"))
    segment = replace(swept.plan.segments[0], files=(gone,))
    plan = replace(swept.plan, segments=(segment,))
    store = Store(str(alone.folder), patience_s=0.1)
    found = reproduce_sample(plan, store, str(rows(alone, "data")[0]["sample_id"]))
    assert not found.with_mates
    assert found.max_difference is not None and found.max_difference <= 3


def test_ids_that_are_not_there(swept: Dataset) -> None:
    for wrong in ("0123456789abcdef", "short", "' OR 1=1"):
        with pytest.raises(JobError, match="sample_id"):
            reproduce(str(swept.folder), wrong, trust_dataset=True)
    failed = rows(swept, "failures")[0]
    with pytest.raises(JobError, match="empty_prompt"):
        reproduce(str(swept.folder), str(failed["sample_id"]), trust_dataset=True)


def test_differences_are_measured() -> None:
    output = Output(url="x")
    black = np.zeros((16, 16, 3), np.uint8)
    other = black.copy()
    other[0, 0, 0] = 10
    a, b = (encode_image(pixels, None, output).data for pixels in (black, other))
    with_text = encode_image(black, "text", output).data
    assert compare_images(a, a)["identical"]
    assert compare_images(a, with_text) == {"identical": False, "max_difference": 0, "psnr_db": None}
    found = compare_images(a, b)
    assert found["max_difference"] == 10
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / (100 / (16 * 16 * 3))))
