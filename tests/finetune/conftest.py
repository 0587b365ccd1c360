"""Six images of two classes, and trainings of a few steps on tiny pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptmill.jobs.finetune import finetune
from promptmill.schemas.tuned import FinetuneResult
from promptmill.schemas.tuning import Tuning
from tests.engine.conftest import cli
from tests.models.conftest import folder

__all__ = ["cli", "folder"]

Tune = Callable[..., FinetuneResult]


def write_images(root: Path, classes: tuple[str, ...] = ("circle", "square"), each: int = 3, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for label in classes:
        (root / label).mkdir(parents=True)
        for number in range(each):
            coarse = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64)).save(root / label / f"{number}.png")
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "real")


def tuning_of(model: Path, source: Path, output: Path, **changes: Any) -> Tuning:
    how = {"rank": 2, "steps": 3, "batch_size": 2, "checkpoint_every": 1, "learning_rate": 1e-2, "warmup_steps": 0}
    return Tuning.model_validate(
        {
            "name": "small",
            "model": {"path": str(model)},
            "images": {"source": str(source), **changes.pop("images", {})},
            "finetune": {**how, "width": 64, "height": 64, **changes.pop("finetune", {})},
            "output": {"folder": str(output)},
            **changes,
        }
    )


@pytest.fixture
def tune(folder: Callable[[str], Path], images: Path, tmp_path: Path) -> Tune:
    def run(family: str = "sd15", output: str = "out", **changes: Any) -> FinetuneResult:
        return finetune(tuning_of(folder(family), images, tmp_path / output, **changes))

    return run
