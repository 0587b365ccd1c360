"""Metrics that see images as a CLIP does. Cosines of normalised features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.metrics.interface import Picture, Scores
from pipeline.models.distractors import chosen_share
from pipeline.models.interface import Features


class ClipScore:
    needs = ("caption",)

    def __init__(self, features: Features, name: str = "clip") -> None:
        self.name = name
        self.columns = (name,)
        self._features = features

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Cosine of image and caption, −1 to 1."""
        images = self._features.images([picture.pixels for picture in pictures])
        texts = self._features.texts([picture.caption for picture in pictures])
        return {self.name: np.einsum("nd,nd->n", images, texts)}


class Relative:
    """How surely CLIP picks the caption among distractors, 0 to 1."""

    name = "relative"
    columns = ("relative",)
    needs = ("caption",)

    def __init__(self, features: Features, distractors: Sequence[str]) -> None:
        self._features = features
        self._distractors = list(dict.fromkeys(distractors))

    def score(self, pictures: Sequence[Picture]) -> Scores:
        captions = [picture.caption for picture in pictures]
        images = self._features.images([picture.pixels for picture in pictures])
        texts, others = self._features.texts(captions), self._features.texts(self._distractors)
        return {"relative": chosen_share(images, texts, others, captions, self._distractors)}


class Diversity:
    """Mean distance (1 − cosine) of an image to the others of its prompt and cell; NaN where it is alone."""

    name = "diversity"
    columns = ("diversity",)
    needs: tuple[str, ...] = ()

    def __init__(self, features: Features) -> None:
        self._features = features

    def score(self, pictures: Sequence[Picture]) -> Scores:
        images = self._features.images([picture.pixels for picture in pictures])
        groups: dict[str, list[int]] = {}
        for i, picture in enumerate(pictures):
            groups.setdefault(picture.group, []).append(i)
        result = np.full(len(pictures), np.nan, np.float32)
        for members in groups.values():
            if len(members) > 1:
                cosines = images[members] @ images[members].T
                result[members] = 1 - (cosines.sum(axis=1) - np.diag(cosines)) / (len(members) - 1)
        return {"diversity": result}
