"""Whether a classifier sees in an image the class that its label says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from promptmill.pipeline.models.catalog.classifiers import outputs_of
from promptmill.pipeline.models.interface import Classifier
from promptmill.pipeline.scores.interface import Picture, PixelsOf, Scope, Scores
from promptmill.schemas.columns import named
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
        outputs = [None if picture.label is None else int(self._outputs[picture.label]) for picture in pictures]
        return _scores(self._classifier, pictures, outputs)


class AgreementAfterwards:
    """As `Agreement`, of images that are there: the class is what their rows call it."""

    name = "classifier"
    columns = CLASSIFIER_SCORES
    needs = named("label_name")
    scope: Scope = "image"

    def __init__(self, classifier: Classifier, version: str, where: str) -> None:
        self._classifier, self.version, self._where = classifier, version, where

    def prepare(self, captions: Sequence[str]) -> None:
        """Captions are not read."""

    def check_classes(self, names: Iterable[str]) -> None:
        outputs_of(self._classifier.labels, sorted(names), self._where)

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """As `Agreement.score`. Raises JobError for a class that the classifier does not know."""
        names = [picture.fields.get(self.needs[0]) for picture in pictures]
        known = sorted({str(name) for name in names if name is not None})
        number = dict(zip(known, outputs_of(self._classifier.labels, known, self._where), strict=True))
        return _scores(self._classifier, pictures, [None if name is None else number[str(name)] for name in names])


def _scores(classifier: Classifier, pictures: Sequence[Picture], outputs: Sequence[int | None]) -> Scores:
    """`outputs` says which of the classifier's each picture's class is."""
    shares = classifier.probabilities(PixelsOf(pictures))
    places = np.array([-1 if each is None else each for each in outputs])
    own = np.where(places < 0, np.float32(np.nan), shares[np.arange(len(places)), places])
    agrees = np.where(np.isnan(own), own, own >= shares.max(axis=1)).astype(np.float32)
    return dict(zip(CLASSIFIER_SCORES, (agrees, own), strict=True))
