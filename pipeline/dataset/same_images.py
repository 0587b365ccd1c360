"""Which images of two sets are the same picture: to the pixel, or re-encoded, resized and turned a little in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.dataset.labelled import Labelled
from promptmill.schemas.errors import JobError, Problem

SIDE: Final = 32
SAME_WITHIN: Final = 5.5
"""Root of the mean square difference at 32×32, of 255. Small shapes in full colours differ by up to 4.6 from their JPEG
of quality 90. Of 240 renders of scenes 3 lie as near to one of 120 others by chance."""
MIRRORED: Final = 2.0
"""So many times as near a mirrored image must be: scenes that mirror each other are many, and a mirrored copy is seldom
changed besides."""
MOST_ALIKE: Final = 0.05
"""Share of a test set that may look like training images without being copies: those are not asked."""
_ROWS: Final = 512


def same_pairs(ours: Sequence[Labelled], theirs: Sequence[Labelled]) -> list[tuple[Labelled, Labelled]]:
    """Each of `ours` that is one of `theirs`, mirrored or not, with the one that it is most like."""
    if not ours or not theirs:
        return []
    small, upright = _thumbs(ours), _thumbs(theirs)
    others = np.concatenate([upright, upright[:, :, ::-1]]).reshape(2 * len(theirs), -1)
    small, lengths = small.reshape(len(ours), -1), (others**2).sum(1)
    within = np.repeat([SAME_WITHIN, SAME_WITHIN / MIRRORED], len(theirs)) ** 2
    found = []
    for start in range(0, len(small), _ROWS):
        part = small[start : start + _ROWS]
        squares = (part**2).sum(1)[:, None] - 2 * part @ others.T + lengths
        nearest = (squares / within).argmin(1)
        for row, column in enumerate(nearest):
            exact = float(((part[row] - others[column]) ** 2).mean())
            if exact <= within[column]:
                found.append((ours[start + row], theirs[int(column) % len(theirs)]))
    return found


def refuse_shared(ours: Sequence[Labelled], theirs: Sequence[Labelled], where: str, what: str, hint: str) -> None:
    """Raises JobError where an image of `ours` is one of `theirs`, by name and count."""
    if pairs := same_pairs(ours, theirs):
        raise JobError(_shared(pairs, len(ours), where, what, hint))


def not_shared(
    ours: Sequence[Labelled], theirs: Sequence[Labelled], where: str, what: str, hint: str
) -> tuple[list[Labelled], int]:
    """`theirs` without those that look like one of `ours`, and how many these are.

    Raises JobError where one is the same to the pixel, or more than `MOST_ALIKE` look the same: in a world of few
    scenes some do by chance, and a leak is more.
    """
    pairs = sorted(same_pairs(ours, theirs), key=lambda pair: pair[0].sha256 != pair[1].sha256)
    copies = {each.sha256 for each in ours} & {each.sha256 for each in theirs}
    alike = _near(theirs, ours)
    if copies or len(alike) > MOST_ALIKE * len(theirs):
        raise JobError(_shared(pairs, len(ours), where, what, hint))
    return [each for each in theirs if id(each) not in alike], len(alike)


def _near(some: Sequence[Labelled], others: Sequence[Labelled]) -> set[int]:
    return {id(mine) for mine, _ in same_pairs(some, others)}


def _shared(pairs: Sequence[tuple[Labelled, Labelled]], count: int, where: str, what: str, hint: str) -> Problem:
    mine, its = pairs[0]
    more = f", and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    got = f"{len(pairs)} of {count} the same: {mine.name} is {its.name}{more}"
    return Problem(where, f"no image of {what}", got, hint)


def _thumbs(images: Sequence[Labelled]) -> npt.NDArray[np.float32]:
    """float32 [images, 32, 32, 3]."""
    size = (SIDE, SIDE)
    rows = [np.asarray(Image.fromarray(each.pixels).resize(size, Image.Resampling.BOX), np.float32) for each in images]
    return np.stack(rows)
