"""How surely a CLIP picks the caption among distractor captions (zero-shot classification, Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.models.interface import Embedder
from promptmill.pipeline.scores.clip import OfCaption
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores

Floats = npt.NDArray[np.float32]

LOGIT_SCALE = 100.0
"""What published CLIPs end their training with (Radford et al. 2021, section 2.5)."""


class Relative(OfCaption):
    """Shares its model, and what that saw of a batch, with a `ClipScore` of the same CLIP."""

    def __init__(
        self, embedder: Embedder, distractors: Sequence[str], name: str = "relative", version: str = ""
    ) -> None:
        super().__init__(embedder, name, version)
        self._distractors = list(dict.fromkeys(distractors))
        self._rows: Floats | None = None

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """0 to 1."""
        captions = [picture.caption for picture in pictures]
        images = self._embedder.images(PixelsOf(pictures))
        texts = self._embedder.texts(captions)
        return {self.name: chosen_share(images, texts, self._distractor_rows(), captions, self._distractors)}

    def _distractor_rows(self) -> Floats:
        if self._rows is None:
            self._rows = np.concatenate([self._embedder.texts([text]) for text in self._distractors])
        return self._rows


class AmongClasses:
    """How surely a CLIP picks the wording of an image's class among those of all classes."""

    needs = ("label",)
    scope: Scope = "image"

    def __init__(self, embedder: Embedder, wordings: Sequence[str], name: str = "relative", version: str = "") -> None:
        self.name, self.version, self.columns = name, version, (name,)
        self._embedder, self._wordings = embedder, list(wordings)
        self._rows: Floats | None = None

    def prepare(self, captions: Sequence[str]) -> None:
        """Captions are not read."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """0 to 1, NaN for an image without a class."""
        if self._rows is None:
            self._rows = np.concatenate([self._embedder.texts([text]) for text in self._wordings])
        labels = np.array([-1 if picture.label is None else picture.label for picture in pictures])
        images, texts = self._embedder.images(PixelsOf(pictures)), [self._wordings[label] for label in labels]
        share = chosen_share(images, self._rows[labels], self._rows, texts, self._wordings)
        return {self.name: np.where(labels < 0, np.float32(np.nan), share)}


def chosen_share(
    images: Floats, captions: Floats, distractors: Floats, texts: Sequence[str], others: Sequence[str]
) -> Floats:
    """Softmax of the caption's cosine among the distractors' at CLIP's own scale, 0 to 1: float32 [images].

    Rows of the first three are features of length 1; `texts` and `others` are the captions and distractors themselves,
    since a caption that is on the list of distractors is no rival of itself.
    """
    own = np.einsum("nd,nd->n", images, captions)
    same = np.array([[other == text for other in others] for text in texts], bool)
    ratio = np.where(same, 0.0, np.exp(LOGIT_SCALE * (images @ distractors.T - own[:, None])))
    share: Floats = (1 / (1 + ratio.sum(axis=1))).astype(np.float32)
    return share
