"""What a score is: numbers for images, made while a job runs or afterwards for images that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.prompts.pixels import decode_image

Scores = Mapping[str, npt.NDArray[np.float32]]
"""By name of the score float32 [images], NaN where an image has none."""
Scope = Literal["image", "group"]


@dataclass(frozen=True)
class Picture:
    """One image. `group` is equal for the images of one prompt in one variant; `fields` are columns of its row:
    those of its prompt while the job runs, the whole record afterwards. `label` is the number of its class, while the
    job runs.

    `image` is the pixels, or the bytes of a large one, which is decoded whenever it is looked at.
    """

    sample_id: str
    caption: str
    group: str
    image: Pixels | bytes
    fields: Mapping[str, Any]
    label: int | None = None

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


class Scorer(Protocol):
    """Gives one or more scores to each image. One file of this room a kind; a user's own is wrapped by `own.py`."""

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
    def version(self) -> str:
        """Tells apart what gives other scores under the same name: the CLIP's weights, the distractors; else empty."""

    @property
    def scope(self) -> Scope:
        """`group` where the images of one prompt are held against each other: then only afterwards."""

    def prepare(self, captions: Sequence[str]) -> None:
        """Called before the images of a shard, with all their captions."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Of one image or of many, with the same result for each; of scope `group` of all images of a shard at once."""


@runtime_checkable
class KnowsSome(Protocol):
    """A scorer that knows some classes: those of images that are there are looked at before the first is scored."""

    def check_classes(self, names: Iterable[str]) -> None:
        """Raises JobError where it does not know one. `names` are what the column `needs[0]` says."""


@runtime_checkable
class ReadsSome(Protocol):
    """A scorer that reads captions up to a length."""

    def is_cut(self, caption: str) -> bool: ...
