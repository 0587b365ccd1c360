"""What a dataset that somebody else may have made can make this machine read: itself, and what its user has named.

A row of such a dataset may say that its image lies at any path or URL, and what is read there ends in images, records
and pages that are published.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from promptmill.pipeline.storage.noted import is_noted, note
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote
from promptmill.schemas.identity import digest
from promptmill.schemas.plan import STAGED, SourceFile

EMBEDDED: Final = "row:"
"""Begins the locator of an image that lies in a column: `row:<file>#<column>:<row>`."""
PACKED: Final = "tar:"
"""Begins the locator of an image that is a member of a tar: `tar:<file>#<start>+<bytes>:<hash>:<name>`."""
_KIND: Final = "places"
HINT: Final = (
    "Somebody else may have made this dataset. `--trust-dataset` reads what it names all the same, `--job JOB.yaml` "
    "what lies beside the prompts of your own job"
)


@dataclass(frozen=True)
class Reach:
    """`places` are files, folders and URLs with all that lies below them; those of jobs run here count too.

    A file elsewhere may be read where its SHA-256 is one of `hashes`: whoever wrote that down knew the content.
    """

    places: tuple[str, ...] = ()
    hashes: frozenset[str] = frozenset()

    def holds(self, place: str) -> bool:
        own = {_real(each) for each in self.places}
        return any(above in own or is_noted(_KIND, digest(above)) for above in _upwards(_real(place)))

    def holds_locator(self, locator: str) -> bool:
        """Of an image that a row names (`prompts.inputs.locator`)."""
        inside = next((mark for mark in (EMBEDDED, PACKED) if locator.startswith(mark)), None)
        file = locator.removeprefix(inside).rpartition("#")[0] if inside else locator
        return file.startswith(STAGED) or self.holds(file)

    def knows(self, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() in self.hashes

    def holds_file(self, file: SourceFile) -> bool:
        """Copies lie in the dataset; of a file that the plan has a digest of, nothing else is read."""
        known = file.digest is not None and not is_remote(file.path)
        return file.path.startswith(STAGED) or known or self.holds(file.path)


def reach_from(store: Store, places: Iterable[str]) -> Reach:
    """The dataset itself, and these places."""
    return Reach((store.url if store.local_path() is None else store.root, *places))


def hashes_in(column: pa.ChunkedArray) -> frozenset[str]:
    """Of the record's hashes by role, which a stranger may have made a column of anything."""
    rows = (row for row in column.to_pylist() if isinstance(row, dict))
    return frozenset(str(each) for row in rows for each in row.values() if each)


def places_of(files: Iterable[SourceFile]) -> list[str]:
    """Where prompts lie, and the images that they name by a relative path."""
    found = (file.folder or ("" if file.path.startswith(STAGED) else file.path.rpartition("/")[0]) for file in files)
    return list(dict.fromkeys(filter(None, found)))


def remember_places(places: Iterable[str]) -> str | None:
    """Note that a job of this user's names these. What went wrong, where that cannot be written."""
    return note(_KIND, [digest(_real(place)) for place in places])


def _real(place: str) -> str:
    """Links followed, so that none leads out of a place; a URL that goes upwards is below nothing."""
    if is_remote(place):
        return "" if re.search(r"(^|/)(\.|%2e){2}(/|$)", place, re.IGNORECASE) else place.rstrip("/")
    return os.path.realpath(absolute_url(place))


def _upwards(place: str) -> Iterator[str]:
    """The place itself and all that it lies in, but for the root of everything."""
    head, mark, rest = place.partition("://") if is_remote(place) else ("", "", place)
    parts = rest.split("/")
    for end in range(len(parts), 0, -1):
        if above := "/".join(parts[:end]):
            yield f"{head}{mark}{above}"
