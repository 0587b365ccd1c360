"""What a metric is: numbers for the images of one shard, after the fact and without generating again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.pixels import decode_image

Scores = Mapping[str, npt.NDArray[np.float32]]
"""By name of the score float32 [images], NaN where an image has none."""


@dataclass(frozen=True)
class Picture:
    """One stored image. `group` is equal for the images of one prompt in one sweep cell; `fields` is the whole row.

    `image` is the pixels, or the bytes of a large one, which is decoded whenever it is looked at.
    """

    sample_id: str
    caption: str
    group: str
    image: Pixels | bytes
    fields: Mapping[str, Any]

    @property
    def pixels(self) -> Pixels:
        return decode_image(self.image) if isinstance(self.image, bytes) else self.image


class PixelsOf(Sequence[Pixels]):
    """Of pictures, one at a time: what a model is shown need not be in memory at once."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Pixels: ...

    @overload
    def __getitem__(self, index: slice) -> PixelsOf: ...

    def __getitem__(self, index: int | slice) -> Pixels | PixelsOf:
        return PixelsOf(self._pictures[index]) if isinstance(index, slice) else self._pictures[index].pixels


class Metric(Protocol):
    @property
    def name(self) -> str:
        """Begins the names of the objects below `scores/`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the scores it gives."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that a dataset must have beside `image`."""

    @property
    def made_by(self) -> str:
        """Tells apart what gives other scores under the same name: the CLIP's weights, the distractors; else empty."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Of all images of a shard at once, so that those of one prompt can be held against each other."""
