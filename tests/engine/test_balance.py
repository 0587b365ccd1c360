"""`select.per_class` through the command line: rounds until each class is full, and what is said of one that is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.engine.conftest import Answer

ASKED = 3


def job_of_classes(folder: Path, url: Path) -> Path:
    """Of the second class no image can be right: the verifier knows no such word."""
    content = {
        "name": "classes",
        "prompts": {"classes": {"circle": "a red circle", "spaceship": "a spaceship"}},
        "model": {"path": "builtin:shapes"},
        "generation": {"num_inference_steps": 5, "guidance_scale": 2.5, "batch_size": 8, "images_per_prompt": 1},
        "score": [{"metric": "verified"}],
        "select": {"per_class": ASKED, "by": "verified", "min": 1, "max_rounds": 3},
        "output": {"url": str(url)},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_classes_are_filled_in_rounds_and_one_that_cannot_be_is_told(
    cli: Callable[..., Answer], tmp_path: Path
) -> None:
    url = tmp_path / "out"
    file = job_of_classes(tmp_path, url)
    first = cli("run", file, "--in-process")
    assert first.code == 3, first.err
    assert "Class spaceship: 0 of 3 kept" in first.out and "Class circle" not in first.out
    assert "round 2: " in first.err and "round 3: " in first.err
    kept = pq.read_table(url / "data").column("label_name").to_pylist()
    assert Counter(kept) == {"circle": ASKED}
    before = {path.name: path.read_bytes() for path in sorted((url / "data").iterdir())}
    again = cli("run", file, "--in-process")
    assert again.code == 3 and {path.name: path.read_bytes() for path in sorted((url / "data").iterdir())} == before
    assert cli("verify", url).code == 0
