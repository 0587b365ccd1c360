"""A prompt file held against the plan: what is read is what was planned, or the run stops and says what changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from promptmill.pipeline.storage.digests import ChangedMeanwhileError, Stamp, file_digest, stamp
from promptmill.pipeline.storage.digests import digest_of as digest_of_pieces
from promptmill.pipeline.storage.remote import ObjectChangedError
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import STAGED, SourceFile

State = Stamp | str | None
"""Tells two contents of one path apart without reading them: on disk a stamp, elsewhere what the store says."""

_HINT = (
    "What was made stays. Put the file back as it was and run again; new prompts want a file of their own, which "
    "`promptmill run --extend` adds, or a new output.url"
)


class HeldFiles:
    """Opens the files of a plan for one reader, which several threads may use.

    A file is hashed when it is opened first, and again when it was touched since: a small one on disk once a reader,
    one of more than 64 MiB once a machine. Of a remote object the etag counts, a condition of each read from S3.
    """

    def __init__(self, output: Store) -> None:
        self._output = output
        self._seen: dict[str, State] = {}

    @contextmanager
    def open(self, file: SourceFile) -> Iterator[BinaryIO]:
        """Raises InputError where the file is not, or is not any more, the one of the plan."""
        store, key = _place(file, self._output)
        before = _state(file, store, key)
        if self._seen.get(file.path) != before:
            _check(file, store, key, before)
        try:
            with store.open(key, before if isinstance(before, str) else None) as stream:
                yield stream
        except ObjectChangedError:
            raise changed(file) from None
        except (InputError, OSError, pa.ArrowException):
            if _state(file, store, key) != before:
                raise changed(file) from None
            raise
        if _state(file, store, key) != before:
            raise changed(file)
        self._seen[file.path] = before


def is_planned(file: SourceFile, path: Path) -> bool:
    """Whether a file on disk is the one that was planned, as far as the plan can tell."""
    try:
        if path.stat().st_size != file.size_bytes:
            return False
        return file.digest is None or file_digest(path) == file.digest
    except (OSError, ChangedMeanwhileError):
        return False


def held_copy(file: SourceFile, output: Store) -> SourceFile | None:
    """A staged file with the hash of its copy; None where that is gone, or is known to be another."""
    try:
        store, key = _place(file, output)
        now = _state(file, store, key)
        _check(file, store, key, now)
    except InputError:
        return None
    return file if file.digest is not None else replace(file, digest=_digest(file, store, key, now))


@contextmanager
def unchanged(name: str) -> Iterator[None]:
    """Raises InputError where a file is written while it is read to plan."""
    try:
        yield
    except (ChangedMeanwhileError, ObjectChangedError):
        hint = "Something writes there. Run again when it has ended"
        raise InputError(
            Problem(f"prompts.source: {name}", "a file that stays as it is", "one that changed while it was read", hint)
        ) from None


def changed(file: SourceFile, got: str = "other content") -> InputError:
    return InputError(Problem(f"prompts.source: {file.name}", "the file as it was planned", got, _HINT))


def _place(file: SourceFile, output: Store) -> tuple[Store, str]:
    """Staged copies are below the output, others are read with the credentials of the process."""
    if file.path.startswith(STAGED):
        return output, file.path.removeprefix(STAGED)
    folder, _, name = file.path.rpartition("/")
    return Store(folder or "/"), name


def _state(file: SourceFile, store: Store, key: str) -> State:
    path = store.local_path(key)
    if path is not None:
        try:
            return stamp(path)
        except FileNotFoundError:
            raise changed(file, f"nothing at {path}") from None
    entry = store.entry(key)
    if entry is None:
        raise changed(file, "nothing there")
    return entry.version


def _check(file: SourceFile, store: Store, key: str, now: State) -> None:
    if file.version is not None and now == file.version:
        return
    if file.digest is not None:
        if _digest(file, store, key, now) != file.digest:
            raise changed(file)
    elif file.version is not None and now is not None:
        raise changed(file)


def _digest(file: SourceFile, store: Store, key: str, now: State) -> str:
    try:
        path = store.local_path(key)
        if path is not None:
            return file_digest(path)
        entry = store.entry(key)
        version = now if isinstance(now, str) else None
        return digest_of_pieces(lambda: store.open(key, version), entry.size_bytes if entry else 0)
    except (ChangedMeanwhileError, ObjectChangedError):
        raise changed(file) from None
