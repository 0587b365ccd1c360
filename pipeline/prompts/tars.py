"""WebDataset tars as tables: a row for each key, its texts in columns, and of its images where they lie in the tar.

A tar is read through once, a member at a time, and nothing of it is unpacked: what a cell of an image holds is the
member's place and hash, by which a worker reads those bytes alone and knows them again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import xxhash

from promptmill.pipeline.display import first_line, shown
from promptmill.pipeline.prompts.formats import file_suffix, table_of
from promptmill.pipeline.prompts.image_columns import caption_among
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.json_rows import Repeats
from promptmill.pipeline.prompts.members import Member
from promptmill.pipeline.prompts.pixels import MAX_BYTES
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.prompts import Prompts

_TAR: Final = ".tar"
KEY: Final = "__key__"
_TEXTS: Final = ("txt", "text", "caption", "cls")
_JSON: Final = "json"
_MOST_TEXT: Final = 1 << 20
_MOST_NAME: Final = 1024
_STEP: Final = 1 << 20
_AHEAD: Final = 4 << 20
"""Read at once: of a remote tar each read is a request, and a sample of a few kB would be four of them."""


@dataclass
class _Rows:
    """`left_out` counts members that are no text, JSON or image, by their ending."""

    by_key: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    repeats: Repeats = field(default_factory=Repeats)


class _Bounded:
    """A stream whose single reads are small: what a header says of its own size is not to be believed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_TEXT:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()


def is_tar(name: str) -> bool:
    """Also of one that is packed, which is refused."""
    return file_suffix(name) == _TAR


def read_tar(store: Store, name: str, shown_name: str, prompts: Prompts) -> tuple[pa.Table, list[str], str]:
    """The rows, what is to be said of them, and a hash of all that they hold. Raises InputError naming the member."""
    where = f"prompts.source: {shown_name}"
    if not shown_name.lower().endswith(_TAR):
        raise InputError(
            Problem(where, "a tar that is not packed", "one that is", "Single images are read from it: unpack it")
        )
    entry = store.entry(name)
    size = 0 if entry is None else entry.size_bytes
    rows = _Rows()
    try:
        with store.open(name) as inner, io.BufferedReader(cast("Any", inner), _AHEAD) as stream:
            for member in _members(stream, where):
                _take(rows, member, stream, size, where)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        hint = "Pack it again without compression: the copy may be cut short"
        raise InputError(Problem(where, "a whole tar", first_line(error), hint)) from None
    if not rows.by_key:
        raise InputError(Problem(where, "samples, such as 0001.jpg and 0001.txt", "none"))
    table, notices = _table(rows.by_key, where)
    taken = dict(_renamed(table.column_names, prompts))
    table = table.rename_columns([taken.get(column, column) for column in table.column_names])
    notices += rows.repeats.notices(where)
    notices += [f"{where}: {count:,} files that end in {ending} left out" for ending, count in rows.left_out.items()]
    return table, notices, hashlib.sha256(json.dumps(rows.by_key).encode()).hexdigest()[:32]


def _members(stream: BinaryIO, where: str) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=cast("Any", _Bounded(stream)), mode="r:") as tar:
        while (member := tar.next()) is not None:
            cast("Any", tar).members = []  # else it keeps them all
            if member.isdir():
                continue
            _refuse_strange(member, where)
            yield member


def _refuse_strange(member: tarfile.TarInfo, where: str) -> None:
    told = shown(member.name[:200])
    expected = got = None
    if not member.isreg() or member.issparse():
        expected, got = "files alone", "a link, a device or a file with holes"
    elif member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        expected, got = "names below the tar's own folder", "one that leads out of it"
    elif len(member.name) > _MOST_NAME or not member.name.isprintable():
        expected, got = f"names of at most {_MOST_NAME:,} printable characters", "another"
    elif member.size > (MAX_BYTES if is_image(member.name) else _MOST_TEXT) and _kind(member.name):
        expected, got = "an image of at most 256 MiB, or a text of 1 MiB", f"{member.size:,} bytes"
    if expected is not None:
        raise InputError(Problem(f"{where}: {told}", expected, f"{got}"))


def _kind(name: str) -> str | None:
    """The column of a member, by the part of its name behind the first dot; None for what is not read."""
    ending = name.rpartition("/")[2].partition(".")[2].lower()
    if is_image(f".{ending}"):
        return ending.rpartition(".")[0] or "image"
    return ending if ending in (*_TEXTS, _JSON) else None


def _take(rows: _Rows, member: tarfile.TarInfo, stream: BinaryIO, size: int, where: str) -> None:
    folder, _, base = member.name.rpartition("/")
    key, _, ending = base.partition(".")
    if not key or base.startswith("."):
        return
    column = _kind(member.name)
    if column is None:
        rows.left_out[ending] = rows.left_out.get(ending, 0) + 1
        return
    if member.offset_data + member.size > size:
        raise tarfile.ReadError(f"{shown(member.name)}: {member.size:,} bytes, of which the end is missing")
    place = f"{where}: {shown(member.name)}"
    row = rows.by_key.setdefault(f"{folder}/{key}".lstrip("/"), {})
    values = _values(column, member, stream, place, rows.repeats)
    if twice := next((name for name in values if name in row), None):
        raise InputError(Problem(place, f"one {twice} for each key", "a second"))
    row |= values


def _values(column: str, member: tarfile.TarInfo, stream: BinaryIO, place: str, repeats: Repeats) -> dict[str, Any]:
    repeats.place = f" in {shown(member.name)}"
    stream.seek(member.offset_data)
    if is_image(member.name):
        return {column: Member(member.offset_data, member.size, _hash(stream, member.size), member.name).cell}
    try:
        text = stream.read(member.size).decode("utf-8").removesuffix("\n")
        found = json.loads(text, object_pairs_hook=repeats) if column == _JSON else text
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(place, "UTF-8 text" if column != _JSON else "JSON", first_line(error))) from None
    if column != _JSON:
        return {column: text}
    if not isinstance(found, dict):
        raise InputError(Problem(place, "one JSON object", type(found).__name__))
    return {_JSON: found}


def _hash(stream: BinaryIO, size: int) -> str:
    found = xxhash.xxh3_128()
    while size and (block := stream.read(min(size, _STEP))):
        found.update(block)
        size -= len(block)
    return found.hexdigest()


def _table(by_key: Mapping[str, Mapping[str, Any]], where: str) -> tuple[pa.Table, list[str]]:
    """Fields of a sample's JSON stand beside its other members, behind `json_` where these have the name."""
    own = {name for row in by_key.values() for name in row if name != _JSON} | {KEY}
    rows = [
        {KEY: key}
        | {f"json_{name}" if name in own else name: value for name, value in row.get(_JSON, {}).items()}
        | {name: value for name, value in row.items() if name != _JSON}
        for key, row in by_key.items()
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return table_of(names, [[row.get(name) for name in names] for row in rows], where)
    except UnicodeEncodeError as error:
        got = f"{json.dumps(error.object)}, half a character"
        raise InputError(Problem(where, "JSON with names in valid Unicode", got)) from None


def _renamed(names: list[str], prompts: Prompts) -> Iterator[tuple[str, str]]:
    """What WebDataset calls by its ending, under the names that the job maps."""
    columns = prompts.columns
    for mapped in columns.images.values():
        if mapped not in names and "image" in names and all(is_image(f".{each}") for each in mapped.split(";")):
            yield "image", mapped
    if caption := caption_among(names, prompts, ("caption", "text", "txt")):
        yield caption, columns.prompt
