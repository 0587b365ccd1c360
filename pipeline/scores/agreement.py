"""Whether a classifier sees in an image the class that its label says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptmill.pipeline.models.interface import Classifier
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores
from promptmill.schemas.scores import CLASSIFIER_SCORES


class Agreement:
    """`agrees` is 1 where no other of all the classifier's classes is likelier than the label's, else 0."""

    name = "classifier"
    columns = CLASSIFIER_SCORES
    needs = ("label",)
    scope: Scope = "image"

    def __init__(self, classifier: Classifier, outputs: Sequence[int], version: str = "") -> None:
        """`outputs` says which output of the classifier each label is."""
        self._classifier, self._outputs, self.version = classifier, np.array(outputs), version

    def prepare(self, captions: Sequence[str]) -> None:
        """Captions are not read."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """`label_probability` is 0 to 1; NaN for an image without a label."""
        shares = self._classifier.probabilities(PixelsOf(pictures))
        labels = np.array([-1 if picture.label is None else picture.label for picture in pictures])
        own = shares[np.arange(len(labels)), self._outputs[labels]]
        own = np.where(labels < 0, np.float32(np.nan), own)
        agrees = np.where(np.isnan(own), own, own >= shares.max(axis=1)).astype(np.float32)
        return dict(zip(CLASSIFIER_SCORES, (agrees, own), strict=True))
