"""What `curate` finds of 100 planted copies, and loses of 2,000 scenes that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.copies import EACH, measure

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("real", [0, 600])
def test_planted_copies_are_found_and_scenes_stay(tmp_path: Path, real: int) -> None:
    made = measure(tmp_path, real=real)
    assert {kind: made.found[kind] for kind in ("exact", "jpeg", "mirrored")} == dict.fromkeys(
        ("exact", "jpeg", "mirrored"), EACH
    )
    assert made.misnamed == 0
    assert made.lost <= 2
