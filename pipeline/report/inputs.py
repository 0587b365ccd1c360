"""Images that prompts were drawn from, for the page: shown beside what came of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from promptmill.pipeline.dataset.samples import Samples
from promptmill.pipeline.prompts.reach import hashes_in
from promptmill.pipeline.prompts.thumbs import thumbnail
from promptmill.schemas.columns import HASHES, input_column
from promptmill.schemas.errors import SampleError
from promptmill.schemas.inputs import Role

MAX_INPUTS = 2_000
"""Pictures in all; each is fetched from where the prompts name it."""
GIVEN_UP = 5
"""After so many that are gone in a row the rest is gone too: the dataset was moved away from what it was made of."""

ReadInput = Callable[[str], bytes]
"""From the locator in a record, or the hash, to the bytes of the image; raises SampleError."""


def input_hashes(samples: Samples) -> frozenset[str]:
    """SHA-256 of every image that a prompt was drawn from."""
    return hashes_in(samples.source(HASHES)) if HASHES in samples.source_columns else frozenset()


def input_pictures(
    samples: Samples, rows: Sequence[int], roles: Iterable[Role], read: ReadInput, kept: ReadInput
) -> list[tuple[Role, int, str]]:
    """(role, row, data URI) for those that are still where they were read, or were kept."""
    found: list[tuple[Role, int, str]] = []
    known: dict[str, str | None] = {}
    missing = 0
    for role in sorted(roles):
        if not {input_column(role), HASHES} <= set(samples.source_columns):
            continue
        places = samples.source(input_column(role)).take(list(rows)).to_pylist()
        hashes = samples.source(HASHES).take(list(rows)).to_pylist()
        for row, place, sha256 in zip(rows, places, hashes, strict=True):
            if not place or not isinstance(place, str) or missing >= GIVEN_UP or len(found) >= MAX_INPUTS:
                continue
            if place not in known:
                known[place] = _picture(place, read) or _kept(sha256, role, kept)
            picture = known[place]
            missing = missing + 1 if picture is None else 0
            if picture is not None:
                found.append((role, row, picture))
    return found


def _kept(hashes: object, role: Role, kept: ReadInput) -> str | None:
    """By the hash in a row, which somebody else may have made anything."""
    sha256 = hashes.get(role) if isinstance(hashes, dict) else None
    return _picture(sha256, kept) if isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) else None


def _picture(place: str, read: ReadInput) -> str | None:
    try:
        return thumbnail(read(place))
    except SampleError:
        return None
