"""What all variants of one comparison share, and what each of them answers. Imports nothing heavy."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Setting:
    """One task, the same for every variant: a pipeline folder, an open_clip folder, and `images` distinct prompts.

    `folder` is empty when a variant starts, except for this setting. `core` is the one core that the variant with all
    of its processes may use; None leaves it all.
    """

    folder: str
    source: str
    model: str
    clip: str
    images: int = 256
    steps: int = 20
    batch: int = 16
    images_per_file: int = 64
    guidance: float = 5.0
    side: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    core: int | None = None
    strength: float | None = None
    """Of images in the column `image` of the source, which are drawn over; None draws from text."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / "setting.json").read_text()))

    def write(self) -> None:
        (Path(self.folder) / "setting.json").write_text(json.dumps(asdict(self)))

    @property
    def out(self) -> Path:
        return Path(self.folder) / "out"


@dataclass(frozen=True)
class Answer:
    """What a variant says of itself. Times are of the monotonic clock, which all processes of a machine share.

    `first_images` were made at `first_at`; `images` were made, and written where the variant writes, at `last_at`.
    """

    first_at: float
    first_images: int
    last_at: float
    images: int
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def warm_rate(self) -> float:
        """Images per second after the first batch, the last write included."""
        return (self.images - self.first_images) / (self.last_at - self.first_at)

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / "answer.json").read_text()))

    def write(self, folder: str | Path) -> None:
        (Path(folder) / "answer.json").write_text(json.dumps(asdict(self)))


def begin() -> Setting:
    """First line of a variant, before anything heavy is imported: threads are bound to the cores there are then."""
    setting = Setting.read(Path(sys.argv[1]))
    if setting.core is not None:
        os.sched_setaffinity(0, {setting.core})
    return setting


class Warmth:
    """Takes the time after the first batch and after the last write; processor seconds of this process between."""

    def __init__(self) -> None:
        self.first: tuple[float, float, int] | None = None

    def batch_done(self, images: int) -> None:
        """`images` so far; all calls but the first are ignored."""
        if self.first is None:
            self.first = time.monotonic(), time.process_time(), images

    def answer(self, images: int, **more: Any) -> Answer:
        assert self.first is not None, "no batch was made"
        at, processor, first_images = self.first
        more["processor_seconds_per_image"] = (time.process_time() - processor) / max(1, images - first_images)
        return Answer(at, first_images, time.monotonic(), images, more)
