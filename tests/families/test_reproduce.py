"""A job over every scheduler that validation offers a family, and an image of each made again from its own row."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import promptmill
from promptmill.jobs.reproduce import reproduce
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.schedulers import fitting_schedulers
from promptmill.schemas.generation import Model
from tests.families.builders import build
from tests.families.test_families import CORE

ALL = bool(os.environ.get("FAMILIES"))
TRIED = CORE if ALL else ("StableDiffusion3Pipeline",)
DRAW_NOISE = ("FlowMatchLCMScheduler", "SASolverScheduler")


@pytest.mark.parametrize("name", TRIED)
def test_each_scheduler_offered_repeats_its_bytes(name: str, tmp_path: Path) -> None:
    """Those that draw noise differed by up to 255 of 255 where the pipeline hands `step` no generator."""
    folder = build(name, tmp_path / "model")
    model = resolve_model(Model(path=str(folder)), "model")
    (tmp_path / "prompts.txt").write_text("a red circle\nthe blue square\n")
    side = -(-64 // model.size_multiple) * model.size_multiple
    offered = sorted({model.scheduler, *(fitting_schedulers(model) if ALL else DRAW_NOISE)})
    job = {
        "name": "schedulers",
        "prompts": {"source": str(tmp_path / "prompts.txt")},
        "model": {"path": str(folder)},
        "generation": {"num_inference_steps": 3, "width": side, "height": side, "batch_size": 2},
        "sweep": {"scheduler": offered},
        "output": {"url": str(tmp_path / "out")},
    }
    assert promptmill.run(job, in_process=True).kept == 2 * len(offered)
    rows = [row for file in (tmp_path / "out" / "data").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    again = {
        row["scheduler"]: reproduce(
            str(tmp_path / "out"), row["sample_id"], out=str(tmp_path / "again.png"), trust_dataset=True
        ).identical
        for row in rows
        if row["prompt"] == "a red circle"
    }
    assert again == dict.fromkeys(offered, True)
