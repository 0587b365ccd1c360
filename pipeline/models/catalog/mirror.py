"""Models of the hub out of a mirror of one's own: `MIRROR/org/name/COMMIT/` holds a repository's files and SHA256SUMS.

A copy here is known by mirror, id and commit: jobs that name another mirror, or none, never load it. A file has its
name only once it is whole and has the sum that the mirror says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from shutil import rmtree
from typing import Final

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.models.catalog.licenses import CARD
from promptmill.pipeline.models.catalog.weights import ModelFolder, read_json
from promptmill.pipeline.storage.digests import read_blocks
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.turns import one_at_a_time
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import JobError, PlaceError, Problem, StorageError
from promptmill.schemas.identity import digest

SUMS: Final = "SHA256SUMS"
Told = Callable[[str], None]

_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(?!/)(\S(?:.*\S)?)")
_MOST_BYTES_OF_SUMS = 4 << 20
_PIECE_BYTES = 16 << 20
_AT_ONCE = 8
"""Pieces that are asked for side by side: one connection to object storage gives a part of what a node can take."""
_TELL_EVERY_S = 30.0


def silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Sum:
    sha256: str
    size_bytes: int


class Mirrored:
    """One repository at one commit. `where` is its place in the job file, for messages.

    Methods raise StorageError where the mirror cannot be read, JobError for what is wrong in it, and PlaceError where
    this machine cannot keep it.
    """

    def __init__(self, mirror: str, hub_id: str, commit: str, cache: Path, where: str, told: Told = silent) -> None:
        self._name, self._where, self._told = f"{hub_id} at {commit[:12]}", where, told
        mirror = absolute_url(mirror).rstrip("/")
        self._url = f"{mirror}/{hub_id}/{commit}"
        self._cache = cache
        self.root = cache / digest([mirror, hub_id, commit])[:32]

    def look(self) -> ModelFolder:
        """All that the mirror has, with only settings here: JSON; and its card, for the licence, if that is whole."""
        sums = self._sums()
        self.fetch([name for name in sums if name.endswith(".json")])
        with suppress(JobError, StorageError):
            self.fetch([CARD])
        return ModelFolder(self.root, {name: each.size_bytes for name, each in sums.items()})

    def fetch(self, patterns: Iterable[str]) -> Path:
        """The folder with all files that these name; what is missing is fetched by one process of this machine."""
        sums = self._sums()
        patterns = list(patterns)
        wanted = sorted(name for name in sums if any(_fits(name, pattern) for pattern in patterns))
        if self._missing(wanted):
            with one_at_a_time(self._cache, self.root.name), _kept_in(self._cache):
                missing = self._missing(wanted)
                self._fetch({name: sums[name] for name in missing})
        return self.root

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not (self.root / name).is_file()]

    def _fetch(self, sums: Mapping[str, Sum]) -> None:
        total = sum(each.size_bytes for each in sums.values())
        progress = _Progress(self._told, f"{self._name} from {self._url}", total)
        store = Store(self._url, on_wait=self._told)
        for name, expected in sums.items():
            self._fetch_file(store, name, expected, progress)
        rmtree(self.root.with_suffix(".part"), ignore_errors=True)
        progress.end()

    def _fetch_file(self, store: Store, name: str, expected: Sum, progress: _Progress) -> None:
        """A part that an earlier process left is gone on with; where its sum is wrong all is fetched once more."""
        part = self.root.with_suffix(".part") / name
        resumed = part.is_file()
        found = self._into(store, name, part, expected, progress)
        if found != expected.sha256 and resumed:
            part.unlink()
            found = self._into(store, name, part, expected, progress)
        if found != expected.sha256:
            part.unlink()
            self._note.unlink(missing_ok=True)
            got = f"{found[:12]}… for {name}"
            hint = f"Put the file there again, or mend {SUMS}; nothing of it was used"
            raise JobError(Problem(self._where, f"the SHA-256 that {self._url}/{SUMS} says", got, hint))
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        part.replace(final)

    def _into(self, store: Store, name: str, part: Path, expected: Sum, progress: _Progress) -> str:
        """The SHA-256 of what lies at `part` then."""
        sha, size = hashlib.sha256(), expected.size_bytes
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            file.truncate(min(file.tell(), size))
            for block in read_blocks(part):
                sha.update(block)
            at = part.stat().st_size
            progress.add(at)
            starts = range(at, size, _PIECE_BYTES)
            for first in range(0, len(starts), _AT_ONCE):
                ends = [(start, min(start + _PIECE_BYTES, size)) for start in starts[first : first + _AT_ONCE]]
                for data in store.map(lambda each: store.read_range(name, *each), ends):
                    sha.update(data)
                    file.write(data)
                    progress.add(len(data))
                file.flush()
                reached(f"after pieces of {name}")
            os.fsync(file.fileno())
        return sha.hexdigest()

    @property
    def _note(self) -> Path:
        return self.root.with_suffix(".json")

    def _sums(self) -> dict[str, Sum]:
        """Remembered here, so that a node asks the mirror once and a start needs none."""
        with suppress(OSError, ValueError, TypeError):
            return {name: Sum(*each) for name, each in read_json(self._note).items()}
        sums = self._read_sums()
        text = json.dumps({name: [each.sha256, each.size_bytes] for name, each in sums.items()})
        with _kept_in(self._cache):
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = self._note.with_suffix(f".{os.getpid()}")
            temporary.write_text(text)
            temporary.replace(self._note)
        return sums

    def _read_sums(self) -> dict[str, Sum]:
        store = Store(self._url, on_wait=self._told)
        try:
            data = store.read_if_exists(SUMS, _MOST_BYTES_OF_SUMS)
        except ValueError as error:
            raise JobError(Problem(self._where, f"checksums in {self._url}/{SUMS}", str(error))) from None
        if data is None:
            hint = "infra/README.md says how a mirror is made"
            raise JobError(Problem(self._where, f"{self._name} in the mirror", f"no {self._url}/{SUMS}", hint))
        listed = self._parse(data.decode("utf-8", "replace"))
        there = {entry.name: entry for entry in store.find()}
        return {name: Sum(sha, self._size(name, there.get(name))) for name, sha in listed.items()}

    def _size(self, name: str, entry: Entry | None) -> int:
        if entry is None:
            raise JobError(Problem(self._where, f"all files that {self._url}/{SUMS} names", f"no {name}"))
        return entry.size_bytes

    def _parse(self, text: str) -> dict[str, str]:
        found = {}
        for number, line in enumerate(text.splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None or not _is_plain(match[2]):
                place, expected = (
                    f"{self._url}/{SUMS}, line {number}",
                    "a SHA-256 and a file's name, as sha256sum writes",
                )
                raise JobError(Problem(self._where, f"{expected} in {place}", repr(line[:200])))
            if not _is_hidden(match[2]):
                found[match[2]] = match[1]
        return found


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)


def _is_plain(name: str) -> bool:
    """Whether it can only be a file below the folder."""
    return "\\" not in name and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Raises PlaceError for an error of the disk: another node may have room."""
    try:
        yield
    except OSError as error:
        text = f"cannot keep models in {folder}: {error.strerror or error}. HF_HOME names another place"
        raise PlaceError(text) from error


class _Progress:
    def __init__(self, told: Told, what: str, total: int) -> None:
        self._told, self._what, self._total = told, what, total
        self._done, self._began = 0, time.monotonic()
        self._spoke = self._began
        told(f"fetching {what}: {_gib(total)}")

    def add(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._spoke >= _TELL_EVERY_S:
            self._spoke = time.monotonic()
            self._told(f"fetching {self._what}: {_gib(self._done)} of {_gib(self._total)}")

    def end(self) -> None:
        self._told(f"fetched {self._what}: {_gib(self._total)} in {time.monotonic() - self._began:.0f} s")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
