"""What a file holds, as one hash over every byte; of large files remembered, so that they are read once a machine.

Hashed with XXH3, 128 bits: 7 GB/s on one core from memory (SHA-256 there: 1.5), so that the disk sets the pace. It
tells changes apart, and proves nothing against somebody who builds collisions on purpose.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

PIECE_BYTES = 64 << 20
"""Larger files are hashed in pieces of this, several at once (a disk or file server gives one reader a part of its
speed), and what is found is remembered."""

_READ_BYTES = 1 << 20
_READERS = 4
_SETTLED_NS = 2 * 10**9
"""A file that was changed less than this before it was read may change again within one tick of its file system's
clock, and its times would not tell."""


@dataclass(frozen=True)
class Stamp:
    """What the file system says of a file's content; the same twice, and nothing was written in between.

    `ctime_ns` changes with everything that is done to a file, and no program can set it back as it can `mtime_ns`.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def settled(self) -> bool:
        return time.time_ns() - self.ctime_ns > _SETTLED_NS


class ChangedMeanwhileError(Exception):
    """The file was written while it was read."""


def stamp(path: Path) -> Stamp:
    """Of what a link leads to. Raises OSError."""
    found = path.stat()
    return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def file_digest(path: Path) -> str:
    """32 hex digits. Raises OSError, and ChangedMeanwhileError where somebody writes there."""
    before = stamp(path)
    settled = before.settled
    known = _remembered(path, before)
    if known is not None:
        return known
    found = digest_of(lambda: path.open("rb", buffering=0), before.size_bytes)
    if stamp(path) != before:
        raise ChangedMeanwhileError(f"{path} was written while it was read")
    if settled and before.size_bytes > PIECE_BYTES:
        _remember(path, before, found)
    return found


def digest_of(open_file: Callable[[], BinaryIO], size_bytes: int) -> str:
    """As `file_digest`, for what `open_file` opens anew for each piece that is read."""
    if size_bytes <= PIECE_BYTES:
        return _piece(open_file, 0, size_bytes).hexdigest()
    with ThreadPoolExecutor(_READERS) as pool:
        starts = range(0, size_bytes, PIECE_BYTES)
        pieces = list(pool.map(lambda start: _digest_of_piece(open_file, start, size_bytes), starts))
    return xxhash.xxh3_128(b"".join(pieces)).hexdigest()


def _digest_of_piece(open_file: Callable[[], BinaryIO], start: int, size_bytes: int) -> bytes:
    whole = start + PIECE_BYTES <= size_bytes
    return _zeros() if whole and _is_hole(open_file, start) else _piece(open_file, start, PIECE_BYTES).digest()


@functools.cache
def _zeros() -> bytes:
    return xxhash.xxh3_128(bytes(PIECE_BYTES)).digest()


def _is_hole(open_file: Callable[[], BinaryIO], start: int) -> bool:
    """Whether the disk holds nothing of a piece: 4 TB of holes would take ten minutes to read as zeros."""
    with open_file() as file:
        try:
            return os.lseek(file.fileno(), start, os.SEEK_DATA) >= start + PIECE_BYTES
        except OSError as error:  # no data from here on; or no file of this machine
            return error.errno == errno.ENXIO


def read_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            yield block


def _piece(open_file: Callable[[], BinaryIO], start: int, size_bytes: int) -> xxhash.xxh3_128:
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_READ_BYTES, size_bytes)))
    with open_file() as file:
        file.seek(start)
        while size_bytes and (count := file.readinto(buffer[: min(len(buffer), size_bytes)])):  # type: ignore[attr-defined]
            digest.update(buffer[:count])
            size_bytes -= count
    return digest


def _remembered(path: Path, now: Stamp) -> str | None:
    """None for what is not known, or is not as it was then."""
    if now.size_bytes <= PIECE_BYTES:
        return None
    try:
        content = json.loads(_note(path).read_bytes())
        known = content.pop("digest")
        return known if content == _key(path, now) and re.fullmatch("[0-9a-f]{32}", known) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, RecursionError):
        return None


def _remember(path: Path, now: Stamp, digest: str) -> None:
    """A home that is not there or cannot be written costs only that the file is read again."""
    with contextlib.suppress(OSError, RuntimeError):
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = note.with_suffix(f".{uuid.uuid4().hex}")
        temporary.write_text(json.dumps({**_key(path, now), "digest": digest}))
        temporary.replace(note)


def _key(path: Path, now: Stamp) -> dict[str, object]:
    return {"path": str(path.resolve()), **asdict(now)}


def _note(path: Path) -> Path:
    """One a path, so that their number is bounded by that of the large files here."""
    return notes_folder() / f"{xxhash.xxh3_64_hexdigest(os.fsencode(path.resolve()))}.json"


def notes_folder() -> Path:
    """Where processes of one user leave one another what they found. Raises RuntimeError without a home."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home, "promptmill", "digests").expanduser()
