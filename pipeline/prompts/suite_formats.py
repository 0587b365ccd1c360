"""The published forms of prompt suites, one reader each: rows with their line, and what is odd about the others.

DrawBench and PartiPrompts are tables with a header, GenEval is JSON lines, T2I-CompBench files have a prompt a line,
and a file of DPG-Bench is one prompt.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal

Row = dict[str, Any]
_DPG_LINES: Final = 10  # its prompts are a paragraph; a file with more lines is a list of prompts


@dataclass(frozen=True)
class Odd:
    """A line that does not belong into the suite."""

    expected: str
    got: str


Lines = Iterator[tuple[int, Row | Odd]]
"""With line numbers from 1."""


def partiprompts(text: str, file: str) -> Lines:
    return _table(text, "\t", {name: name for name in ("prompt", "category", "challenge", "note")})


def drawbench(text: str, file: str) -> Lines:
    return _table(text, ",", {"prompts": "prompt", "category": "category"})


def _table(text: str, separator: str, names: Mapping[str, str]) -> Lines:
    """`names` are the columns that must be there, in lower case, and what they become."""
    lines = io.StringIO(text, newline="")
    # As everywhere here, a quotation mark in a TSV is text.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not set(names) <= set(header) or len(set(header)) < len(header):
            separated = "tabs" if separator == "\t" else "commas"
            yield (
                1,
                Odd(f"the column names {', '.join(names)}, with {separated} between", _short(text.split("\n", 1)[0])),
            )
            return
        for fields in reader:
            if fields:
                yield reader.line_num, _table_row(fields, header, names)
    except csv.Error as error:
        yield reader.line_num, Odd("a line of comma-separated values", str(error))


def _table_row(fields: list[str], header: list[str], names: Mapping[str, str]) -> Row | Odd:
    if len(fields) != len(header):
        return Odd(f"{len(header)} fields, as many as column names", f"{len(fields)}: {_short(fields[0])}")
    row = {names.get(name, name): field or None for name, field in zip(header, fields, strict=True) if name}
    return row if (row["prompt"] or "").strip() else Odd("a prompt", "an empty field")


def geneval(text: str, file: str) -> Lines:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _geneval_row(line)


def _geneval_row(line: str) -> Row | Odd:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Odd("one JSON object", _short(str(error)))
    if not isinstance(row, dict):
        return Odd("one JSON object", type(row).__name__)
    for name in ("prompt", "tag"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            return Odd(f"a text `{name}`", _short(json.dumps(row.get(name))))
    objects = row.get("include")
    if not isinstance(objects, list) or not all(_is_counted(each) for each in objects):
        return Odd("`include`, a list of objects with `class` and `count`", _short(json.dumps(objects)))
    return {**row, "category": row["tag"]}


def _is_counted(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class"), str) and isinstance(value.get("count"), int)


def t2i_compbench(text: str, file: str) -> Lines:
    """The category is the file's name: `color_val` for `color_val.txt`."""
    category = PurePosixPath(file).stem
    for number, line in enumerate(text.rstrip().split("\n"), 1):
        if not line.strip():
            yield number, Odd("a prompt", "an empty line")
        elif "\t" in line or line.startswith(("{", "[")):
            yield number, Odd("one prompt a line, as plain text", _short(line))
        else:
            yield number, {"prompt": line.strip(), "category": category}


def dpg(text: str, file: str) -> Lines:
    """The id is the file's name without `.txt`: by it the suite's questions are found."""
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        yield 1, Odd("one prompt", "an empty file")
    elif len(lines) > _DPG_LINES:
        yield lines[_DPG_LINES], Odd("the end: a file holds one prompt", f"{len(lines)} lines of text")
    else:
        yield 1, {"id": PurePosixPath(file).stem, "prompt": text.strip()}


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
