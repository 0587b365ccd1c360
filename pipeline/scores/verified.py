"""Whether an image shows what its prompt claims, exactly, for prompts of the built-in shapes world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptmill.pipeline.scores.interface import Picture, Scope, Scores
from promptmill.pipeline.shapes.verify import verify
from promptmill.pipeline.shapes.world import Claims
from promptmill.schemas.scores import METRIC_SCORES


class Verified:
    """`verified` is 1 where every claim holds, else 0; `verified_share` is the share that holds.

    The claims are those of the column `truth`, which `suite: shapes` has, else they are read from the caption.
    """

    name = "verified"
    columns = METRIC_SCORES["verified"]
    version = ""
    needs = ("caption",)
    scope: Scope = "image"

    def prepare(self, captions: Sequence[str]) -> None:
        """Each caption is read with its image."""

    def score(self, pictures: Sequence[Picture]) -> Scores:
        shares = np.array([self._share(picture) for picture in pictures], np.float32)
        whole = np.where(np.isnan(shares), np.nan, shares == 1).astype(np.float32)
        return {"verified": whole, "verified_share": shares}

    def _share(self, picture: Picture) -> float:
        """NaN for a prompt that claims nothing about shapes, and for an image that is too small to look at."""
        try:
            held = verify(picture.pixels, _truth(picture) or picture.caption).claims.values()
        except ValueError:
            return float("nan")
        return sum(held) / len(held)


SCORER = Verified


def _truth(picture: Picture) -> Claims | None:
    """None where the column is missing, or belongs to somebody else."""
    try:
        return Claims.from_dict(picture.fields["truth"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
