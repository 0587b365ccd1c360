"""The text of a job file: found, small enough, and UTF-8; else a JobError that says what to do."""

from __future__ import annotations

import codecs
import difflib
import sys
from pathlib import Path
from typing import Final

from promptmill.pipeline.jobfile.document import printable
from promptmill.schemas.errors import JobError, Problem

MAX_BYTES: Final = 1 << 20


def read_text(path: str | Path, name: str) -> str:
    """Of a file, or of standard input for "-"; `name` is what errors call it. Raises JobError."""
    return decode(_read(path, name), name)


def decode(raw: bytes, name: str) -> str:
    """UTF-8, with or without a byte order mark. Raises JobError for every other encoding and for binary data."""
    # Without a mark, Latin letters in UTF-16 and UTF-32 still show as NUL bytes in at least every third place.
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or raw.count(b"\0") * 3 > len(raw) > 3:
        raise JobError(Problem(name, "UTF-8 text", "UTF-16 or UTF-32", "Save the file as UTF-8 and try again."))
    if len(raw) > MAX_BYTES:
        hint = "Prompts belong into a file of their own, which `prompts.source` names."
        raise JobError(Problem(name, "a job file of at most 1 MiB", "a larger file", hint))
    if b"\0" in raw:
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        raise JobError(Problem(f"{name}:{line}", "a YAML text file", "a binary file (it contains NUL bytes)"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        hint = "Save the file as UTF-8 and try again."
        raise JobError(Problem(f"{name}:{line}", "UTF-8 text", f"the byte 0x{raw[error.start]:02x}", hint)) from None


def _read(path: str | Path, name: str) -> bytes:
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with open(path, "rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise JobError(Problem(name, "a job file", "no such file", _file_hint(Path(path)))) from None
    except IsADirectoryError:
        found = sorted(each.name for each in Path(path).glob("*.y*ml"))[:10]
        hint = "Job files in it: " + ", ".join(map(printable, found)) if found else "Name the file in it."
        raise JobError(Problem(name, "a job file", "a folder", hint)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise JobError(Problem(name, "a job file that can be read", reason.lower())) from None


def _file_hint(path: Path) -> str:
    try:
        there = [each.name for each in path.parent.iterdir() if each.suffix in (".yaml", ".yml")]
    except OSError:
        return "The folder does not exist either."
    near = difflib.get_close_matches(path.name, there, 1)
    return f"Did you mean {printable(str(path.parent / near[0]), 200)}?" if near else "`promptmill init` writes one."
