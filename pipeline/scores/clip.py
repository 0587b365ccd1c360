"""Metrics that see images as a CLIP does. Cosines of normalised features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.models.interface import Features, Pixels
from promptmill.pipeline.scores.distractors import chosen_share
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scores

if TYPE_CHECKING:
    from promptmill.pipeline.models.clip.encoder import ClipScorer


class ClipScore:
    needs = ("caption",)

    def __init__(self, features: Features, name: str = "clip", made_by: str = "") -> None:
        self.name = name
        self.made_by = made_by
        self.columns = (name,)
        self._features = features

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Cosine of image and caption, −1 to 1."""
        images = self._features.images(PixelsOf(pictures))
        texts = self._features.texts([picture.caption for picture in pictures])
        return {self.name: np.einsum("nd,nd->n", images, texts)}


class Relative:
    """How surely CLIP picks the caption among distractors, 0 to 1."""

    name = "relative"
    columns = ("relative",)
    needs = ("caption",)

    def __init__(self, features: Features, distractors: Sequence[str], made_by: str = "") -> None:
        self._features = features
        self.made_by = made_by
        self._distractors = list(dict.fromkeys(distractors))

    def score(self, pictures: Sequence[Picture]) -> Scores:
        captions = [picture.caption for picture in pictures]
        images = self._features.images(PixelsOf(pictures))
        texts, others = self._features.texts(captions), self._features.texts(self._distractors)
        return {"relative": chosen_share(images, texts, others, captions, self._distractors)}


class Diversity:
    """Mean distance (1 − cosine) of an image to the others of its prompt and cell; NaN where it is alone."""

    name = "diversity"
    columns = ("diversity",)
    needs: tuple[str, ...] = ()

    def __init__(self, features: Features, made_by: str = "") -> None:
        self._features = features
        self.made_by = made_by

    def score(self, pictures: Sequence[Picture]) -> Scores:
        images = self._features.images(PixelsOf(pictures))
        groups: dict[str, list[int]] = {}
        for i, picture in enumerate(pictures):
            groups.setdefault(picture.group, []).append(i)
        result = np.full(len(pictures), np.nan, np.float32)
        for members in groups.values():
            if len(members) > 1:
                cosines = images[members] @ images[members].T
                result[members] = 1 - (cosines.sum(axis=1) - np.diag(cosines)) / (len(members) - 1)
        return {"diversity": result}


class RelativeScorer:
    """How surely a CLIP picks the caption among distractors; it shares the model and what it saw with `clip`."""

    def __init__(self, clip: ClipScorer, name: str, distractors: Sequence[str]) -> None:
        self.name = name
        self._clip = clip
        self._distractors = list(dict.fromkeys(distractors))
        self._distractor_features: npt.NDArray[np.float32] | None = None

    def prepare(self, captions: Sequence[str]) -> None:
        self._clip.prepare(captions)

    def is_cut(self, caption: str) -> bool:
        return self._clip.is_cut(caption)

    def score(self, images: Sequence[Pixels], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """0 to 1. Raises as `ClipScorer.score`."""
        from promptmill.pipeline.models.clip.encoder import to_numpy
        from promptmill.pipeline.models.diffusion.errors import guarded

        def compute() -> npt.NDArray[np.float32]:
            seen = to_numpy(self._clip.image_features(images))
            texts = to_numpy(self._clip.text_features(captions))
            return chosen_share(seen, texts, self._others(), captions, self._distractors)

        if len(images) == 0:
            return np.zeros(0, np.float32)
        return guarded(compute, len(images) == 1, "scoring")

    def _others(self) -> npt.NDArray[np.float32]:
        if self._distractor_features is None:
            from promptmill.pipeline.models.clip.encoder import to_numpy

            rows = [to_numpy(self._clip.encode_texts([text])) for text in self._distractors]
            self._distractor_features = np.concatenate(rows)
        return self._distractor_features
