"""What decides that two images are one: everything about a curation that changes what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.models.catalog.features import Features
from promptmill.pipeline.models.interface import ImageEncoder
from promptmill.pipeline.models.load import load_image_encoder
from promptmill.pipeline.storage.store import Store

FOLDER: Final = "curation"
"""Below the output: what is worked out on the way, and `decisions.parquet`, which stays."""
LARGEST_DIFFERENCE: Final = 0.0095
"""Of the looks of copies, between what was measured of JPEG 80 (at most 0.0088 of 1,800 scenes of the shapes world) and
of scenes with other words (at least 0.0103 of 6,000)."""
QUANTILE: Final = 0.9998
LABELS: Final = ("label_name", "label")
CELL_ROWS: Final = 2_000
"""Images of a cell, on average: every image of a cell is held against every other."""


@dataclass(frozen=True)
class Settings:
    """`threshold` is a cosine above which two images are copies, None to find it by `real` and `test`.

    `label` is the column inside whose values duplicates are looked for; None for the whole set. `percentiles` are
    scores with the share, of 100, of each class that goes for it before.
    """

    model: Features | None = None
    real: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    threshold: float | None = None
    quantile: float = QUANTILE
    label: str | None = None
    cell_rows: int = CELL_ROWS
    percentiles: tuple[tuple[str, float], ...] = ()

    def fields(self, contents: Mapping[str, str]) -> dict[str, Any]:
        """For the fingerprint: with the `contents` of the sets in place of where they lie."""
        own = {name: value for name, value in asdict(self).items() if name not in ("model", "real", "test")}
        own |= {"percentiles": dict(self.percentiles)} if own.pop("percentiles") else {}
        model = None if self.model is None else f"{self.model.path}@{self.model.revision}"
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
        return None if self.settings.model is None else _loaded(self.settings.model)


@lru_cache(8)
def _opened(url: str) -> Store:
    return open_output(url)


@lru_cache(1)
def _loaded(model: Features) -> ImageEncoder:
    return load_image_encoder(model, threads=1)
