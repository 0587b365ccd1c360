"""Settings that no image comes of are known before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.planning.plan import plan_job
from promptmill.schemas.errors import JobError
from tests.heart.mill import job, write_prompts


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"generation": {"scheduler": "lcm", "num_inference_steps": 51}},
            "num_inference_steps: .*at most 50 .*with lcm",
        ),
        ({"generation": {"scheduler": "tcd", "num_inference_steps": 51}}, "at most 50"),
        ({"generation": {"scheduler": "dpm++", "num_inference_steps": 1000}}, "at most 99. steps with dpm"),
        ({"generation": {"scheduler": "unipc", "num_inference_steps": 1000}}, "at most 99. steps with unipc"),
        ({"sweep": {"scheduler": ["ddim", "lcm"], "num_inference_steps": [50, 60]}}, "sweep.num_inference_steps.* lcm"),
        (
            {"generation": {"width": 16384, "height": 8}, "output": {"image_format": "webp"}},
            "sides up to 16,383 pixels",
        ),
        ({"sweep": {"height": [64, 16384]}, "output": {"image_format": "webp"}}, "sides up to 16,383 pixels"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, sections: dict[str, Any], expected: str) -> None:
    """Each image failed, or the run ended after hours of them."""
    with pytest.raises(JobError, match=expected):
        plan_job(job(write_prompts(tmp_path / "a.parquet"), **sections))


@pytest.mark.parametrize(
    "sections",
    [
        {"generation": {"scheduler": "lcm", "num_inference_steps": 50}},
        {"generation": {"scheduler": "euler", "num_inference_steps": 1000}},
        {"generation": {"scheduler": "dpm++", "num_inference_steps": 998}},
        {"generation": {"width": 16384, "height": 8}, "output": {"image_format": "png"}},
        {"sweep": {"scheduler": ["lcm"], "num_inference_steps": [50, 60], "exclude": [{"num_inference_steps": 60}]}},
    ],
)
def test_what_can(tmp_path: Path, sections: dict[str, Any]) -> None:
    plan_job(job(write_prompts(tmp_path / "a.parquet"), **sections))
