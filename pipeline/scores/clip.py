"""How well an image fits its caption, as a CLIP sees both (Hessel et al. 2021, without their scaling)."""

from __future__ import annotations

from collections.abc import Sequence

from promptmill.pipeline.models.interface import Embedder
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores


class OfCaption:
    """What scores of an image and its caption by a CLIP share."""

    needs = ("caption",)
    scope: Scope = "image"

    def __init__(self, embedder: Embedder, name: str, version: str = "") -> None:
        self.name = name
        self.version = version
        self.columns = (name,)
        self._embedder = embedder

    def prepare(self, captions: Sequence[str]) -> None:
        self._embedder.prepare(captions)

    def is_cut(self, caption: str) -> bool:
        return self._embedder.is_cut(caption)


class ClipScore(OfCaption):
    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Cosine of image and caption, −1 to 1."""
        captions = [picture.caption for picture in pictures]
        return {self.name: self._embedder.cosines(PixelsOf(pictures), captions)}
