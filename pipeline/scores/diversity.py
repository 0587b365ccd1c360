"""How far the images of one prompt lie apart, as a CLIP sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptmill.pipeline.models.interface import Embedder
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores


class Diversity:
    """Mean distance (1 − cosine) of an image to the others of its prompt and variant; NaN where it is alone."""

    name = "diversity"
    columns = ("diversity",)
    needs: tuple[str, ...] = ()
    scope: Scope = "group"

    def __init__(self, embedder: Embedder, version: str = "") -> None:
        self._embedder = embedder
        self.version = version

    def prepare(self, captions: Sequence[str]) -> None:
        """Captions play no part."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        images = self._embedder.images(PixelsOf(pictures))
        groups: dict[str, list[int]] = {}
        for i, picture in enumerate(pictures):
            groups.setdefault(picture.group, []).append(i)
        result = np.full(len(pictures), np.nan, np.float32)
        for members in groups.values():
            if len(members) > 1:
                cosines = images[members] @ images[members].T
                result[members] = 1 - (cosines.sum(axis=1) - np.diag(cosines)) / (len(members) - 1)
        return {"diversity": result}
