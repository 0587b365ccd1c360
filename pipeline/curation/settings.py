"""What decides that two images are one: everything about a curation that changes what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.models.catalog.features import Features, resolve_features
from promptmill.pipeline.models.interface import ImageEncoder
from promptmill.pipeline.models.load import load_image_encoder
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.curation import Curation

FOLDER: Final = "curation"
"""Below the output: what is worked out on the way, and `decisions.parquet`, which stays."""
LARGEST_DIFFERENCE: Final = 0.0095
"""Of the looks of copies, between what was measured of JPEG 80 (at most 0.0088 of 1,800 scenes of the shapes world) and
of scenes with other words (at least 0.0103 of 6,000)."""
LABELS: Final = ("label_name", "label")
CELL_ROWS: Final = 2_000
"""Images of a cell, on average: every image of a cell is held against every other."""


class Settings(Curation):
    """With the model that was found. `cell_rows` is how many images a cell has."""

    features: Features | None = None
    cell_rows: int = CELL_ROWS

    @classmethod
    def of(cls, options: Curation, where: str, **more: Any) -> Self:
        """`where` is who named the model. Raises JobError where that is none."""
        features = None if options.model is None else resolve_features(options.model, where)
        return cls(features=features, **{name: getattr(options, name) for name in Curation.model_fields}, **more)

    def fields(self, contents: Mapping[str, str]) -> dict[str, Any]:
        """For the fingerprint: with the `contents` of the sets in place of where they lie."""
        own = {name: getattr(self, name) for name in ("threshold", "quantile", "label", "cell_rows")}
        own |= {"percentiles": self.percentiles} if self.percentiles else {}
        own |= {} if self.per_class is None else {"per_class": self.per_class}
        model = None if self.features is None else f"{self.features.path}@{self.features.revision}"
        return {**own, "model": model, **contents}


@dataclass(frozen=True)
class Task:
    """What every part of the work is given; opened once in each process that works."""

    source: str
    target: str
    settings: Settings
    fingerprint: str = ""

    @property
    def input(self) -> Store:
        return _opened(self.source)

    @property
    def output(self) -> Store:
        return _opened(self.target)

    @property
    def encoder(self) -> ImageEncoder | None:
        return None if self.settings.features is None else _loaded(self.settings.features)


@lru_cache(8)
def _opened(url: str) -> Store:
    return open_output(url)


@lru_cache(1)
def _loaded(model: Features) -> ImageEncoder:
    return load_image_encoder(model, threads=1)
