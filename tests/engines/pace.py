"""A score whose seconds an image are said by a file, so that a run lasts as long as a test needs it: PACE_FILE."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Pace:
    scores = ("pace",)
    version = "1"

    def score(self, pictures: Sequence[Any]) -> dict[str, list[float]]:
        began = time.monotonic()
        while time.monotonic() - began < seconds_an_image() * len(pictures):
            time.sleep(0.05)
        return {"pace": [1.0] * len(pictures)}


def seconds_an_image() -> float:
    return float(Path(os.environ["PACE_FILE"]).read_text() or 0)
